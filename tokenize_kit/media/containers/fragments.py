"""Fragments of an MP4 file (ISO/IEC 14496-12, 8.8): whether what they say of their samples fits the bytes that are there.

FFmpeg leaves out samples, or whole fragments, whose numbers do not fit one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tokenize_kit.media.containers.peek import Peek

Children = Callable[[Peek, int, int], Iterator[tuple[bytes, int, int]]]
_TRACK_FIELDS = ((0x1, 8), (0x2, 4), (0x8, 4), (0x10, 4), (0x20, 4))
"""Fields of a track's head behind its number, by the flag that says they are there, and their bytes."""
_FRAGMENT_AS_BASE = 0x20000


@dataclass
class Fragments:
    """What the fragments so far say."""

    children: Children
    """Yields name, first byte and end of the boxes between two places."""
    sizes: dict[int, int] = field(default_factory=dict)
    """The size of a sample of each track, where nothing else says it."""
    spans: list[list[int]] = field(default_factory=list)
    """Bytes of the file that belong to samples."""
    mixed: bool = False
    """Whether samples lie outside fragments too."""

    def add(self, peek: Peek, fragment: int, place: int, end: int) -> None:
        """Read a fragment whose box begins at ``fragment``, and its children at ``place``.

        Raises:
            ValueError: a table of it has another length than it says.
        """
        following = fragment
        for name, start, stop in self.children(peek, place, end):
            if name == b"traf":
                following = self._add_track(peek, fragment, start, stop, following)

    def _add_track(self, peek: Peek, fragment: int, place: int, end: int, following: int) -> int:
        base, each = following, 0
        for name, start, stop in self.children(peek, place, end):
            head = peek.at(start, min(stop - start, 48))
            flags = int.from_bytes(head[1:4], "big")
            if name == b"tfhd":
                fields = {flag: size for flag, size in _TRACK_FIELDS if flags & flag}
                _fits(stop - start, 8 + sum(fields.values()), fragment)
                at = 8
                base = fragment if flags & _FRAGMENT_AS_BASE else following
                each = self.sizes.get(int.from_bytes(head[4:8], "big"), 0)
                for flag, size in fields.items():
                    value = int.from_bytes(head[at : at + size], "big")
                    base, each = value if flag == 1 else base, value if flag == 0x10 else each
                    at += size
                following = base
            elif name == b"trun":
                count, row = int.from_bytes(head[4:8], "big"), 4 * (flags & 0xF00).bit_count()
                table = 8 + 4 * (flags & 1) + (flags & 4)
                _fits(stop - start, table + row * count, fragment)
                if flags & 1:
                    following = base + int.from_bytes(head[8:12], "big", signed=True)
                at = 4 if flags & 0x100 else 0
                rows = peek.at(start + table, row * count) if flags & 0x200 else b""
                listed = sum(int.from_bytes(rows[i : i + 4], "big") for i in range(at, len(rows), row)) if rows else 0
                self._take(following, following + (listed if flags & 0x200 else each * count))
                following = self.spans[-1][1]
        return following

    def _take(self, start: int, end: int) -> None:
        if self.spans and self.spans[-1][1] == start:
            self.spans[-1][1] = end
        else:
            self.spans.append([start, end])

    def check(self, data: list[tuple[int, int]]) -> None:
        """Refuse bytes of samples that no fragment knows.

        Args:
            data: where the contents of the boxes of samples begin and end that lie behind the first fragment.

        Raises:
            ValueError: there are some.
        """
        if self.mixed:
            return
        spans = iter(sorted(self.spans))
        span = next(spans, None)
        for start, end in data:
            place = start
            while span and span[0] <= place and place < end:
                place = max(place, min(end, span[1]))
                if place < end or span[1] <= end:
                    span = next(spans, None)
            if place < end:
                raise ValueError(
                    f"the file is damaged: {end - place:,} bytes from byte {place:,} on belong to no sample of a fragment"
                )
        if span:
            raise ValueError(f"the file is damaged: a fragment has samples at byte {span[0]:,}, where there are none")


def _fits(there: int, said: int, fragment: int) -> None:
    if there != said:
        raise ValueError(
            f"the file is damaged: a table of the fragment at byte {fragment:,} has {there:,} bytes, and says {said:,}"
        )
