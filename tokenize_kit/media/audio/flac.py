"""FLAC files: every frame to the end of the file, compared with the number of samples that the header states.

The decoder stops where the header says, so it is given a header that says more than any file holds. Whether that was all is
then known from the true header: its number of samples (0 where the encoder wrote to a pipe and did not know), and, where that
is wrong, its MD5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.media.audio.part import Block, Part, Pieces
from tokenize_kit.media.audio.speakers import WAV
from tokenize_kit.media.containers.peek import CUT, Peek, end_without_tags

_MOST = (1 << 36) - 1
_RATES = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
_WIDTHS = {8: "i1", 16: "<i2", 24: "<i4"}


def flac_parts(peek: Peek, start: int, decode: Callable[[IO[bytes], int], Iterator[Block]]) -> list[Part]:
    """Return the part of a FLAC file that begins with ``fLaC`` at ``start``.

    Args:
        peek: the file.
        start: where it begins.
        decode: decodes so many samples of a file, where the frames are followed by something else.

    Raises:
        ValueError: it is damaged or cut short.
    """
    head = peek.at(start, 42)
    if len(head) < 42 or head[4] & 0x7F or int.from_bytes(head[5:8], "big") < 34:
        raise ValueError(f"a FLAC file without STREAMINFO; {CUT}")
    packed = int.from_bytes(head[18:26], "big")
    rate, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    total, digest = packed & _MOST, head[26:42]
    place, last = start + 4, False
    while not last:
        block = peek.at(place, 4)
        if len(block) < 4:
            raise ValueError(f"a FLAC file that ends in its header; {CUT}")
        last = bool(block[0] & 0x80)
        place += 4 + int.from_bytes(block[1:], "big")
    if (stated := _rate_of(peek.at(place, 16))) not in (0, rate):
        raise ValueError(f"the header says {rate:,} Hz and the frames say {stated:,}; it is damaged")
    end = end_without_tags(peek, place)
    patched = head[:18] + (packed >> 36 << 36 | _MOST).to_bytes(8, "big") + head[26:]
    file = Pieces(peek.file, [patched, (start + 42, end)])
    again = Pieces(peek.file, [patched, (start + 42, end)])
    check = _Check(
        total, digest if any(digest) else b"", bits, lambda samples: decode(again.open(), samples), (peek.file, start)
    )
    speakers = WAV.get(channels, ())
    return [
        Part(file, stated=total, counted=False, speakers=speakers, rate=rate, channels=channels, verified=check.blocks)
    ]


def _rate_of(frame: bytes) -> int:
    """Return the sample rate that the header of a frame says, RFC 9639 section 9.1; 0 if it leaves it to STREAMINFO."""
    if len(frame) < 16 or frame[0] != 0xFF or frame[1] & 0xFE != 0xF8:
        return 0
    size, code = frame[2] >> 4, frame[2] & 15
    if code < len(_RATES):
        return _RATES[code]
    # Behind the number of the frame, coded like UTF-8, and the block size if that is written out.
    ones = 8 - (frame[4] ^ 0xFF).bit_length()
    place = 4 + max(1, ones) + {6: 1, 7: 2}.get(size, 0)
    wide = int.from_bytes(frame[place : place + 2], "big")
    return {12: frame[place] * 1000, 13: wide, 14: wide * 10}.get(code, 0)


class _Check:
    """Compares what comes out of a decoder with what STREAMINFO says."""

    def __init__(
        self, total: int, digest: bytes, bits: int, again: Callable[[int], Iterator[Block]], file: tuple[IO[bytes], int]
    ) -> None:
        self._total, self._digest, self._bits, self._again, self._file = total, digest, bits, again, file
        self._done = 0

    def blocks(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Pass on the blocks of the decoder.

        Raises:
            ValueError: they are not what the header says.
        """
        try:
            for block in blocks:
                self._done += len(block)
                yield block
        except ValueError:
            if not self._total:
                raise
            yield from self._rest()
        if self._total and self._done != self._total and not self._has_digest():
            raise ValueError(f"the header says {self._total:,} samples and the file holds {self._done:,}; {CUT}")

    def _rest(self) -> Iterator[Block]:
        """Yield what is missing if the frames are whole and something else follows them, which the decoder stumbled over."""
        if _holds_another(*self._file):
            raise ValueError("two FLAC files in one; take them apart")
        skip = self._done
        for block in self._again(self._total):
            part, skip = block[skip:], max(0, skip - len(block))
            if len(part):
                self._done += len(part)
                yield part

    def _has_digest(self) -> bool:
        """Return whether the samples are those of the MD5, so that only their number in the header is wrong.

        It is not asked of every file: it would take a sixth of the time of decoding, and each frame has a checksum of its own.
        """
        width = _WIDTHS.get(self._bits)
        if not self._digest or width is None:
            return False
        found = hashlib.md5(usedforsecurity=False)
        for block in self._again(self._done):
            whole: NDArray[Any] = (block * float(1 << self._bits - 1)).astype(width)
            if self._bits == 24:
                whole = np.ascontiguousarray(whole.view("u1").reshape(-1, 4)[:, :3])
            found.update(whole.data)
        return found.digest() == self._digest


def _holds_another(file: IO[bytes], start: int) -> bool:
    mark = b"fLaC\0\0\0\x22"
    file.seek(start + 8)
    before = b""
    while piece := file.read(1 << 20):
        if mark in before + piece:
            return True
        before = piece[-8:]
    return False
