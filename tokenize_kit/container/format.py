"""The bytes of a ``.tkc`` file, written and read with every check; see the package for their layout."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.container.bits import MAX_WIDTH, HeaderReader, bit_width, pack_ids, unpack_ids, varint
from tokenize_kit.errors import VerificationError
from tokenize_kit.files import atomic_write
from tokenize_kit.protocol import TokenSpec

MAGIC = b"\x89TKC\r\n\x1a\n"
"""As in PNG: no text, and changed by whatever changes line ends."""

VERSION = 1
TIMED_VERSION = 2
"""That of files with a frame rate; all others stay as they were."""
CODED_VERSION = 3
"""That of files whose ids a model coded."""
_NUMBERED = ("text", "image", "video", "audio")
"""Modalities that a header names by their place here; others are spelled out."""
_CHECKSUM_BYTES = 16
_MAX_AXES = 8
_MAX_CODEBOOKS = 1 << 12
_MAX_NAME = 255
_MOST_PARTS = 1_000_000
"""The largest denominator of a frame rate."""
_FREE_IDS = 1 << 24
"""So many ids may take no bits at all, because there is only one that they can be."""
_FREE_CODED_IDS = 1 << 20
"""So many ids may be coded in any number of bytes, and in each byte so many more:"""
_CODED_IDS_A_BYTE = 1 << 13


@dataclass(frozen=True)
class PackedSample:
    """What a file holds."""

    fingerprint: str
    """Of the tokenizer that made the ids."""
    modality: str
    """What the sample is."""
    sample_rate: int | None
    """Samples a second of a sound."""
    channels: int | None
    """Channels of a picture or sound."""
    size: tuple[int, ...]
    """True size of the sample without its channels, see `Modality.size`."""
    widths: tuple[int, ...]
    """Bits of an id of each codebook, 0 to 32; a single entry without codebooks."""
    ids: NDArray[np.integer[Any]]
    """The grid."""
    frame_rate: float | None = None
    """Frames a second of a video."""


@dataclass(frozen=True)
class CodedSample:
    """What a file holds whose ids a model coded."""

    fingerprint: str
    """As in `PackedSample`, and so are the next five."""
    modality: str
    sample_rate: int | None
    channels: int | None
    size: tuple[int, ...]
    widths: tuple[int, ...]
    shape: tuple[int, ...]
    """Shape of the grid."""
    code: bytes
    """What the model's coder made of the ids."""
    frame_rate: float | None = None
    """Frames a second of a video."""

    def packed(self, ids: NDArray[np.integer[Any]]) -> PackedSample:
        """Return the same with its ids."""
        head = (self.fingerprint, self.modality, self.sample_rate, self.channels, self.size, self.widths)
        return PackedSample(*head, ids, self.frame_rate)


def widths_of(spec: TokenSpec, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the bits of an id of each codebook of a grid of ``shape``."""
    sizes = spec.codebook_sizes
    if spec.axes[-1] != "codebook":
        return (bit_width(sizes[0]),)
    return tuple(bit_width(sizes[min(number, len(sizes) - 1)]) for number in range(shape[-1]))


def write(packed: PackedSample | CodedSample, path: str | os.PathLike[str]) -> int:
    """Write a ``.tkc`` file, whole or not at all, and return its bytes.

    Raises:
        ValueError: the ids do not fit their widths, or are too many for so few bytes.
    """
    data = to_bytes(packed)
    with atomic_write(path) as file:
        file.write(data)
    return len(data)


def to_bytes(packed: PackedSample | CodedSample) -> bytes:
    """Return the bytes of a ``.tkc`` file.

    Raises:
        ValueError: the ids do not fit their widths, or are too many for so few bytes.
    """
    widths, coded = packed.widths, isinstance(packed, CodedSample)
    shape = packed.shape if isinstance(packed, CodedSample) else packed.ids.shape
    numbers = [
        *_modality_numbers(packed.modality),
        packed.sample_rate or 0,
        packed.channels or 0,
        *(len(packed.size), *packed.size),
        *(len(shape), *shape),
        *(len(widths), *widths),
    ]
    version = CODED_VERSION if coded else VERSION
    if packed.frame_rate is not None:
        version = CODED_VERSION if coded else TIMED_VERSION
        numbers += Fraction(packed.frame_rate).limit_denominator(_MOST_PARTS).as_integer_ratio()
    elif coded:
        numbers += (0, 1)
    if isinstance(packed, CodedSample):
        numbers.append(len(packed.code))
    body = bytes.fromhex(packed.fingerprint) + b"".join(map(varint, numbers))
    head = MAGIC + bytes([version]) + body
    head += struct.pack("<I", zlib.crc32(head))
    data = head + (
        packed.code if isinstance(packed, CodedSample) else pack_ids(packed.ids.reshape(-1, len(widths)), widths)
    )
    if (count := prod(shape)) > (most := _most_ids(len(data) + _CHECKSUM_BYTES, coded)):
        raise ValueError(f"a file of {len(data):,} bytes holds {most:,} ids at most, and these are {count:,}")
    return data + hashlib.sha256(data).digest()[:_CHECKSUM_BYTES]


def from_file(path: str | os.PathLike[str]) -> PackedSample | CodedSample:
    """Read a ``.tkc`` file; one that does not begin as such a file is not read any further.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError, VerificationError: as `from_bytes`.
    """
    with Path(path).open("rb") as file:
        data = file.read(len(MAGIC))
        if data == MAGIC:
            data += file.read()
    return from_bytes(data, str(path))


def from_bytes(data: bytes, name: str = "the file") -> PackedSample | CodedSample:
    """Read the bytes of a ``.tkc`` file; ``name`` is how errors call it.

    Raises:
        ValueError: they are no ``.tkc`` file, or one of a newer version.
        VerificationError: they are cut short, altered, or go on after the end.
    """
    if not data.startswith(MAGIC):
        if MAGIC.startswith(data):
            raise VerificationError(f"{name} is cut short: it has {len(data)} bytes")
        raise ValueError(f"{name} is not a .tkc file; 'tokenize-kit compress' makes them")
    if len(data) > len(MAGIC) and data[len(MAGIC)] not in (VERSION, TIMED_VERSION, CODED_VERSION):
        known = f"{VERSION}, {TIMED_VERSION} and {CODED_VERSION}"
        raise ValueError(f"{name} is of version {data[len(MAGIC)]}, this tokenize-kit reads {known}; upgrade it")
    reader = HeaderReader(data, len(MAGIC) + 1, name)
    fingerprint = reader.take(32).hex()
    modality = _modality_name(reader)
    sample_rate, channels = reader.number(), reader.number()
    size, shape, widths = reader.numbers(_MAX_AXES), reader.numbers(_MAX_AXES), reader.numbers(_MAX_CODEBOOKS)
    version = data[len(MAGIC)]
    frames, seconds = (reader.number(), reader.number()) if version != VERSION else (0, 1)
    coded = version == CODED_VERSION
    code = reader.number() if coded else 0
    end = reader.place
    (crc,) = struct.unpack("<I", reader.take(4))
    rows, odd = divmod(prod(shape), len(widths)) if widths else (0, 1)
    if (
        crc != zlib.crc32(data[:end])
        or not modality
        or odd
        or not shape
        or max(widths) > MAX_WIDTH
        or not seconds
        or (version == TIMED_VERSION and not frames)
        or (len(widths) > 1 and shape[-1] != len(widths))
        # Axes of no length must not hide others that no file could hold.
        or prod(max(1, length) for length in shape) > _most_ids(len(data), coded)
    ):
        raise VerificationError(f"{name} is damaged: its header was altered")
    length = reader.place + (code if coded else -(-rows * sum(widths) // 8)) + _CHECKSUM_BYTES
    if len(data) < length:
        raise VerificationError(f"{name} is cut short: it has {len(data):,} of {length:,} bytes")
    if len(data) > length:
        raise VerificationError(f"{name} is damaged: {len(data) - length:,} bytes follow after its end")
    content, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if hashlib.sha256(content).digest()[:_CHECKSUM_BYTES] != checksum:
        raise VerificationError(f"{name} is damaged: its content was altered (the checksum differs)")
    frame_rate = frames / seconds if frames else None
    head = (fingerprint, modality, sample_rate or None, channels or None, size, widths)
    if coded:
        return CodedSample(*head, shape, content[reader.place :], frame_rate)
    return PackedSample(*head, unpack_ids(content[reader.place :], rows, widths).reshape(shape), frame_rate)


def _modality_numbers(name: str) -> list[int]:
    if name in _NUMBERED:
        return [_NUMBERED.index(name)]
    return [len(_NUMBERED), len(name.encode()), *name.encode()]


def _modality_name(reader: HeaderReader) -> str:
    """Return the modality that a header names; empty where it was altered."""
    number = reader.number()
    if number < len(_NUMBERED):
        return _NUMBERED[number]
    spelled = reader.numbers(_MAX_NAME) if number == len(_NUMBERED) else ()
    return bytes(min(letter, 255) for letter in spelled).decode(errors="ignore")


def _most_ids(size: int, coded: bool) -> int:
    """Return how many ids a file of so many bytes may say that it holds: one a bit, or a number that costs little.

    A model that is sure of what comes needs far less than a bit.
    """
    return _FREE_CODED_IDS + _CODED_IDS_A_BYTE * size if coded else max(8 * size, _FREE_IDS)
