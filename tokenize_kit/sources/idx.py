"""IDX files, the format of MNIST, Fashion-MNIST and EMNIST: a header, then pictures of one size, one after another.

    0 0 type dimensions | one big-endian uint32 for each dimension | the values, the last dimension fastest

Pictures have three dimensions (pictures, height, width), or four with the colours last (or second, if only that one can
be a number of channels). The labels are a file of one dimension, found beside the pictures by its name.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.opening import COMPRESSIONS, filesystem_of, open_source, read_exactly

MAX_PICTURE_BYTES = 1 << 26
"""A picture of more bytes is refused before anything is read: in this format it is a damaged header."""

_UNSIGNED_BYTE = 0x08
_CHANNELS = (1, 3, 4)
_NAME = re.compile(r"(images)([-.])idx[34](-ubyte)$", re.IGNORECASE)


@dataclass(frozen=True)
class IdxHeader:
    """What an IDX file of pictures says of itself."""

    count: int
    """How many pictures it has."""
    shape: tuple[int, ...]
    """(H, W), (H, W, C) or (C, H, W) of one picture as it lies in the file."""
    channels_last: bool
    """Whether the shape is (H, W, C)."""

    @property
    def length(self) -> int:
        """Bytes before the first picture."""
        return 4 + 4 * (1 + len(self.shape))

    @property
    def picture_bytes(self) -> int:
        """Bytes of one picture."""
        return int(np.prod(self.shape, dtype=np.int64))

    def picture(self, data: bytes) -> NDArray[np.uint8]:
        """Return the bytes of one picture as a uint8 array ``(C, H, W)``."""
        values = np.frombuffer(data, np.uint8).reshape(self.shape)
        if len(self.shape) == 2:
            return values[None]
        return values.transpose(2, 0, 1) if self.channels_last else values


def read_header(file: IO[bytes]) -> IdxHeader:
    """Read the header of a file of pictures; the file is left at its first picture.

    Raises:
        ValueError: it is not an IDX file of 8-bit pictures, or its header is absurd.
    """
    sizes = _read_sizes(file, (3, 4), "pictures")
    count, shape = sizes[0], sizes[1:]
    if 0 in shape:
        raise ValueError(f"its header says that a picture has the shape {shape}, which has no pixels")
    size = int(np.prod(np.array(shape, object)))
    if size > MAX_PICTURE_BYTES:
        raise ValueError(f"its header says that a picture has {size:,} bytes, the limit is {MAX_PICTURE_BYTES:,}")
    if len(shape) == 3 and shape[2] not in _CHANNELS and shape[0] not in _CHANNELS:
        raise ValueError(f"pictures of shape {shape} have no axis of 1, 3 or 4 channels, neither first nor last")
    return IdxHeader(count, shape, len(shape) == 3 and shape[2] in _CHANNELS)


def read_pictures(
    file: IO[bytes], header: IdxHeader, start: int = 0, stop: int | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures ``start`` to ``stop`` (None: to the end), uint8 ``(C, H, W)``.

    Args:
        file: at its first picture; it must be seekable if ``start`` is not 0.
        header: what `read_header` returned.
        start: the first picture.
        stop: the one after the last.

    Raises:
        ValueError: the file ends too early, or goes on after the last picture.
    """
    if start:
        file.seek(header.length + start * header.picture_bytes)
    for row in range(start, header.count if stop is None else min(stop, header.count)):
        data = read_exactly(file, header.picture_bytes)
        if len(data) < header.picture_bytes:
            raise ValueError(f"it ends in picture {row:,} of the {header.count:,} that its header says")
        yield header.picture(data)
    if stop is None and file.read(1):
        raise ValueError(f"it goes on after the {header.count:,} pictures that its header says")


def labels_url(url: str) -> str | None:
    """Return where the labels of a file of pictures are: beside it, ``images-idx3`` replaced by ``labels-idx1``.

    The labels may be compressed otherwise than the pictures. None if there is no such file.
    """
    bare = next((url.removesuffix(suffix) for suffix in COMPRESSIONS if url.endswith(suffix)), url)
    name, replaced = _NAME.subn(r"labels\2idx1\3", bare)
    if not replaced:
        return None
    endings = dict.fromkeys([url[len(bare) :], "", *COMPRESSIONS])
    return next((name + ending for ending in endings if _exists(name + ending)), None)


def read_labels(url: str, pictures: int) -> NDArray[np.uint8]:
    """Read the labels of so many pictures, uint8 ``(N,)``.

    Raises:
        ValueError: it is not an IDX file of 8-bit labels, has more or fewer of them, is cut short or goes on behind them.
    """
    compression = next((kind for suffix, kind in COMPRESSIONS.items() if url.endswith(suffix)), "")
    with open_source(url, compression) as file:
        (count,) = _read_sizes(file, (1,), "labels")
        # Before any is read, so that no header can ask for memory.
        if count != pictures:
            raise ValueError(f"it has {count:,} labels for {pictures:,} pictures")
        data = bytearray()
        while len(data) < count and (part := file.read(min(count - len(data), 1 << 20))):
            data += part
        if len(data) < count:
            raise ValueError(f"it ends after {len(data):,} of {count:,} labels")
        if file.read(1):
            raise ValueError(f"it goes on after the {count:,} labels that its header says")
    return np.frombuffer(data, np.uint8)


def _read_sizes(file: IO[bytes], dimensions: tuple[int, ...], what: str) -> tuple[int, ...]:
    start = read_exactly(file, 4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise ValueError(f"it is no IDX file: it begins with {start.hex(' ') or 'nothing'}, not with two zero bytes")
    if start[2] != _UNSIGNED_BYTE:
        raise ValueError(f"its values are of IDX type 0x{start[2]:02x}, expected unsigned bytes (0x08)")
    if start[3] not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise ValueError(f"it has {start[3]} dimensions, {what} have {wanted}")
    sizes = read_exactly(file, 4 * start[3])
    if len(sizes) < 4 * start[3]:
        raise ValueError("it ends inside its header")
    return struct.unpack(f">{start[3]}I", sizes)


def _exists(url: str) -> bool:
    if "://" not in url:
        return Path(url).is_file()
    filesystem, path = filesystem_of(url)
    return bool(filesystem.isfile(path))
