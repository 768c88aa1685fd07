"""MP4, MOV and M4A files (ISO/IEC 14496-12): whether every box is there.

FFmpeg takes a file that was cut for one that ends there. The boxes say their sizes, and an index of segments (``sidx``) those of
what follows it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tokenize_kit.media.containers.fragments import Fragments
from tokenize_kit.media.containers.peek import CUT, Peek, end_without_tags

MP4_TYPES = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx", b"moof"))
_MOST_EDITS = 1000
_MOST_TICKS = 100_000_000
"""Of a second; writers use up to ten million."""
_LEAST_PART = 250
"""Edits play at least this part of a track, one by it."""
_MOST_UNLISTED = 1 << 20
"""Samples of a fragment that has no table of them."""
_HARMLESS = (b"free", b"skip", b"wide")
_ENTRIES = {b"stts": 8, b"ctts": 8, b"stsc": 12, b"stco": 4, b"co64": 8, b"stss": 4}
"""Bytes of an entry of the tables of a track."""


class Movie(NamedTuple):
    """What the boxes of an MP4 file say of it."""

    fragmented: bool
    """Whether the samples are in fragments, whose number the head does not say."""
    seconds: float
    """How long all fragments are together, if that is said; else 0."""
    frames: tuple[int, ...] = ()
    """How many frames each video track has, in the order of the tracks; -1 if edits leave some out."""


def check_mp4(peek: Peek) -> Movie:
    """Refuse an MP4 file that is cut short.

    Raises:
        ValueError: it is.
    """
    place, before = 0, b""
    movie: Movie | None = None
    tracks: dict[int, int] = {}
    fragments, data = Fragments(_children), list[tuple[int, int]]()
    while peek.size - place >= 8:
        name, size, inside = _box(peek, place)
        end = place + size
        if not name.isascii() or not all(byte >= 0x20 for byte in name):
            if peek.empty(place, peek.size) or end_without_tags(peek, place) == place:
                break
            raise ValueError(f"{peek.size - place:,} bytes that are no box follow in an MP4 file; {CUT}")
        if end > peek.size and name not in _HARMLESS:
            raise ValueError(f"the file ends inside its box {name.decode()} of {size:,} bytes; {CUT}")
        if name == b"moov":
            if movie is not None:
                raise ValueError("two MP4 files in one; take them apart")
            movie = _movie(peek, inside, end)
            tracks = _films(peek, inside, end)
            _note_defaults(peek, inside, end, fragments)
        elif name == b"moof":
            _check_runs(peek, inside, end)
            _count_runs(peek, inside, end, tracks)
            fragments.add(peek, place, inside, end)
        elif name == b"mdat" and movie is not None and movie.fragmented:
            data.append((inside, end))
        elif name == b"sidx":
            _check_index(peek, inside, end)
        before = name if name not in _HARMLESS else before
        place = end
    else:
        # Zeros may be padding; with the tags that files have behind them there is nothing left.
        if place < peek.size and not peek.empty(place, peek.size) and end_without_tags(peek, place) != place:
            raise ValueError(f"{peek.size - place} bytes that are the beginning of a box end an MP4 file; {CUT}")
    if movie is None:
        raise ValueError(f"an MP4 file without its index (moov); {CUT}")
    if before == b"moof":
        raise ValueError(f"an MP4 file that ends before the samples of its last fragment; {CUT}")
    fragments.check(data)
    return movie._replace(frames=tuple(tracks.values()))


def _films(peek: Peek, place: int, end: int) -> dict[int, int]:
    """Return how many frames each video track has by its number, -1 if edits leave some out."""
    found: dict[int, int] = {}
    scale = _scale(peek, _child(peek, place, end, b"mvhd"))[0]
    for name, start, stop in _children(peek, place, end):
        handler = _child(peek, start, stop, b"mdia", b"hdlr") if name == b"trak" else None
        if handler is None or peek.at(handler[0] + 8, 4) != b"vide":
            continue
        header, table = _child(peek, start, stop, b"tkhd"), _child(peek, start, stop, b"mdia", b"minf", b"stbl")
        sizes = (
            next((inside for kind, inside, _ in _children(peek, *table) if kind in (b"stsz", b"stz2")), 0)
            if table
            else 0
        )
        number = (
            int.from_bytes(peek.at(header[0] + (20 if peek.at(header[0], 1) == b"\1" else 12), 4), "big")
            if header
            else 0
        )
        count = int.from_bytes(peek.at(sizes + 8, 4), "big") if sizes else 0
        found[number] = count if _plays_all(peek, start, stop, scale, count) else -1
    return found


def _plays_all(peek: Peek, place: int, end: int, scale: int, count: int) -> bool:
    """Return whether the edits of a track leave no frame out: there are none, or one from its first frame to its last."""
    edits = _child(peek, place, end, b"edts", b"elst")
    if edits is None or not count:
        return True
    kind, size = (">Qq", 16) if peek.at(edits[0], 1) == b"\1" else (">Ii", 8)
    duration, begin = struct.unpack(kind, peek.at(edits[0] + 8, size).ljust(size, b"\0"))
    ticks, length = _scale(peek, _child(peek, place, end, b"mdia", b"mdhd"))
    # Where frames are reordered the first is shown late, which an edit takes back.
    late = _child(peek, place, end, b"mdia", b"minf", b"stbl", b"ctts")
    first = int.from_bytes(peek.at(late[0] + 12, 4), "big") if late else 0
    if int.from_bytes(peek.at(edits[0] + 4, 4), "big") != 1 or not ticks or not scale or not 0 <= begin <= first:
        return False
    return bool((duration + 1) / scale >= (length - begin) / ticks)


def _scale(peek: Peek, span: tuple[int, int] | None) -> tuple[int, int]:
    """Return the ticks of a second and the length in ticks that a header says."""
    if span is None:
        return 0, 0
    wide = peek.at(span[0], 1) == b"\1"
    place, size = span[0] + (20 if wide else 12), 8 if wide else 4
    return int.from_bytes(peek.at(place, 4), "big"), int.from_bytes(peek.at(place + 4, size), "big")


def _count_runs(peek: Peek, place: int, end: int, tracks: dict[int, int]) -> None:
    """Add the frames of a fragment to those of its tracks."""
    for name, start, stop in _children(peek, place, end):
        header = _child(peek, start, stop, b"tfhd") if name == b"traf" else None
        number = int.from_bytes(peek.at(header[0] + 4, 4), "big") if header else 0
        if tracks.get(number, -1) >= 0:
            runs = [inside for inner, inside, _ in _children(peek, start, stop) if inner == b"trun"]
            tracks[number] += sum(int.from_bytes(peek.at(run + 4, 4), "big") for run in runs)


def _box(peek: Peek, place: int) -> tuple[bytes, int, int]:
    """Return name, size with the head, and first byte of the box at a place."""
    head = peek.at(place, 16)
    size, name, inside = int.from_bytes(head[:4], "big"), head[4:8], place + 8
    if size == 1 and len(head) == 16:
        size, inside = int.from_bytes(head[8:], "big"), place + 16
    elif size == 0 and any(name):
        size = peek.size - place
    return name, max(size, inside - place), inside


def _children(peek: Peek, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, first byte and end of each child."""
    while end - place >= 8:
        name, size, inside = _box(peek, place)
        yield name, inside, min(end, place + size)
        place += size


def _child(peek: Peek, place: int, end: int, *names: bytes) -> tuple[int, int] | None:
    """Return where the first grandchild of these names lies, each within the one before."""
    for wanted in names:
        found = next((span for name, *span in _children(peek, place, end) if name == wanted), None)
        if found is None:
            return None
        place, end = found
    return place, end


def _check_tables(peek: Peek, place: int, end: int, fragmented: bool, second: int) -> None:
    """Refuse a track whose tables say more samples than the file has bytes, which FFmpeg would make room for, or do not agree.

    Raises:
        ValueError: it does.
    """
    sizes, count = _child(peek, place, end, b"mdia", b"minf", b"stbl", b"stsz"), 0
    if sizes:
        each, count = struct.unpack(">II", peek.at(sizes[0] + 4, 8).ljust(8, b"\0"))
        if count * (each or 4) > (peek.size if each else sizes[1] - sizes[0]):
            raise ValueError(f"a track says {count:,} samples, more than the file has room for; {CUT}")
    ticks = _scale(peek, _child(peek, place, end, b"mdia", b"mdhd"))[0]
    if not 0 < ticks <= _MOST_TICKS or not _child(peek, place, end, b"mdia", b"hdlr"):
        raise ValueError(f"a track without its head; {CUT}")
    samples = _child(peek, place, end, b"mdia", b"minf", b"stbl")
    if samples is None:
        raise ValueError(f"a track without its table of samples; {CUT}")
    for name, inside, stop in _children(peek, *samples):
        if name in _ENTRIES:
            _check_entries(peek, name, inside, stop, _ENTRIES[name])
    late = _child(peek, *samples, b"ctts")
    if late and sizes and (entries := int.from_bytes(peek.at(late[0] + 4, 4), "big")):
        # An entry is of one sample and more.
        table = peek.at(late[0] + 8, 8 * min(entries, count + 1))
        shown = sum(number for (number,) in struct.iter_unpack(">I4x", table))
        if shown != count:
            raise ValueError(f"a track says when {shown:,} of its {count:,} samples are shown; it is damaged")
    _check_edits(peek, place, end, fragmented, second)


def _check_entries(peek: Peek, name: bytes, place: int, end: int, size: int) -> None:
    """Refuse a table whose number of entries is another than that for which it has room."""
    count = int.from_bytes(peek.at(place + 4, 4), "big")
    stop = place + 8 + count * size
    if stop > end or (stop < end and not peek.empty(stop, end)):
        raise ValueError(f"a table {name.decode()} says {count:,} entries in {end - place:,} bytes; it is damaged")


def _check_edits(peek: Peek, place: int, end: int, fragmented: bool, second: int) -> None:
    """Refuse edits that are together shorter than the track, whose length they are by the format, or next to nothing of its
    samples, as where the ticks of a ``second`` were changed.

    Raises:
        ValueError: they are, or there are too many.
    """
    edits, header = _child(peek, place, end, b"edts", b"elst"), _child(peek, place, end, b"tkhd")
    if edits is None or header is None:
        return
    wide = peek.at(edits[0], 1) == b"\1"
    _check_entries(peek, b"elst", *edits, 20 if wide else 12)
    count = int.from_bytes(peek.at(edits[0] + 4, 4), "big")
    if count > _MOST_EDITS:
        raise ValueError(f"a track has more than {_MOST_EDITS:,} edits")
    entries = struct.iter_unpack(">Qqi" if wide else ">Iii", peek.at(edits[0] + 8, count * (20 if wide else 12)))
    lengths = [length for length, *_ in entries]
    long = peek.at(header[0], 1) == b"\1"
    said = int.from_bytes(peek.at(header[0] + (28 if long else 20), 8 if long else 4), "big")
    # Of fragments an edit of no length lasts to the end.
    if sum(lengths) + count < said < (1 << (64 if long else 32)) - 1 and (sum(lengths) or not fragmented):
        raise ValueError(f"the edits of a track are {sum(lengths):,} long, and the track {said:,}; it is damaged")
    ticks, media = _scale(peek, _child(peek, place, end, b"mdia", b"mdhd"))
    if 0 < _LEAST_PART * sum(lengths) * ticks < media * second:
        raise ValueError("the edits of a track are next to nothing of its samples; it is damaged")


def _check_runs(peek: Peek, place: int, end: int) -> None:
    """The same for a fragment: each run of samples has its table, or is of a reasonable number.

    Raises:
        ValueError: it does.
    """
    tracks = [(start, stop) for name, start, stop in _children(peek, place, end) if name == b"traf"]
    if not tracks:
        raise ValueError(f"the fragment before byte {end:,} has no track; it is damaged")
    for start, stop in tracks:
        for inner, inside, last in _children(peek, start, stop):
            if inner == b"trun":
                flags, count = struct.unpack(">II", peek.at(inside, 8).ljust(8, b"\0"))
                if count > max(_MOST_UNLISTED, last - inside) or (flags & 0xF00 and count * 4 > last - inside):
                    raise ValueError(f"a fragment says {count:,} samples, more than it has room for; {CUT}")


def _note_defaults(peek: Peek, place: int, end: int, fragments: Fragments) -> None:
    for name, start, stop in _children(peek, place, end):
        if name == b"mvex":
            for inner, inside, _ in _children(peek, start, stop):
                if inner == b"trex":
                    number, size = struct.unpack(">I8xI", peek.at(inside + 4, 16).ljust(16, b"\0"))
                    fragments.sizes[number] = size
        elif name == b"trak" and (sizes := _child(peek, start, stop, b"mdia", b"minf", b"stbl", b"stsz")):
            fragments.mixed |= any(peek.at(sizes[0] + 8, 4))


def _movie(peek: Peek, place: int, end: int) -> Movie:
    extends = _child(peek, place, end, b"mvex")
    second = _scale(peek, _child(peek, place, end, b"mvhd"))[0]
    if second > _MOST_TICKS:
        raise ValueError(f"a movie whose second has more than {_MOST_TICKS:,} ticks; it is damaged")
    for name, start, stop in _children(peek, place, end):
        if name == b"trak":
            _check_tables(peek, start, stop, extends is not None, second)
    if extends is None:
        return Movie(False, 0.0)
    seconds, header, length = 0.0, _child(peek, place, end, b"mvhd"), _child(peek, *extends, b"mehd")
    if header and length:
        version = peek.at(header[0], 1)
        scale = int.from_bytes(peek.at(header[0] + (20 if version == b"\1" else 12), 4), "big")
        wide = 8 if peek.at(length[0], 1) == b"\1" else 4
        seconds = int.from_bytes(peek.at(length[0] + 4, wide), "big") / scale if scale else 0.0
    return Movie(True, seconds)


def _check_index(peek: Peek, place: int, end: int) -> None:
    """Refuse a file that has fewer bytes than its index of segments says."""
    version = peek.at(place, 1)[0]
    wide = 8 if version else 4
    count_at = place + 12 + 2 * wide
    first = int.from_bytes(peek.at(place + 12 + wide, wide), "big")
    count = int.from_bytes(peek.at(count_at + 2, 2), "big")
    entries = peek.at(count_at + 4, 12 * count)
    total = sum(size & 0x7FFFFFFF for (size,) in struct.iter_unpack(">I8x", entries[: len(entries) // 12 * 12]))
    if end + first + total > peek.size:
        raise ValueError(f"the file ends after {peek.size:,} of {end + first + total:,} bytes; {CUT}")
