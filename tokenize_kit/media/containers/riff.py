"""AVI files: whether every chunk is there.

A file is RIFF lists one behind the other: heads of the streams (``hdrl``), their chunks (``movi``), and an index of these
(``idx1``). The number of a stream is the first two digits of the names of its chunks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tokenize_kit.media.containers.peek import CUT, Peek, is_placeholder

_FILM = b"vids"
_OTHERS = (b"JUNK", b"LIST", b"idx1")


@dataclass
class _Seen:
    streams: list[bytes] = field(default_factory=list)
    """The kind of each."""
    chunks: Counter[bytes] = field(default_factory=Counter)
    """How many chunks there are by the number of the stream, and of those that are not empty by the number and ``+``."""


def check_avi(peek: Peek) -> tuple[int, ...]:
    """Refuse an AVI file that is cut short or whose chunks are not those of its streams and its index.

    Returns:
        How many frames each video stream has.

    Raises:
        ValueError: it is.
    """
    place, seen = 0, _Seen()
    while peek.size - place >= 12:
        head = peek.at(place, 12)
        size = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF":
            if peek.empty(place, peek.size) or head[:4] in _OTHERS:
                break
            raise ValueError(f"{peek.size - place:,} bytes that are no chunk follow in an AVI file; {CUT}")
        end = place + 8 + size
        if is_placeholder(size):
            _check_list(peek, place + 12, peek.size, seen)
            break
        if end > peek.size:
            raise ValueError(f"the file ends after {peek.size - place - 8:,} of {size:,} bytes; {CUT}")
        _check_list(peek, place + 12, end, seen)
        place = end + size % 2
    if not seen.streams:
        raise ValueError(f"an AVI file without the heads of its streams; {CUT}")
    films = [number for number, kind in enumerate(seen.streams) if kind == _FILM]
    return tuple(seen.chunks[_digits(number) + b"+"] for number in films)


def _check_list(peek: Peek, place: int, end: int, seen: _Seen) -> None:
    """Refuse lists and chunks that do not end where the next begins."""
    inside, stop = False, 0
    while end - place >= 8:
        head = peek.at(place, 12)
        name, size = head[:4], int.from_bytes(head[4:8], "little")
        if name == b"LIST" and head[8:12] in (b"movi", b"rec "):
            # Its chunks lie one behind the other, so the walk goes on inside.
            if not is_placeholder(size) and place + 8 + size > end:
                raise ValueError(f"the file ends inside a list of {size:,} bytes; {CUT}")
            inside, stop = True, stop if is_placeholder(size) else max(stop, place + 8 + size)
            place += 12
            continue
        if not name.isascii() or min(name) < 0x20:
            if place >= stop and peek.empty(place, end):
                return
            raise ValueError(f"there is no chunk at byte {place:,} of an AVI file; {CUT}")
        begin, place = place + 8, place + 8 + size + size % 2
        if place > end + 1:
            raise ValueError(f"the file ends inside a chunk of {size:,} bytes; {CUT}")
        if name == b"LIST" and head[8:12] == b"hdrl":
            seen.streams = _streams(peek, begin + 4, begin + size)
        elif name == b"idx1":
            _check_index(peek, begin, begin + size, seen)
            inside = False
        elif inside and name not in _OTHERS and name[:2] != b"ix":
            _count(name, size, begin - 8, seen)


def _count(name: bytes, size: int, place: int, seen: _Seen) -> None:
    number = name[:2].lower()
    if number not in map(_digits, range(len(seen.streams))):
        raise ValueError(f"the chunk at byte {place:,} of an AVI file is of no stream; {CUT}")
    seen.chunks[number] += 1
    seen.chunks[number + b"+"] += size > 0


def _streams(peek: Peek, place: int, end: int) -> list[bytes]:
    """Return the kind of each stream."""
    kinds, names = list[bytes](), set[bytes]()
    for name, begin, stop in _chunks(peek, place, end):
        names.add(name)
        if name == b"LIST" and peek.at(begin, 4) == b"strl":
            heads = [first for inner, first, _ in _chunks(peek, begin + 4, stop) if inner == b"strh"]
            if not heads:
                raise ValueError(f"a stream of an AVI file without its head; {CUT}")
            kinds.append(peek.at(heads[0], 4))
            if kinds[-1] == _FILM and not (any(peek.at(heads[0] + 20, 4)) and any(peek.at(heads[0] + 24, 4))):
                raise ValueError(f"a video stream of an AVI file without a rate; {CUT}")
    if b"avih" not in names:
        raise ValueError(f"an AVI file without its head; {CUT}")
    return kinds


def _check_index(peek: Peek, place: int, end: int, seen: _Seen) -> None:
    """Refuse an index that names more chunks of a stream than there are."""
    data = peek.at(place, end - place)
    listed = Counter(data[at : at + 2].lower() for at in range(0, len(data) - 15, 16))
    for number in map(_digits, range(len(seen.streams))):
        if listed[number] > seen.chunks[number]:
            said = f"{listed[number]:,} chunks of a stream, and {seen.chunks[number]:,} are there"
            raise ValueError(f"the index of an AVI file names {said}; {CUT}")


def _digits(number: int) -> bytes:
    """Return what the names of the chunks of a stream begin with."""
    return b"%02x" % number


def _chunks(peek: Peek, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, first byte and end of the chunks of a list."""
    while end - place >= 8:
        head = peek.at(place, 8)
        size = int.from_bytes(head[4:], "little")
        yield head[:4], place + 8, min(end, place + 8 + size)
        place += 8 + size + size % 2
