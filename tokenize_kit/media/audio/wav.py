"""Wav files: RIFF, RIFX (big-endian), RF64 and BW64 (of more than 4 GiB), and Sony's Wave64.

The decoder is given the file as it is if its sizes are true, else its samples behind a header that is.
"""

from __future__ import annotations

import struct
from typing import IO, NamedTuple

from tokenize_kit.media.audio.lengths import is_name, samples_end
from tokenize_kit.media.audio.mpeg import find_mpeg, mpeg_parts
from tokenize_kit.media.audio.part import Part, Pieces
from tokenize_kit.media.audio.speakers import of_mask
from tokenize_kit.media.containers.peek import CUT, Peek

W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")

_PLAIN = {1: 1, 3: 1, 6: 1, 7: 1}
"""Format tags whose frames all have the size of ``nBlockAlign``: integers, floats, A-law, mu-law."""
_MPEG_TAGS = (0x50, 0x55)
_MOST_CHUNKS = 100_000


class Form(NamedTuple):
    """What the ``fmt`` chunk says."""

    tag: int
    channels: int
    rate: int
    block: int
    speakers: tuple[str, ...]


def form(chunk: bytes, order: str = "<") -> Form:
    """Read a ``fmt`` chunk (WAVEFORMAT, WAVEFORMATEX or WAVEFORMATEXTENSIBLE).

    Raises:
        ValueError: it is too short to be one.
    """
    if len(chunk) < 14:
        raise ValueError(f"its fmt chunk has {len(chunk)} bytes; {CUT}")
    tag, channels, rate, _, block = struct.unpack_from(f"{order}HHIIH", chunk)
    speakers = of_mask(0, channels)
    if tag == 0xFFFE and len(chunk) >= 40:
        mask, tag = struct.unpack_from(f"{order}IH", chunk, 20)
        speakers = of_mask(mask, channels)
    return Form(tag, channels, rate, block, speakers)


def wav_parts(peek: Peek, start: int) -> list[Part]:
    """Return the parts of a file that begins with RIFF, RIFX, RF64 or BW64 at ``start``, and is a wav file.

    Raises:
        ValueError: it is damaged or cut short.
    """
    kind = peek.at(start, 4)
    order, word = (">", "big") if kind == b"RIFX" else ("<", "little")
    outer = _number(peek.at(start + 4, 4), word)
    place, ordinary = start + 12, start == 0 and kind != b"BW64"
    found: dict[bytes, bytes] = {}
    for _ in range(_MOST_CHUNKS):
        head = peek.at(place, 8)
        if len(head) < 8:
            raise ValueError(f"a wav file without a data chunk; {CUT}")
        name, length = head[:4], _number(head[4:], word)
        if name == b"data":
            break
        if name in (b"fmt ", b"fact", b"ds64"):
            found.setdefault(name, peek.at(place + 8, min(length, 1 << 16)))
        place += 8 + length
        if length % 2:
            # Some writers do not pad an odd chunk.
            padded = is_name(peek.at(place + 1, 4))
            place, ordinary = place + padded, ordinary and padded
    else:
        raise ValueError(f"a wav file of more than {_MOST_CHUNKS:,} chunks")
    if b"fmt " not in found:
        raise ValueError(f"a wav file without a fmt chunk before its samples; {CUT}")
    said, bits, first = length, 32, place + 8
    if kind in (b"RF64", b"BW64") and said == 0xFFFFFFFF and len(found.get(b"ds64", b"")) >= 16:
        outer, said = struct.unpack_from("<QQ", found[b"ds64"])
        bits = 64
    whole = outer + 8 == peek.size - start
    end = samples_end(peek, first, said, bits=bits, whole=whole)
    about = form(found[b"fmt "], order)
    if about.tag in _MPEG_TAGS:
        begin = find_mpeg(peek, first, end)
        if begin is None:
            raise ValueError(f"there are no MP3 frames in a wav file that says so; {CUT}")
        return mpeg_parts(peek, begin, end)
    honest = said == end - first > 0 and outer + 8 >= end - start
    samples = (end - first) // about.block if about.tag in _PLAIN and about.block else None
    file: IO[bytes] | Pieces = peek.file
    if not (ordinary and honest and outer + 8 <= peek.size - start + 1):
        extra = {b"fact": found[b"fact"]} if honest and b"fact" in found else {}
        file = wav_of(peek.file, {b"fmt ": found[b"fmt "], **extra}, (first, end), order)
    return [Part(file, samples, speakers=about.speakers)]


def wave64_parts(peek: Peek, start: int) -> list[Part]:
    """Return the part of a Wave64 file.

    Raises:
        ValueError: it is damaged or cut short.
    """
    outer = int.from_bytes(peek.at(start + 16, 8), "little")
    place, chunk = start + 40, b""
    for _ in range(_MOST_CHUNKS):
        head = peek.at(place, 24)
        if len(head) < 24:
            raise ValueError(f"a Wave64 file without samples; {CUT}")
        size = int.from_bytes(head[16:], "little")
        if head[:16] == b"data" + _W64_TAIL:
            break
        if head[:16] == b"fmt " + _W64_TAIL:
            chunk = peek.at(place + 24, min(max(0, size - 24), 1 << 16))
        if size < 24:
            raise ValueError(f"a Wave64 file with a chunk of {size} bytes; it is damaged")
        place += size + -size % 8
    about = form(chunk)
    first, said = place + 24, max(0, size - 24)
    # Chunks behind the samples have names of sixteen bytes.
    if 0 < said <= peek.size - first and peek.at(first + said + -size % 8, 16)[4:] == _W64_TAIL:
        end = first + said
    else:
        whole = outer == peek.size - start
        end = samples_end(peek, first, said, bits=64, whole=whole, chunks=False)
    samples = (end - first) // about.block if about.tag in _PLAIN and about.block else None
    # Libsndfile takes all that follows for samples.
    honest = start == 0 and said == end - first > 0 and end == peek.size
    file = peek.file if honest else wav_of(peek.file, {b"fmt ": chunk}, (first, end))
    return [Part(file, samples, speakers=about.speakers)]


def wav_of(file: IO[bytes], chunks: dict[bytes, bytes], samples: tuple[int, int], order: str = "<") -> Pieces:
    """Return a wav file of these chunks and of samples that lie between two places of another file."""
    size = samples[1] - samples[0]
    body = b"".join(
        name + struct.pack(f"{order}I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks.items()
    )
    riff = 4 + len(body) + 8 + size
    if riff < 1 << 32:
        head = (b"RIFF" if order == "<" else b"RIFX") + struct.pack(f"{order}I", riff) + b"WAVE" + body
        return Pieces(file, [head + b"data" + struct.pack(f"{order}I", size), samples])
    if order == ">":
        raise ValueError("a big-endian wav file of more than 4 GiB")
    large = b"ds64" + struct.pack("<IQQQI", 28, riff + 36, size, 0, 0)
    head = b"RF64" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + large + body
    return Pieces(file, [head + b"data" + struct.pack("<I", 0xFFFFFFFF), samples])


def _number(data: bytes, order: str) -> int:
    return int.from_bytes(data, "little" if order == "little" else "big")
