"""MP3 (MPEG audio, layers I to III) and ADTS files: all frames, by their headers.

An MP3 file states its length only in a Xing, Info or VBRI frame, if it has one; every other length is an estimate, which
decoders stop at. So the frames are walked here, from header to header, which is cheap beside decoding them. The decoder gets each
run of frames of one kind as a file of its own: files that were joined, each with its Xing frame and encoder delay, frames of
another sample rate, and nothing of the tags between them. It is told a length that it cannot reach, unless a Xing frame tells
the true one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenize_kit.media.audio.part import Part, Pieces
from tokenize_kit.media.containers.peek import CUT, Peek, tag_size

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}
_KBITS = {
    (True, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""By whether it is MPEG-1 and the two bits of the layer (3 is layer I)."""

_CLAIMED = 1 << 50
_SURE = 8
"""So many frames in a row are frames, after bytes that are none."""
_FARTHEST = 1 << 20
"""A first frame is looked for in so many bytes."""
_FREE_MOST = 6000
_ZEROS = bytes(10)
_PADDING = 8
_LOST = 3
"""Frames at the beginning that lean on ones before them, which a cut stream does not have."""


class _Kinds(dict[int, tuple[int, int, int]]):
    """Of the second and third byte of a header: bytes of a frame (0: not one, -1: free format), samples, samples a second."""

    def __missing__(self, key: int) -> tuple[int, int, int]:
        second, third = key >> 8, key & 0xFF
        version, layer, kbits, rate = second >> 3 & 3, second >> 1 & 3, third >> 4, third >> 2 & 3
        kind = (0, 0, 0)
        if second >= 0xE0 and version != 1 and layer and kbits != 15 and rate != 3:
            hertz, padding = _RATES[version][rate], third >> 1 & 1
            samples = 384 if layer == 3 else 576 if layer == 1 and version != 3 else 1152
            size = samples // 8 * _KBITS[version == 3, layer][kbits] * 1000 // hertz
            if layer == 3:
                size = 4 * (12 * _KBITS[version == 3, layer][kbits] * 1000 // hertz + padding)
            else:
                size += padding
            kind = (size if kbits else -1, samples, hertz)
        self[key] = kind
        return kind


_KINDS = _Kinds()


@dataclass
class _Run:
    """Frames of one kind that follow one another."""

    samples: int
    """Of a frame."""
    rate: int
    channels: int
    tag: bytes = b""
    """The frame with the Xing, Info or VBRI tag."""
    stated: int = 0
    """How many frames the tag says; 0 if it does not."""
    size: int = 0
    """How many bytes the tag says, with its own frame; 0 if it does not."""
    plain: bool = False
    """Whether the file is this run and tags that the decoder knows, so that it is read as it is."""
    frames: int = 0
    pieces: list[tuple[int, int]] = field(default_factory=list)
    mark: tuple[int, int, int] | None = None
    """Behind the stated frames: the place of the next, the number of pieces so far, and where its piece begins."""


def mpeg_parts(peek: Peek, place: int, end: int, junk: int = 0) -> list[Part]:
    """Return the parts of an MP3 file between two places.

    Args:
        peek: the file.
        place: where the first frame begins, see `find_mpeg`.
        end: where the file ends.
        junk: how many bytes before it are neither tag nor frame.

    Raises:
        ValueError: there are no frames, one is cut, or something between them is no frame.
    """
    runs: list[_Run] = []
    run: _Run | None = None
    free = 0
    at, kinds = peek.at, _KINDS
    begun = place
    while place + 4 <= end:
        head = at(place, 16)
        size, samples, rate = kinds[head[1] << 8 | head[2]] if head[0] == 0xFF else (0, 0, 0)
        if size < 0:
            free = free or _free_size(peek, place, end)
            size = free + (head[2] >> 1 & 1) * (4 if samples == 384 else 1) if free else 0
        if not size or place + size > end:
            skip = tag_size(peek, place) if not size else 0
            if not skip and run is not None and 0 < run.stated <= run.frames:
                # All is there that the header says; another file may have been joined behind the bytes that follow.
                skip = _next_file(peek, place, end) - place
            if not skip:
                break
            if run is not None:
                run.pieces.append((begun, place))
            place = begun = place + skip
            continue
        channels = 1 if head[3] >> 6 == 3 else 2
        # The side information of a frame with a tag is zeros, behind a checksum at most.
        tagged = _tagged(peek, place, size, head) if run is None or head[6:] == _ZEROS else None
        if run is None or tagged is not None or (rate, channels, samples) != (run.rate, run.channels, run.samples):
            if run is not None:
                run.pieces.append((begun, place))
            run = _Run(samples, rate, channels)
            runs.append(run)
            begun = place
            if tagged is not None:
                run.tag, (run.stated, run.size) = at(place, size), tagged
                place = begun = place + size
                continue
        if run.frames == run.stated and run.stated:
            run.mark = (place, len(run.pieces), begun)
        run.frames += 1
        place += size
    if run is None:
        raise ValueError("there are no MP3 frames in it")
    run.pieces.append((begun, min(place, end)))
    whole = len(runs) == len(run.pieces) == 1 and not junk and end == peek.size
    run.plain = whole and 0 < run.stated == run.frames and bool(_xing(run.tag)) and place >= end - 128
    _check_end(peek, place, end, run)
    return _parts(peek, [one for one in runs if one.frames], junk)


def _parts(peek: Peek, runs: list[_Run], junk: int) -> list[Part]:
    parts = []
    for run in runs:
        for one in _split(peek, run):
            if one.frames < one.stated - _counts_itself(one):
                raise ValueError(f"the header says {one.stated:,} MP3 frames and the file holds {one.frames:,}; {CUT}")
            parts.append(_part(peek, one))
    if junk and parts:
        parts[0] = parts[0]._replace(note="bytes before the first MP3 frame skipped")
    if not parts:
        raise ValueError("there are no MP3 frames in it")
    return parts


def _counts_itself(run: _Run) -> bool:
    """Return whether the frame with the tag is among the frames it counts, which the number of bytes shows if it is there."""
    return len(run.tag) + sum(end - start for start, end in run.pieces) >= run.size


def _split(peek: Peek, run: _Run) -> list[_Run]:
    """Part a run with more frames than its tag says: a file without a tag was joined to it.

    Raises:
        ValueError: the frames lean on one another there, so they are of one file.
    """
    if not run.stated or run.frames <= run.stated + 1 or run.mark is None:
        return [run]
    mark, index, begun = run.mark
    head = peek.at(mark, 8)
    inside = head[4 if head[1] & 1 else 6 :]
    # How far back the data of a frame begins: 9 bits in MPEG-1, 8 in the others; other layers have none.
    back = (inside[0] << 1 | inside[1] >> 7) if head[1] >> 3 & 1 else inside[0]
    if back and head[1] >> 1 & 3 == 1:
        raise ValueError(f"the header says {run.stated:,} MP3 frames and the file holds {run.frames:,}; it is damaged")
    first = _Run(run.samples, run.rate, run.channels, run.tag, run.stated, frames=run.stated)
    first.pieces = [*run.pieces[:index], (begun, mark)]
    second = _Run(run.samples, run.rate, run.channels, frames=run.frames - run.stated)
    second.pieces = [(mark, run.pieces[index][1]), *run.pieces[index + 1 :]]
    return [first, second]


def _part(peek: Peek, run: _Run) -> Part:
    if run.plain:
        return Part(peek.file, slack=run.samples, rate=run.rate, channels=run.channels)
    if run.stated and (place := _xing(run.tag)):
        # With a tag the decoder leaves out what the encoder added at both ends, so it is asked how many samples there are.
        tag = run.tag[: place + 8] + run.frames.to_bytes(4, "big") + run.tag[place + 12 :]
        file = Pieces(peek.file, [tag, *run.pieces])
        return Part(file, slack=run.samples, rate=run.rate, channels=run.channels)
    samples = run.frames * run.samples
    file = Pieces(peek.file, [*run.pieces], _CLAIMED)
    return Part(
        file,
        samples,
        stated=samples,
        slack=_LOST * run.samples,
        counted=False,
        rate=run.rate,
        channels=run.channels,
    )


def _xing(frame: bytes) -> int:
    """Return where the Xing or Info tag begins in a frame; 0 if there is none."""
    mono, first = frame[3] >> 6 == 3, frame[1] >> 3 & 1
    place = 4 + ((17 if mono else 32) if first else (9 if mono else 17))
    for shift in (0, 2):
        if frame[place + shift : place + shift + 4] in (b"Xing", b"Info"):
            return place + shift
    return 0


def _tagged(peek: Peek, place: int, size: int, head: bytes) -> tuple[int, int] | None:
    """Return how many frames and bytes the tag in a frame says (0 if it does not); None if there is no tag."""
    if head[1] >> 1 & 3 != 1:
        return None
    frame = peek.at(place, size)
    if at := _xing(frame):
        frames, count = (int.from_bytes(frame[at + start : at + start + 4], "big") for start in (8, 12))
        flags = frame[at + 7] if len(frame) >= at + 16 else 0
        return (frames, count if flags & 2 else 0) if flags & 1 else (0, 0)
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        return int.from_bytes(frame[50:54], "big"), int.from_bytes(frame[46:50], "big")
    return None


def find_mpeg(peek: Peek, start: int, end: int | None = None) -> int | None:
    """Return where the first MP3 frame begins near a place; None if there is none.

    Bytes before it that are no frame are passed over, as when a stream was recorded from the middle of a frame; then more frames
    have to follow one another, and be of layer III.
    """
    end = peek.size if end is None else end
    if _frames_in_row(peek, start, end, 3):
        return start
    place = start + 1
    while place < min(end, start + _FARTHEST):
        ahead = peek.at(place, 4096)
        step = ahead.find(b"\xff")
        place += len(ahead) if step < 0 else step
        if step < 0:
            continue
        if peek.at(place + 1, 1)[:1] >= b"\xe0" and _frames_in_row(peek, place, end, _SURE, layer=1):
            return place
        place += 1
    return None


def find_adts(peek: Peek, start: int) -> int | None:
    """Return where the first AAC frame with an ADTS header begins near a place; None if there is none."""
    ahead = peek.at(start, 1 << 14)
    begin = -1
    while (begin := ahead.find(b"\xff", begin + 1)) >= 0:
        place, count = start + begin, 0
        while count < _SURE and (size := _adts_size(peek.at(place, 7))) and place + size <= peek.size:
            place, count = place + size, count + 1
        if count == _SURE or (count and (place == peek.size or begin == 0)):
            return start + begin
    return None


def _next_file(peek: Peek, place: int, end: int) -> int:
    """Return where the next frames begin; ``place`` if there are none."""
    while place < end and (size := tag_size(peek, place)):
        place += size
    found = find_mpeg(peek, place, end)
    return place if found is None else found


def _frames_in_row(peek: Peek, place: int, end: int, wanted: int, layer: int = 0) -> bool:
    """Return whether so many frames of one kind follow one another, fewer where the file or a tag ends them.

    ``layer`` is that of the header (1 is layer III) which they must be of; 0 takes any.
    """
    kind = None
    for number in range(wanted):
        head = peek.at(place, 4)
        if number and (place >= end or (len(head) == 4 and tag_size(peek, place))):
            return True
        if len(head) < 4 or head[0] != 0xFF or (layer and head[1] >> 1 & 3 != layer):
            return False
        size, samples, rate = _KINDS[head[1] << 8 | head[2]]
        if size < 0:
            size = _free_size(peek, place, end)
        if not size or kind not in (None, (samples, rate)):
            return False
        kind = (samples, rate)
        if place + size > end:
            # The last frame is cut, if it is one.
            return number >= wanted // 2
        place += size
    return True


def _free_size(peek: Peek, place: int, end: int) -> int:
    """Return the bytes of a frame in free format without its padding: the next header is that far away."""
    head = peek.at(place, 4)
    ahead = peek.at(place, min(_FREE_MOST * 2, end - place))
    unit = 4 if head[1] >> 1 & 3 == 3 else 1
    padding = (head[2] >> 1 & 1) * unit
    at = 24
    while 0 <= (at := ahead.find(head[:2], at)) <= _FREE_MOST:
        if ahead[at + 2 : at + 3] and not (ahead[at + 2] ^ head[2]) & 0xFD and ahead[at + 3] >> 6 == head[3] >> 6:
            # One more header at the same distance.
            after = at + at - padding + (ahead[at + 2] >> 1 & 1) * unit
            if after + place >= end - 4 or ahead[after : after + 2] == head[:2] or after >= len(ahead) - 4:
                return at - padding
        at += 1
    return 0


def _check_end(peek: Peek, place: int, end: int, run: _Run) -> None:
    """Refuse what follows the last frame if it may be frames that are cut or damaged.

    Raises:
        ValueError: it may.
    """
    left = end - place
    if left <= 0 or (run.stated and run.frames >= run.stated):
        return
    head = peek.at(place, 4)
    if len(head) == 4 and head[0] == 0xFF and _KINDS[head[1] << 8 | head[2]][0]:
        raise ValueError(f"the sound ends in the middle of an MP3 frame; {CUT}")
    # Zeros that are fewer than a frame pad a file; other bytes may be what is left of one.
    frame = (run.pieces[-1][1] - run.pieces[0][0]) // max(1, run.frames)
    if left >= (frame if peek.empty(place, end) else _PADDING):
        raise ValueError(f"{left:,} bytes from {place:,} on are no MP3 frames; the sound is damaged")


def check_adts(peek: Peek, start: int, end: int) -> int:
    """Return how many frames an AAC file with ADTS headers has.

    Raises:
        ValueError: one is cut, or something between them is no frame.
    """
    place, count = start, 0
    while place + 7 <= end:
        size = _adts_size(peek.at(place, 7))
        if not size:
            if tag := tag_size(peek, place):
                place += tag
                continue
            raise ValueError(f"{end - place:,} bytes from {place:,} on are no AAC frames; the sound is damaged")
        if place + size > end:
            break
        place, count = place + size, count + 1
    if place < end:
        raise ValueError(f"the sound ends in the middle of an AAC frame; {CUT}")
    return count


def _adts_size(head: bytes) -> int:
    """Return the bytes of the frame that begins so; 0 if it is none."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size >= 7 else 0
