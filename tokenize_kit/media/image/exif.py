"""What EXIF and XMP say of how a picture is to be shown: which way it is turned, and whether its colours are Adobe RGB.

Nothing else is read, so it does not matter how odd or damaged the other tags are. See the Exif standard (CIPA DC-008) for the
tags and DCF (CIPA DC-009) for the colours.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_ORIENTATION = 0x0112
_EXIF_DIRECTORY = 0x8769
_COLOUR_SPACE = 0xA001
_INTEROPERABILITY = 0xA005
_INTEROPERABILITY_INDEX = 0x0001

# The whole numbers among the types of TIFF: their format and size.
_NUMBERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])(?![0-9])""")


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation, 1 (as stored) to 8; EXIF goes before XMP, and what is none counts as nothing.

    Args:
        exif: the TIFF structure of EXIF data, with or without ``Exif`` before it.
        xmp: an XMP packet.
    """
    structure = _structure(exif)
    if structure is not None:
        value = structure.number(structure.first, _ORIENTATION)
        if value is not None:
            return value if 1 <= value <= 8 else 1
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1


def is_adobe_rgb(exif: bytes) -> bool:
    """Return whether a camera says that colours without a profile are Adobe RGB: the index ``R03`` of DCF, or colour space 2."""
    structure = _structure(exif)
    if structure is None:
        return False
    inner = structure.number(structure.first, _EXIF_DIRECTORY)
    if inner is None:
        return False
    if structure.number(inner, _COLOUR_SPACE) == 2:
        return True
    index = structure.number(inner, _INTEROPERABILITY)
    return index is not None and structure.raw(index, _INTEROPERABILITY_INDEX)[:3] == b"R03"


@dataclass(frozen=True)
class _Structure:
    """A TIFF structure; places outside of it hold nothing."""

    data: bytes
    order: str
    first: int

    def entries(self, start: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield tag, type and value of a directory's entries as far as they are there."""
        if not 8 <= start <= len(self.data) - 2:
            return
        (count,) = struct.unpack_from(self.order + "H", self.data, start)
        for place in range(start + 2, min(start + 2 + 12 * count, len(self.data) - 11), 12):
            tag, kind, number, offset = struct.unpack_from(self.order + "HHLL", self.data, place)
            size = _SIZES.get(kind, 0) * number
            begin = place + 8 if size <= 4 else offset
            yield tag, kind, self.data[begin : begin + min(size, 64)]

    def number(self, start: int, wanted: int) -> int | None:
        """Return the first number of the tag, if it has any."""
        for tag, kind, value in self.entries(start):
            if tag == wanted and kind in _NUMBERS and len(value) >= _SIZES[kind]:
                return int(struct.unpack_from(self.order + _NUMBERS[kind], value)[0])
        return None

    def raw(self, start: int, wanted: int) -> bytes:
        """Return the bytes of the tag, 64 at most."""
        return next((value for tag, _, value in self.entries(start) if tag == wanted), b"")


def _structure(exif: bytes) -> _Structure | None:
    # PNG and WebP hold the structure itself, JPEG has this before it, and some writers put it everywhere.
    if exif[:4] == b"Exif":
        exif = exif[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return None
    return _Structure(exif, order, struct.unpack_from(order + "L", exif, 4)[0])
