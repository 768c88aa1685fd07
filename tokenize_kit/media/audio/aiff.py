"""AIFF and AIFF-C, CAF and AU (NeXT and Sun): the other files of chunks and headers that hold samples as they are.

As for wav, the decoder is given the file as it is if its sizes are true, else its samples behind a header that is.
"""

from __future__ import annotations

import struct
from typing import IO

from tokenize_kit.media.audio.lengths import is_name, samples_end
from tokenize_kit.media.audio.part import Part, Pieces
from tokenize_kit.media.audio.speakers import WAV, of_mask
from tokenize_kit.media.containers.peek import CUT, Peek, end_without_tags, is_placeholder

_MOST_CHUNKS = 100_000

_SAMPLE_BYTES = {b"sowt": 0, b"twos": 0, b"NONE": 0, b"in24": 3, b"in32": 4, b"42ni": 3, b"23ni": 4}
_SAMPLE_BYTES |= {
    b"fl32": 4,
    b"FL32": 4,
    b"fl64": 8,
    b"FL64": 8,
    b"alaw": 1,
    b"ulaw": 1,
    b"ALAW": 1,
    b"ULAW": 1,
    b"raw ": 0,
}
"""Bytes a sample of the compression types of AIFF-C that are not compressed; 0 is as many as the bits need."""

_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}

_LAYOUTS = {
    108: "FL FR BL BR",
    113: "FL FR FC",
    114: "FC FL FR",
    115: "FL FR FC BC",
    116: "FC FL FR BC",
    117: "FL FR FC BL BR",
    118: "FL FR BL BR FC",
    119: "FL FC FR BL BR",
    120: "FC FL FR BL BR",
    121: "FL FR FC LFE BL BR",
    122: "FL FR BL BR FC LFE",
    123: "FL FC FR BL BR LFE",
    124: "FC FL FR BL BR LFE",
    126: "FL FR FC LFE BL BR FLC FRC",
    127: "FC FLC FRC FL FR BL BR LFE",
    128: "FL FR FC LFE SL SR BL BR",
}
"""Of the channel layout tags of Apple's Core Audio, by their upper sixteen bits."""

_LABELS = {1: "FL", 2: "FR", 3: "FC", 4: "LFE", 5: "SL", 6: "SR", 7: "FLC", 8: "FRC", 9: "BC", 33: "BL", 34: "BR"}


def aiff_parts(peek: Peek, start: int) -> list[Part]:
    """Return the part of an AIFF or AIFF-C file.

    Raises:
        ValueError: it is damaged or cut short.
    """
    form = peek.at(start + 8, 4)
    outer = int.from_bytes(peek.at(start + 4, 4), "big")
    place, common, layout, before = start + 12, b"", b"", b""
    samples_at = None
    for _ in range(_MOST_CHUNKS):
        head = peek.at(place, 8)
        if len(head) < 8 or not is_name(head[:4]):
            break
        length = int.from_bytes(head[4:], "big")
        if head[:4] == b"SSND":
            samples_at = (place, length)
            if common or is_placeholder(length):
                break
        elif head[:4] in (b"COMM", b"CHAN", b"FVER"):
            body = peek.at(place + 8, min(length, 1 << 16))
            common, layout = (
                (body, layout) if head[:4] == b"COMM" else (common, body if head[:4] == b"CHAN" else layout)
            )
            before += head + body + b"\0" * (length % 2) if head[:4] == b"FVER" else b""
        place += 8 + length + length % 2
    if samples_at is None or len(common) < 18:
        raise ValueError(f"an AIFF file without {'samples' if samples_at is None else 'a COMM chunk'}; {CUT}")
    place, length = samples_at
    channels, frames, width = struct.unpack_from(">HIH", common)
    coding = common[18:22] if form == b"AIFC" else b"NONE"
    offset = int.from_bytes(peek.at(place + 8, 4), "big")
    whole = outer + 8 == peek.size - start
    end = samples_end(peek, place + 8, length, whole=whole)
    first = min(place + 16 + offset, end)
    block = channels * (_SAMPLE_BYTES.get(coding, -1) or (width + 7) // 8)
    samples = (end - first) // block if coding in _SAMPLE_BYTES and block > 0 else None
    honest = length == end - place - 8 > 0
    if samples is not None and samples != frames:
        if frames and honest and not is_placeholder(frames) and not is_placeholder(frames * block):
            raise ValueError(f"the header says {frames:,} samples and the file holds {samples:,}; {CUT}")
        honest = False
    file: IO[bytes] | Pieces = peek.file
    if not (honest and start == 0 and place + 8 + length <= outer + 8 <= peek.size + 1):
        if samples is not None:
            common = common[:2] + struct.pack(">I", samples) + common[6:]
        inner = before + b"COMM" + struct.pack(">I", len(common)) + common + b"\0" * (len(common) % 2)
        inner += b"SSND" + struct.pack(">III", min(end - first + 8, 0xFFFFFFFF), 0, 0)
        total = struct.pack(">I", min(4 + len(inner) + end - first, 0xFFFFFFFF))
        file = Pieces(peek.file, [b"FORM" + total + form + inner, (first, end)])
    return [Part(file, samples, speakers=_speakers(layout, channels))]


def caf_parts(peek: Peek, start: int) -> list[Part]:
    """Return the part of a CAF file (Apple's Core Audio Format).

    Raises:
        ValueError: it is damaged or cut short.
    """
    place, description, layout, packets, before = start + 8, b"", b"", b"", peek.at(start, 8)
    for _ in range(_MOST_CHUNKS):
        head = peek.at(place, 12)
        if len(head) < 12 or not is_name(head[:4]):
            raise ValueError(f"a CAF file without a data chunk; {CUT}")
        (length,) = struct.unpack(">q", head[4:])
        if head[:4] == b"data":
            break
        if length < 0 or length > peek.size:
            raise ValueError(f"a CAF file whose chunk {head[:4].decode()} has {length:,} bytes; {CUT}")
        body = peek.at(place + 12, min(length, 1 << 20))
        description = body if head[:4] == b"desc" else description
        layout = body if head[:4] == b"chan" else layout
        packets = body if head[:4] == b"pakt" else packets
        before += head + body if len(body) == length and len(before) < 1 << 24 else b""
        place += 12 + length
    if len(description) < 32:
        raise ValueError(f"a CAF file without a desc chunk; {CUT}")
    coding, _, block, _, channels = struct.unpack_from(">4sIIII", description, 8)
    first = place + 12
    if length < 0:
        end = peek.size
    elif length > peek.size - first:
        raise ValueError(f"the sound ends after {peek.size - first:,} of {length:,} bytes of samples; {CUT}")
    else:
        end = first + length
    # The first four bytes of the chunk count edits.
    samples = max(0, end - first - 4) // block if coding in (b"lpcm", b"alaw", b"ulaw") and block else None
    packets = packets or (_check_behind_caf(peek, end) if length >= 0 else b"")
    if samples is None and len(packets) >= 24:
        valid, before_first = struct.unpack_from(">qi", packets, 8)
        samples = valid if valid > 0 and not before_first else None
    file: IO[bytes] | Pieces = peek.file
    if length < 0 or start:
        file = Pieces(peek.file, [before + b"data" + struct.pack(">q", end - first), (first, end)])
    return [Part(file, samples, padded=True, speakers=_speakers(layout, channels))]


def _check_behind_caf(peek: Peek, place: int) -> bytes:
    """Return the packet table, if it follows the samples."""
    packets = b""
    while (left := peek.size - place) >= 12:
        head = peek.at(place, 12)
        (length,) = struct.unpack(">q", head[4:])
        if not is_name(head[:4]) or not 0 <= length <= left - 12 or head[:4] == b"data":
            if end_without_tags(peek, place) == place or peek.empty(place, peek.size):
                return packets
            raise ValueError(f"{left:,} bytes that are no chunk follow the samples of a CAF file; it is damaged")
        packets = peek.at(place + 12, 24) if head[:4] == b"pakt" else packets
        place += 12 + length
    return packets


def au_parts(peek: Peek, start: int) -> list[Part]:
    """Return the part of an AU file, ``.snd`` or, with little-endian samples, ``dns.``.

    Raises:
        ValueError: it is damaged or cut short.
    """
    order = "<" if peek.at(start, 4) == b"dns." else ">"
    head = peek.at(start, 24)
    if len(head) < 24:
        raise ValueError(f"an AU file of {peek.size} bytes has no whole header; {CUT}")
    offset, said, coding, rate, channels = struct.unpack_from(f"{order}5I", head, 4)
    first = start + max(offset, 24)
    if first > peek.size:
        raise ValueError(f"the samples begin at byte {first:,} of an AU file of {peek.size:,}; {CUT}")
    end = samples_end(peek, first, said, chunks=False)
    block = channels * _AU_BYTES.get(coding, 0)
    file: IO[bytes] | Pieces = peek.file
    if start or said != end - first or end != peek.size:
        size = min(end - first, 0xFFFFFFFF)
        file = Pieces(peek.file, [head[:4] + struct.pack(f"{order}5I", 24, size, coding, rate, channels), (first, end)])
    return [Part(file, (end - first) // block if block else None, speakers=WAV.get(channels, ()))]


def _speakers(layout: bytes, channels: int) -> tuple[str, ...]:
    """Read a channel layout of Core Audio; without one it is that of wav files."""
    if len(layout) < 12:
        return WAV.get(channels, ())
    tag, mask, count = struct.unpack_from(">III", layout)
    if tag == 1 << 16:
        return of_mask(mask, channels)
    if tag == 0 and count == channels and len(layout) >= 12 + 20 * count:
        labels = [int.from_bytes(layout[12 + 20 * index : 16 + 20 * index], "big") for index in range(count)]
        return tuple(_LABELS.get(label, f"label {label}") for label in labels)
    named = tuple(_LAYOUTS.get(tag >> 16, "").split())
    return named if len(named) == channels else ()
