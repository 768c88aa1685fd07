"""Which parts a sound file has, and whether all of each is there, before anything is decoded.

The rule: what a format states is compared with what is there, by a walk over its chunks, pages, frames or boxes; what it does
not state is read to the end. Decoders take a part for the whole without a word.
"""

from __future__ import annotations

import struct
from typing import IO

from tokenize_kit.media.audio.aiff import aiff_parts, au_parts, caf_parts
from tokenize_kit.media.audio.decoders import decode_exactly
from tokenize_kit.media.audio.flac import flac_parts
from tokenize_kit.media.audio.lengths import samples_end
from tokenize_kit.media.audio.mpeg import check_adts, find_adts, find_mpeg, mpeg_parts
from tokenize_kit.media.audio.ogg import ogg_parts
from tokenize_kit.media.audio.part import Part, Pieces
from tokenize_kit.media.audio.speakers import WAV
from tokenize_kit.media.audio.wav import W64_RIFF, wav_parts, wave64_parts
from tokenize_kit.media.containers.boxes import MP4_TYPES, check_mp4
from tokenize_kit.media.containers.ebml import check_matroska
from tokenize_kit.media.containers.peek import CUT, Peek, start_without_tags
from tokenize_kit.media.containers.riff import check_avi

_AMR = {b"#!AMR\n": (12, 13, 15, 17, 19, 20, 26, 31, 5), b"#!AMR-WB\n": (17, 23, 32, 36, 40, 46, 50, 58, 60, 5)}
"""Bytes of a frame after its first, by its type."""


def parts_of(file: IO[bytes]) -> list[Part]:
    """Return the parts of a sound file, one at least.

    Raises:
        ValueError: it is damaged or cut short, or holds something else than it says.
    """
    peek = Peek(file)
    start = start_without_tags(peek)
    head = peek.at(start, 16)
    kind, form = head[:4], head[8:12]
    if kind in (b"RIFF", b"RIFX", b"RF64", b"BW64") and form == b"WAVE":
        return wav_parts(peek, start)
    if kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        return aiff_parts(peek, start)
    if kind == b"fLaC":
        return flac_parts(peek, start, decode_exactly)
    if kind == b"OggS":
        return ogg_parts(peek, start)
    if kind in (b".snd", b"dns."):
        return au_parts(peek, start)
    if kind == b"caff":
        return caf_parts(peek, start)
    if head == W64_RIFF:
        return wave64_parts(peek, start)
    if kind == b"\x1a\x45\xdf\xa3":
        return [Part(file, container=True, packets=check_matroska(peek).sounds)]
    if kind == b"RIFF" and form == b"AVI ":
        check_avi(peek)
        return [Part(file, container=True)]
    if head[4:8] in MP4_TYPES:
        movie = check_mp4(peek)
        return [Part(file, container=True, fragmented=movie.fragmented, seconds=movie.seconds)]
    return _raw_parts(peek, start, head)


def _raw_parts(peek: Peek, start: int, head: bytes) -> list[Part]:
    """The same for files that begin with their first frame, and for those that are rare."""
    for mark, sizes in _AMR.items():
        if head.startswith(mark):
            _check_amr(peek, start + len(mark), sizes)
            return [_tail(peek, start)]
    if head[:8] == b"NIST_1A\n":
        return [_sphere(peek, start)]
    if (begin := find_mpeg(peek, start)) is not None:
        return mpeg_parts(peek, begin, peek.size, begin - start)
    if (begin := find_adts(peek, start)) is not None:
        check_adts(peek, begin, peek.size)
        return [_tail(peek, begin)]
    return [_htk(peek, start)]


def _tail(peek: Peek, start: int) -> Part:
    return Part(Pieces(peek.file, [(start, peek.size)]) if start else peek.file)


def _check_amr(peek: Peek, place: int, sizes: tuple[int, ...]) -> None:
    while place < peek.size:
        kind = peek.at(place, 1)[0] >> 3 & 15
        # 15 is a frame without data, 14 one that was lost.
        place += 1 + (sizes[kind] if kind < len(sizes) else 0)
        if len(sizes) <= kind < 14:
            raise ValueError(f"there is no AMR frame at byte {place:,}; the sound is damaged")
    if place > peek.size:
        raise ValueError(f"the sound ends in the middle of an AMR frame; {CUT}")


def _htk(peek: Peek, start: int) -> Part:
    """Examine a waveform of the HTK, which begins with its number of samples: the last format that has no mark.

    Raises:
        ValueError: it is none, so nothing that is known.
    """
    head = peek.at(start, 12)
    if len(head) == 12:
        count, period, width, kind = struct.unpack(">IIHH", head)
        if kind == 0 and width == 2 and period and count and peek.size - start == 12 + 2 * count:
            return _tail(peek, start)
    raise ValueError(f"not a sound that can be read ({peek.size:,} bytes that begin as no format that is known)")


def _sphere(peek: Peek, start: int) -> Part:
    """Examine a NIST SPHERE file, as many collections of speech are."""
    text = peek.at(start, 1 << 16).split(b"end_head", 1)[0].decode("latin-1")
    lines = text.splitlines()
    words = {
        name: value for line in lines[2:] if len(found := line.split(maxsplit=2)) == 3 for name, _, value in [found]
    }
    try:
        size = int(lines[1])
        count, width, channels = (
            int(words.get(name, "0")) for name in ("sample_count", "sample_n_bytes", "channel_count")
        )
    except (IndexError, ValueError):
        raise ValueError(f"a SPHERE file whose header cannot be read; {CUT}") from None
    block, first = width * max(1, channels), start + size
    if "," in words.get("sample_coding", "") or not block or not count or size < 64:
        raise ValueError("a SPHERE file that is compressed, or does not say how many samples it holds")
    end = samples_end(peek, first, count * block, chunks=False)
    file = peek.file if start == 0 and end == peek.size else Pieces(peek.file, [(start, end)])
    return Part(file, count, speakers=WAV.get(channels, ()))
