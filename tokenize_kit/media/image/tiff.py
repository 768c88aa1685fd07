"""TIFF files: the same file with only the tags that its pixels need, and what Pillow does not do with them.

Pillow looks at every tag, and gives up on pictures whose tags of no matter are odd. Of several pages the first one is read.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIZE, _LENGTH, _COMPRESSION, _PHOTOMETRIC, _BITS = 256, 257, 259, 262, 258
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_SAMPLES, _STRIP_LENGTH, _PLANAR = 277, 278, 284
MAX_BYTES = 496 << 20
"""What a picture and one of its compressed parts, which is decoded as a whole, may take together."""
# What says how the pixels are stored, which way the picture is turned and what its colours are.
_NEEDED = frozenset(
    {254, _SIZE, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 332}
    | {_TILE_WIDTH, _TILE_LENGTH, 324, 325, 338, 339, 347, 700, *range(512, 522), 529, 530, 531, 532, 34675}
)


def bare(data: bytes) -> bytes | None:
    """Return a TIFF file whose only page has no tags but those that matter; None if there is nothing to leave out.

    The new directory is put at the end, so that all else stays where it is. A BigTIFF stays as it is.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 14:
        return None
    (start,) = struct.unpack_from(order + "L", data, 4)
    if not 8 <= start <= len(data) - 2:
        return None
    (count,) = struct.unpack_from(order + "H", data, start)
    places = range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12)
    entries = [data[place : place + 12] for place in places]
    needed = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in _NEEDED]
    if not needed or len(needed) == count:
        return None
    padded = data + bytes(len(data) % 2)
    head = padded[:4] + struct.pack(order + "L", len(padded))
    return head + padded[8:] + struct.pack(order + "H", len(needed)) + b"".join(needed) + bytes(4)


def check_tiles(picture: Image.Image, limit: int) -> None:
    """Refuse a picture, as opened, whose tiles are larger than any picture may be: each takes memory as a whole.

    The same for the strips of a compressed one, together with the picture.

    Raises:
        ValueError: as above.
    """
    tags = getattr(picture, "tag_v2", {})
    width, length = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)
    if isinstance(width, int) and isinstance(length, int) and width * length > limit:
        raise ValueError(f"a TIFF with tiles of {width}x{length} pixels is outside the limit of {limit:,} pixels")
    if tags.get(_COMPRESSION, 1) == 1:
        return
    if _TILE_WIDTH not in tags:
        width, length = picture.width, min(picture.height, _whole(tags.get(_STRIP_LENGTH), picture.height))
    bits = tags.get(_BITS, (1,))
    samples = 1 if tags.get(_PLANAR) == 2 else _whole(tags.get(_SAMPLES), 1)
    deepest = max((bit for bit in bits if isinstance(bit, int)), default=1) if isinstance(bits, tuple) else 64
    part = _whole(width, 1) * _whole(length, 1) * samples * deepest // 8
    if part + 4 * picture.width * picture.height > MAX_BYTES:
        raise ValueError(
            f"a TIFF of {picture.width}x{picture.height} pixels in compressed parts of {part >> 20} MiB takes more than "
            f"{MAX_BYTES >> 20} MiB to decode; save it in smaller strips or tiles, or scale it down first"
        )


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


def grey_values(picture: Image.Image) -> tuple[NDArray[np.int64], int]:
    """Return the values of a grey picture of more than 8 bits, and which of them is white."""
    values = np.asarray(picture).astype(np.int64)
    tags = getattr(picture, "tag_v2", {})
    white = 4095 if tags.get(_BITS) == (12,) else 65535
    # Of 16 bits where 0 is white Pillow does not turn the values round.
    if picture.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:
        values = white - values
    return values, white
