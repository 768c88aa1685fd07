"""What one decoder reads from its beginning to its end.

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
