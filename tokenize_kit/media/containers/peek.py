"""The bytes of a file by their places, the tags around its data, and sizes that were never counted."""

from __future__ import annotations

import os
from typing import IO

CUT = "it is damaged or cut short"

_AHEAD = 1 << 16
_ROUND = 1 << 24
_NEAR = 1 << 10
_LARGE = 1 << 30


class Peek:
    """The bytes of a seekable file by their places, read ahead."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self._start, self._held = 0, b""

    def at(self, place: int, count: int) -> bytes:
        """Return ``count`` bytes from a place on, fewer at the end."""
        if not 0 <= place < self.size:
            return b""
        inside = place - self._start
        if inside < 0 or inside + count > len(self._held):
            self.file.seek(place)
            self._start, self._held, inside = place, self.file.read(max(count, _AHEAD)), 0
        return self._held[inside : inside + count]

    def empty(self, start: int, end: int) -> bool:
        """Return whether there are but zeros between two places."""
        if self.at(start, 1) not in (b"\0", b""):
            return False
        for place in range(start, end, _AHEAD):
            piece = self.at(place, min(_AHEAD, end - place))
            if piece.count(0) < len(piece):
                return False
        return True


def tag_size(peek: Peek, place: int) -> int:
    """Return how many bytes a tag (ID3v1, ID3v2, APE, Lyrics3) has that begins at this place; 0 if there is none."""
    head = peek.at(place, 32)
    if head[:3] == b"ID3" and len(head) >= 10 and head[3] < 0xFF and max(head[6:10]) < 0x80:
        # Four times seven bits; a footer repeats the header.
        size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return 10 + size + 10 * bool(head[5] & 0x10)
    if head[:3] == b"TAG" and peek.size - place >= 128:
        return 227 if head[3:4] == b"+" and peek.at(place + 227, 3) == b"TAG" else 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        size, flags = int.from_bytes(head[12:16], "little"), int.from_bytes(head[20:24], "little")
        # The size counts the footer and not the header.
        if flags >> 29 & 1:
            return 32 + size
        return 32
    if head[:11] == b"LYRICSBEGIN":
        body = peek.at(place, 1 << 16)
        found = [at for mark in (b"LYRICS200", b"LYRICSEND") if (at := body.find(mark)) > 0]
        return min(found) + 9 if found else 0
    return 0


def end_without_tags(peek: Peek, start: int) -> int:
    """Return where a file ends if the tags at its end (ID3v1, Lyrics3, APE) are left out."""
    end = peek.size
    while True:
        if end - start >= 128 and peek.at(end - 128, 3) == b"TAG":
            end -= 128
        elif end - start >= 227 and peek.at(end - 227, 4) == b"TAG+":
            end -= 227
        elif end - start >= 32 and (foot := peek.at(end - 32, 32))[:8] == b"APETAGEX":
            size = int.from_bytes(foot[12:16], "little") + 32 * (foot[23] >> 7)
            if not 32 <= size <= end - start:
                return end
            end -= size
        elif end - start >= 15 and (foot := peek.at(end - 15, 15))[6:] == b"LYRICS200" and foot[:6].isdigit():
            size = 15 + int(foot[:6])
            if size > end - start:
                return end
            end -= size
        elif end - start >= 10 and (foot := peek.at(end - 10, 10))[:3] == b"3DI":
            size = 20 + sum(byte << shift for byte, shift in zip(foot[6:10], (21, 14, 7, 0), strict=True))
            if size > end - start:
                return end
            end -= size
        else:
            return end


def start_without_tags(peek: Peek) -> int:
    """Return where a file begins if the ID3v2 tags at its beginning are left out."""
    place = 0
    while peek.at(place, 3) == b"ID3" and (size := tag_size(peek, place)) and place + size < peek.size:
        place += size
    return place


def is_placeholder(said: int, bits: int = 32) -> bool:
    """Return whether a size is one that writers into pipes leave, and not one that was counted."""
    top = 1 << bits
    if said == 0 or top - (1 << 16) <= said or abs(said - (top >> 1)) <= 1 << 12:
        return True
    return _LARGE - _NEAR <= said < top and min(said % _ROUND, -said % _ROUND) <= _NEAR
