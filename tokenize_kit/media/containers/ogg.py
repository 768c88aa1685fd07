"""Ogg files (RFC 3533): whether every page is there.

A chained file is several files one behind the other, its links. A page has a checksum, the serial number of its track and a
number of its own, and the last page of a track is marked; so a page that is damaged, missing or cut off is found without
decoding anything.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from tokenize_kit.media.containers.peek import CUT, Peek, end_without_tags

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_MOST_TRACKS = 256


class Page(NamedTuple):
    """A page that is whole, and the next of its track."""

    place: int
    size: int
    link: int
    """Which of the files one behind the other, from 0 on."""
    serial: int
    granule: int
    first: bool
    last: bool
    packets: int
    """How many end on it."""
    body: bytes


def pages(peek: Peek, start: int = 0) -> Iterator[Page]:
    """Yield the pages of an Ogg file that begins at ``start``, and refuse one that is not all there.

    Raises:
        ValueError: a page is damaged, missing or cut.
    """
    link, numbers, begun = 0, dict[int, int](), False
    place, end = start, end_without_tags(peek, start)
    while place < end:
        head = peek.at(place, 27)
        if head[:4] != b"OggS":
            if peek.empty(place, end):
                break
            raise ValueError(f"there is no Ogg page at byte {place:,}; {CUT}")
        if len(head) < 27:
            raise ValueError(f"the file ends in the middle of an Ogg page; {CUT}")
        _, kind, granule, serial, number, checksum, count = struct.unpack("<xxxxBBqIIIB", head)
        table = peek.at(place + 27, count)
        size = 27 + count + sum(table)
        page = peek.at(place, size)
        if len(page) < size or place + size > end:
            raise ValueError(f"the file ends in the middle of an Ogg page; {CUT}")
        if _checksum(page[:22] + bytes(4) + page[26:]) != checksum:
            raise ValueError(f"the Ogg page at byte {place:,} does not fit its checksum; {CUT}")
        if kind & 2:
            if begun:
                link, numbers = link + 1, {}
            begun = False
            if len(numbers) > _MOST_TRACKS:
                raise ValueError(f"an Ogg file of more than {_MOST_TRACKS} tracks")
            numbers[serial] = number - 1
        else:
            begun = True
        if serial not in numbers:
            raise ValueError(f"the Ogg page at byte {place:,} belongs to no track; {CUT}")
        if number != (numbers[serial] + 1) & 0xFFFFFFFF:
            raise ValueError(f"Ogg pages are missing before byte {place:,}; {CUT}")
        numbers[serial] = number
        ending = sum(length < 255 for length in table)
        yield Page(place, size, link, serial, granule, bool(kind & 2), bool(kind & 4), ending, page[27 + count :])
        place += size


def check_ogg(peek: Peek) -> None:
    """Refuse an Ogg file that is cut short, damaged, or several files in one.

    Raises:
        ValueError: it is.
    """
    ended: dict[int, bool] = {}
    for page in pages(peek):
        if page.link:
            raise ValueError("two Ogg files in one; take them apart")
        ended[page.serial] = page.last
    if not all(ended.values()):
        raise ValueError(f"the last Ogg page of a track is not marked as the last; {CUT}")


def _checksum(page: bytes) -> int:
    """Return the checksum of a page whose own is zero.

    It is that of zlib with the bits of each byte and of the result reversed, and without its inversions.
    """
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)
