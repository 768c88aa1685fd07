"""Symbols to words and back: constriction's range coder, and the checksums that tell early that the two ends disagree.

A file is one coder: rows that are coded side by side take turns in it, so that however many there are they end in one word. The
checksums do not lie between the words. They are a list of pieces: how many calls of `code` each has, and the crc32 of its
symbols. The first piece ends after some hundred bytes, so that a machine that computes other logits finds out at once.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from trainers.autoregressive.coding.tables import weights_of

FIRST_PIECE = 512
"""Bytes after which the first piece ends."""
LATER_PIECES = 2048
"""The same of the others. A piece takes 6 or 7 bytes, a third of a hundredth of this."""

Symbols = NDArray[np.int64]


class Piece(NamedTuple):
    """Some of what was coded, for a check."""

    calls: int
    """How many calls of `Coder.code` it has."""
    checksum: int
    """The crc32 of its symbols, 4 bytes each."""


class DisagreementError(Exception):
    """What was decoded is not what was encoded: somewhere before, other logits were computed."""


class Coder(Protocol):
    """One of the two ends. Both are given the same logits in the same order."""

    def code(self, logits: NDArray[np.float32], symbols: Symbols) -> Symbols:
        """Code one symbol a row, and return them.

        Args:
            logits: (N, V), N at least 1 and V at least 2.
            symbols: (N,), from 0 to V - 1; not looked at by the end that reads.

        Raises:
            DisagreementError: this end reads, and a piece is not what it was.
        """
        ...


class Writer:
    """The end that writes."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()
        self._model = constriction.stream.model.Categorical(perfect=False)
        self._calls = self._checksum = 0
        self._until = FIRST_PIECE
        self.pieces: list[Piece] = []

    def code(self, logits: NDArray[np.float32], symbols: Symbols) -> Symbols:
        """See `Coder.code`."""
        found = symbols.astype(np.int32)
        self._encoder.encode(found, self._model, weights_of(logits))
        self._checksum, self._calls = zlib.crc32(_bytes(found), self._checksum), self._calls + 1
        if 4 * self._encoder.num_words() >= self._until:
            self._close()
        return symbols

    def finish(self) -> bytes:
        """Return all words, little-endian; `pieces` is complete then."""
        if self._calls:
            self._close()
        words: NDArray[np.uint32] = self._encoder.get_compressed()
        return words.astype("<u4").tobytes()

    def _close(self) -> None:
        self.pieces.append(Piece(self._calls, self._checksum))
        self._calls = self._checksum = 0
        self._until = 4 * self._encoder.num_words() + LATER_PIECES


class Reader:
    """The end that reads.

    Args:
        data: what `Writer.finish` gave.
        pieces: its pieces.
    """

    def __init__(self, data: bytes, pieces: list[Piece]) -> None:
        self._decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        self._model = constriction.stream.model.Categorical(perfect=False)
        self._pieces, self._calls, self._checksum = iter(pieces), 0, 0
        self._piece = next(self._pieces, None)

    def code(self, logits: NDArray[np.float32], symbols: Symbols) -> Symbols:  # noqa: ARG002
        """See `Coder.code`."""
        if self._piece is None:
            raise DisagreementError
        weights = weights_of(logits)
        try:
            found: NDArray[np.int32] = self._decoder.decode(self._model, weights)
        except AssertionError:
            # How constriction says that no symbol is coded like this.
            raise DisagreementError from None
        self._checksum, self._calls = zlib.crc32(_bytes(found), self._checksum), self._calls + 1
        if self._calls == self._piece.calls:
            if self._checksum != self._piece.checksum:
                raise DisagreementError
            self._piece = next(self._pieces, None)
            self._calls = self._checksum = 0
        return found.astype(np.int64)

    def finish(self) -> None:
        """Check that all pieces were read.

        Raises:
            DisagreementError: there are more.
        """
        if self._piece is not None:
            raise DisagreementError


def _bytes(symbols: NDArray[Any]) -> bytes:
    return symbols.astype("<i4").tobytes()
