"""Matroska and WebM files: whether every element is there.

FFmpeg takes a file that was cut for one that ends there. The elements say their sizes: that of the whole (the Segment) is
unknown in what a browser or camera writes while it records, and such a file is whole if it ends with an element.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tokenize_kit.media.containers.peek import CUT, Peek

_SEGMENT, _EBML, _CLUSTER, _INFO = 0x18538067, 0x1A45DFA3, 0x1F43B675, 0x1549A966
_TOP = frozenset(
    (0x114D9B74, _INFO, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1254C367, 0x1941A469, 0x1043A770, _SEGMENT, _EBML)
)
_VOID = (0xEC, 0xBF)
_TRACKS, _ENTRY, _NUMBER, _TYPE = 0x1654AE6B, 0xAE, 0xD7, 0x83
_FILM, _SOUND = 1, 2
_NUMBERS = (0xA7, 0xAB)
_OTHERS = frozenset((*_VOID, *_NUMBERS, 0xAF, 0x5854))
"""Position, size of the one before, encrypted block, silent tracks: what else may be in a cluster."""
_TIME, _SIMPLE_BLOCK, _GROUP, _BLOCK, _LENGTH = 0xE7, 0xA3, 0xA0, 0xA1, 0x9B
_SCALE, _DURATION = 0x2AD7B1, 0x4489
_DELAY, _CODING, _PRIVATE = 0x56AA, 0x86, 0x63A2
_ROUNDED = 48
"""Samples by which two words of one length may differ: some writers round to a millisecond."""
_SHORT = 1.0
"""Seconds that may be missing at the end of what the header says: that of the last block is not known."""


@dataclass
class _Track:
    kind: int
    frames: int = 0


class Frames(NamedTuple):
    """How many frames each track of a kind has, in the order of the tracks."""

    films: tuple[int, ...]
    sounds: tuple[int, ...]


def check_matroska(peek: Peek) -> Frames:
    """Refuse a Matroska or WebM file that is cut short or holds something between its elements.

    Raises:
        ValueError: it is.
    """
    name, size, place = _element(peek, 0)
    if name != _EBML or size is None:
        raise ValueError(f"a Matroska file without its head; {CUT}")
    place += size
    while True:
        name, size, place = _element(peek, place)
        if name == _SEGMENT:
            break
        if name not in _VOID or size is None:
            raise ValueError(f"a Matroska file without a segment; {CUT}")
        place += size
    # A writer that never came back left 0.
    unknown = size is None or (size == 0 and place < peek.size)
    end = peek.size if unknown or size is None else place + size
    if end > peek.size:
        raise ValueError(f"the file ends after {peek.size - place:,} of {size or 0:,} bytes; {CUT}")
    tracks, scale, duration, reached = _check_segment(peek, place, end)
    # Where the size is known the file is whole; the times of its tracks may end early.
    if unknown and duration and reached * scale / 1e9 < duration * scale / 1e9 - _SHORT:
        raise ValueError(
            f"the file ends after {reached * scale / 1e9:.2f} of {duration * scale / 1e9:.2f} seconds; {CUT}"
        )
    while end < peek.size and not peek.empty(end, peek.size):
        name, size, end = _element(peek, end)
        if name not in _VOID or size is None:
            raise ValueError(
                f"{peek.size - end:,} bytes follow the segment of a Matroska file; it is two files in one, or damaged"
            )
        end += size
    films, sounds = (tuple(one.frames for one in tracks.values() if one.kind == kind) for kind in (_FILM, _SOUND))
    return Frames(films, sounds)


def _check_segment(peek: Peek, place: int, end: int) -> tuple[dict[int, _Track], int, float, int]:
    """Return the tracks, the nanoseconds of a tick, the ticks that the header says and those that the blocks reach."""
    scale, duration, reached, clusters = 1_000_000, 0.0, 0, 0
    tracks: dict[int, _Track] = {}
    while place < end:
        name, size, inside = _element(peek, place)
        if name in (_SEGMENT, _EBML):
            raise ValueError("two Matroska files in one; take them apart")
        if size is None and name != _CLUSTER:
            raise ValueError(f"the element at byte {place:,} of a Matroska file has no size; it is damaged")
        if size is not None and inside + size > end:
            raise ValueError(f"the file ends inside an element of {size:,} bytes; {CUT}")
        if name == _CLUSTER:
            clusters += 1
            place, time = _check_cluster(peek, inside, end if size is None else inside + size, size is None, tracks)
            reached = max(reached, time)
            continue
        if name == _TRACKS:
            _add_tracks(peek, inside, inside + (size or 0), tracks)
        if name == _INFO:
            scale, duration = _info(peek, inside, inside + (size or 0))
        place = inside + (size or 0)
    if not clusters:
        raise ValueError(f"a Matroska file without clusters; {CUT}")
    return tracks, scale, duration, reached


def _check_cluster(peek: Peek, place: int, end: int, unknown: bool, tracks: dict[int, _Track]) -> tuple[int, int]:
    """Return where a cluster ends and the last time of its blocks."""
    base, reached = 0, 0
    while place < end:
        name, size, inside = _element(peek, place)
        if unknown and name in _TOP:
            break
        if size is None or inside + size > end:
            raise ValueError(f"the file ends inside a block; {CUT}")
        if name == _TIME:
            base = int.from_bytes(peek.at(inside, min(size, 8)), "big")
        elif name == _SIMPLE_BLOCK:
            reached = max(reached, base + _block_time(peek, inside, tracks))
        elif name == _GROUP:
            reached = max(reached, base + _group_time(peek, inside, inside + size, tracks))
        elif name not in _OTHERS or (name in _NUMBERS and size > 8):
            raise ValueError(f"the element at byte {place:,} is none of a cluster; the file is damaged")
        place = inside + size
    return place, reached


def _group_time(peek: Peek, place: int, end: int, tracks: dict[int, _Track]) -> int:
    time, length = None, 0
    while place < end:
        name, size, inside = _element(peek, place)
        if size is None or inside + size > end:
            raise ValueError(f"the file ends inside a block; {CUT}")
        if name == _BLOCK:
            time = _block_time(peek, inside, tracks)
        elif name == _LENGTH:
            length = int.from_bytes(peek.at(inside, min(size, 8)), "big")
        place = inside + size
    if time is None:
        raise ValueError(f"a group without its block before byte {end:,}; the file is damaged")
    return time + length


def _block_time(peek: Peek, place: int, tracks: dict[int, _Track]) -> int:
    """Return the time of a block, which must be of a track that there is, and count its frames."""
    head = peek.at(place, 10)
    width = 9 - head[0].bit_length() if head and head[0] else 8
    track = tracks.get(int.from_bytes(head[:width], "big") & ((1 << 7 * width) - 1))
    if track is None or len(head) < width + 4:
        raise ValueError(f"the block at byte {place:,} is of no track; the file is damaged")
    # With lacing several frames share a block.
    track.frames += head[width + 3] + 1 if head[width + 2] & 6 else 1
    return int.from_bytes(head[width : width + 2], "big", signed=True)


def _add_tracks(peek: Peek, place: int, end: int, tracks: dict[int, _Track]) -> None:
    for name, inside, stop in _children(peek, place, end):
        if name != _ENTRY:
            continue
        values = {child: peek.at(first, min(last - first, 32)) for child, first, last in _children(peek, inside, stop)}
        number, kind = (int.from_bytes(values.get(wanted, b""), "big") for wanted in (_NUMBER, _TYPE))
        tracks[number] = _Track(kind)
        _check_delay(values.get(_DELAY, b""), values.get(_CODING, b""), values.get(_PRIVATE, b""))


def _check_delay(delay: bytes, coding: bytes, head: bytes) -> None:
    """Refuse a track of Opus that says twice, and differently, how much is left out at its beginning.

    Some writers leave 0 in one of the places.
    """
    if coding[:6] != b"A_OPUS" or head[:8] != b"OpusHead" or len(head) < 12:
        return
    said, skipped = int.from_bytes(delay, "big") * 48_000 / 1e9, int.from_bytes(head[10:12], "little")
    if said and skipped and abs(said - skipped) > _ROUNDED:
        raise ValueError(f"the file is damaged: its sound begins after {said:,.0f} samples, and after {skipped:,}")


def _children(peek: Peek, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield name, first byte and end of the elements of a part of the head."""
    while place < end:
        name, size, inside = _element(peek, place)
        if size is None or inside + size > end:
            raise ValueError(f"the file ends inside its head; {CUT}")
        yield name, inside, inside + size
        place = inside + size


def _info(peek: Peek, place: int, end: int) -> tuple[int, float]:
    scale, duration = 1_000_000, 0.0
    for name, first, last in _children(peek, place, end):
        if name == _SCALE:
            scale = int.from_bytes(peek.at(first, min(last - first, 8)), "big") or scale
        elif name == _DURATION and last - first in (4, 8):
            (duration,) = struct.unpack(">f" if last - first == 4 else ">d", peek.at(first, last - first))
    return scale, duration if 0 < duration < 1e15 else 0.0


def _element(peek: Peek, place: int) -> tuple[int, int | None, int]:
    """Return name, size (None: unknown) and first byte of the element at a place.

    Raises:
        ValueError: there is none.
    """
    head = peek.at(place, 12)
    wide = 9 - head[0].bit_length() if head and head[0] else 9
    if wide > 4 or len(head) <= wide or not head[wide]:
        what = (
            f"the file ends inside an element; {CUT}"
            if len(head) < 12
            else f"there is no element at byte {place:,}; the file is damaged"
        )
        raise ValueError(what)
    long = 9 - head[wide].bit_length()
    if len(head) < wide + long:
        raise ValueError(f"the file ends inside an element; {CUT}")
    bits = (1 << 7 * long) - 1
    size = int.from_bytes(head[wide : wide + long], "big") & bits
    return int.from_bytes(head[:wide], "big"), None if size == bits else size, place + wide + long
