"""What one decoder reads from its beginning to its end, and views of the bytes of a file that its examination needs.

A sound file is a list of parts: mostly one, several where files were joined (MP3) or links chained (Ogg). Whoever examines a
format hands each part to the decoder as a file of its own, with a header that is true.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.float32]
"""Samples ``(n, C)``, as decoders give them."""

CUT = "it is damaged or cut short"

_AHEAD = 1 << 16
_LONGEST_TAG = 1024


class Spans(io.RawIOBase):
    """A file for reading that is put together of bytes and of stretches of another file.

    Args:
        file: the other file; it must stay open.
        pieces: bytes, or ``(start, end)`` in the other file.
        claimed: the length that is said when somebody seeks to the end; None says the true one.
    """

    def __init__(self, file: IO[bytes], pieces: Sequence[bytes | tuple[int, int]], claimed: int | None = None) -> None:
        super().__init__()
        self._file = file
        self._pieces = [piece for piece in pieces if _length(piece)]
        self._starts = [0]
        for piece in self._pieces:
            self._starts.append(self._starts[-1] + _length(piece))
        self._claimed = claimed
        self._place = 0

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that it can be sought in."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, which may lie behind the end."""
        end = self._starts[-1] if self._claimed is None else self._claimed
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: end}[whence])
        return self._place

    @property
    def _at_claimed_end(self) -> bool:
        return self._claimed is not None and self._place >= self._claimed - _LONGEST_TAG

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; fewer bytes than asked for are the end of a piece."""
        if self._place >= self._starts[-1]:
            # Who believes in the claimed length looks there for a tag; there is none.
            count = min(len(buffer), max(0, (self._claimed or 0) - self._place)) if self._at_claimed_end else 0
            buffer[:count] = bytes(count)
            self._place += count
            return count
        index = bisect_right(self._starts, self._place) - 1
        inside, piece = self._place - self._starts[index], self._pieces[index]
        count = min(len(buffer), self._starts[index + 1] - self._place)
        if isinstance(piece, bytes):
            data = piece[inside : inside + count]
        else:
            self._file.seek(piece[0] + inside)
            data = self._file.read(count)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


class Pieces(NamedTuple):
    """A file that is put together, see `Spans`, and not yet open: there may be thousands of parts."""

    file: IO[bytes]
    pieces: Sequence[bytes | tuple[int, int]]
    claimed: int | None = None

    def open(self) -> IO[bytes]:
        """Open it, read ahead: decoders ask for a few bytes at a time."""
        return cast("IO[bytes]", io.BufferedReader(Spans(*self), _AHEAD))


def _length(piece: bytes | tuple[int, int]) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]


class Part(NamedTuple):
    """A stretch of sound that has one decoder."""

    file: IO[bytes] | Pieces
    """What the decoder reads."""
    samples: int | None = None
    """How many samples there are, a channel, if the format states it to the sample and the decoder cannot be asked."""
    padded: bool = False
    """Whether what is decoded beyond `samples` is padding."""
    stated: int = 0
    """How many samples the header says there are, which may be wrong; 0 if it does not say."""
    slack: int = 0
    """How many samples fewer than stated are no sign of damage."""
    counted: bool = True
    """Whether the number of samples that the decoder itself announces holds."""
    speakers: tuple[str, ...] = ()
    """Where each channel belongs, see `tokenize_kit.media.audio.speakers`; empty if the format leaves it open."""
    rate: int = 0
    """Samples a second, where the examination has seen it; 0 if not."""
    channels: int = 0
    """Channels, the same."""
    verified: Callable[[Iterator[Block]], Iterator[Block]] | None = None
    """Passes the blocks on and checks what the format states of them."""
    container: bool = False
    """Whether it is a file of several tracks, which only FFmpeg reads."""
    fragmented: bool = False
    """Whether the length that such a file states is not that of the whole."""
    packets: tuple[int, ...] = ()
    """How many packets each sound track of such a file has, if that is known."""
    seconds: float = 0.0
    """How long such a file says that it is; 0 if it does not say."""
    note: str = ""
    """What was left out of the file or chosen in it, in words."""

    def open(self) -> IO[bytes]:
        """Return the file, at its beginning."""
        if isinstance(self.file, Pieces):
            return self.file.open()
        self.file.seek(0)
        return self.file


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
