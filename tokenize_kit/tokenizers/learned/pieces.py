"""A sample in pieces: tiles of pictures, and pieces of sounds and videos.

What one id says depends on what is around it, so a piece must know more than its own places. There are two ways to that, and a
sample can go one way along some of its axes and the other way along another, as a video with tiles in space that streams in time:

- A **margin** (`Cut`, `cut`, `computed`), where the shape is known. Any number of axes is cut; each piece looks at some ids of
  the ones beside it too, and knows nothing of what they have computed:

      |<------- length ------->|
      | tile 0 | tile 1 | tile 2|        each id belongs to one piece
      |<- reads 0 ->|                    a piece reads a margin on both sides, as far as there is something
           |<--- reads 1 --->|

- A **memory** (`Aligned`), where the end is not known yet, and the layers keep what they have seen (see `streaming.py`). Nothing
  is read twice, and along the axis that streams one piece comes after the other:

      places  |<-- look-ahead + piece -->|<-- piece -->|<-- piece -->|<- rest ->|
      ids     |<------- piece ------->|<-- piece -->|<-- piece -->|<--- rest --->|

In both, each id belongs to one piece, and the pieces follow from numbers of ids alone, whatever memory there is and however a
sample comes in. So ids are defined, and the same to the bit. There is no more in common: the first asks for the shape at the
beginning and puts parts together, the second holds a state and a queue; a class for both would have two halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from tokenize_kit.tokenizers.learned.streaming import State


class Span(NamedTuple):
    """One piece along one axis, in ids."""

    start: int
    """First id that it makes."""
    stop: int
    """One past the last."""
    read_start: int
    """First id that it looks at."""
    read_stop: int
    """One past the last."""


Piece: TypeAlias = tuple[Span, ...]
"""A piece of a grid: a span for each axis that is cut."""


@dataclass(frozen=True)
class Cut:
    """How one axis is cut."""

    size: int
    """Ids that a piece makes; fewer at the end."""
    before: int
    """Ids in front of its own that it looks at, as far as there are some."""
    after: int
    """Ids behind its own that it looks at."""

    def spans(self, length: int) -> Iterator[Span]:
        """Yield the pieces of an axis of ``length`` ids."""
        for start in range(0, length, self.size):
            stop = min(length, start + self.size)
            yield Span(start, stop, max(0, start - self.before), min(length, stop + self.after))


def cut(shape: Sequence[int], cuts: Sequence[Cut]) -> Iterator[Piece]:
    """Yield the pieces of a grid, row after row, each axis with a `Cut` of its own."""
    return product(*(cut.spans(length) for cut, length in zip(cuts, shape, strict=True)))


def computed(
    shape: Sequence[int],
    cuts: Sequence[Cut],
    compute: Callable[[Piece], Tensor],
    *,
    first: int = 1,
    factors: Sequence[int] | None = None,
) -> Tensor:
    """Compute a grid, or what it covers, piece by piece, and put the pieces together.

    Args:
        shape: ids along each axis that is cut, at least one.
        cuts: how each is.
        compute: returns all that a piece reads, on the CPU: along axis ``first + i``, ``factors[i]`` places for each id that it
            reads along axis i. What does not belong to the piece is thrown away.
        first: the axis of the tensors that is the first of ``shape``, e.g. 1 behind a batch, 2 behind a batch and channels.
        factors: places of the result for each id; None: 1.
    """
    factors = (1,) * len(shape) if factors is None else factors
    result: Tensor | None = None
    for piece in cut(shape, cuts):
        made = compute(piece)
        if result is None:
            whole = [length * factor for length, factor in zip(shape, factors, strict=True)]
            sizes = (*made.shape[:first], *whole, *made.shape[first + len(whole) :])
            result = torch.empty(sizes, dtype=made.dtype)
        own = result
        for axis, (span, factor) in enumerate(zip(piece, factors, strict=True), first):
            count = (span.stop - span.start) * factor
            made = made.narrow(axis, (span.start - span.read_start) * factor, count)
            own = own.narrow(axis, span.start * factor, count)
        own.copy_(made)
    assert result is not None, "a grid has at least one id"
    return result


def window(pixels: Tensor, piece: Piece, factor: int) -> Tensor:
    """Return what a tile reads of pictures (..., H, W), at ``factor`` pixels an id.

    Beyond the edge the last row or column is repeated.
    """
    top, bottom, left, right = (place * factor for span in piece for place in (span.read_start, span.read_stop))
    if bottom <= pixels.shape[-2] and right <= pixels.shape[-1]:
        return pixels[..., top:bottom, left:right]
    rows = torch.arange(top, bottom).clamp_(max=pixels.shape[-2] - 1)
    columns = torch.arange(left, right).clamp_(max=pixels.shape[-1] - 1)
    return pixels[..., rows, :][..., columns]


class Push(Protocol):
    """Computes one piece of a sample that streams."""

    def __call__(self, piece: Tensor, state: State, last: bool, steps: int | None, /) -> tuple[Tensor, State]:
        """Return what is certain after one more piece, and the new state.

        Args:
            piece: the places that follow those of the call before.
            state: what that call returned.
            last: whether the sample ends with this piece.
            steps: how many ids of the piece count, those after them only fill it up; None: all.
        """
        ...


class Aligned:
    """Hands what comes in, in pieces of any length along one axis, to a network in pieces of one length at fixed places.

    Args:
        push: computes a piece.
        state: that of the network before the first piece.
        size: places of a piece.
        ahead: places that the first piece has besides, because the network looks so far ahead; fewer if it is negative, because
            the beginning of a sample has an id of its own.
        step: places for each id.
        axis: along which pieces come in.
        made_axis: the same of what comes out.
        eager: hand out what is certain of a piece that is not full yet, too. It is computed with zeros where nothing has come in,
            its state is forgotten, and it is computed again when there is more. For networks that see nothing that comes later.
        hold: keep the last place back, so that the network is told which piece is the last. Not where that makes no difference,
            and not in an eager stream.
    """

    def __init__(
        self,
        push: Push,
        state: State,
        size: int,
        *,
        ahead: int = 0,
        step: int = 1,
        axis: int = 0,
        made_axis: int = 0,
        eager: bool = False,
        hold: bool = True,
    ) -> None:
        self._hold = hold and not eager
        self._push, self._state, self._size, self._step, self._eager = push, state, size, step, eager
        self._axis, self._made_axis = axis, made_axis
        self._room = size + ahead
        self._waiting = _Queue(axis)
        self._shown = self._given = 0
        self.seen = 0
        """Places that came in."""
        self.handed = 0
        """Places that were handed out, along ``made_axis``."""

    @property
    def waiting(self) -> int:
        """Places that came in and belong to no piece yet."""
        return len(self._waiting)

    def push(self, part: Tensor) -> list[Tensor]:
        """Take the next part of the sample, and return what is certain now."""
        self._waiting.add(part)
        self.seen += part.shape[self._axis]
        made = []
        while self.waiting >= self._room + self._hold:
            made.append(self.advance(self._waiting.take(self._room)))
        sure = (self.waiting - (self._room - self._size)) // self._step
        if self._eager and sure > self._shown:
            self._shown = sure
            y, _ = self._push(_filled(self._waiting.look(), self._room, self._axis), self._state, False, sure)
            made.append(self._fresh(y))
            self._given = y.shape[self._made_axis]
        return made

    def advance(self, piece: Tensor, last: bool = False, steps: int | None = None) -> Tensor:
        """Compute the next piece for good; return what of it has not been handed out yet."""
        y, self._state = self._push(piece, self._state, last, steps)
        y = self._fresh(y)
        self._room, self._shown, self._given = self._size, 0, 0
        return y

    def filled(self) -> Tensor:
        """Take what waits, at most a piece, with zeros after it up to the length of one."""
        return _filled(self._waiting.take(min(self._room, self.waiting)), self._room, self._axis)

    def rest(self) -> Tensor:
        """Take all that waits."""
        return self._waiting.take(self.waiting)

    def _fresh(self, y: Tensor) -> Tensor:
        y = y.narrow(self._made_axis, self._given, y.shape[self._made_axis] - self._given)
        self.handed += y.shape[self._made_axis]
        return y


class _Queue:
    """Parts of a tensor along one axis, first in, first out."""

    def __init__(self, axis: int) -> None:
        self._axis, self._parts, self._length = axis, list[Tensor](), 0

    def __len__(self) -> int:
        return self._length

    def add(self, part: Tensor) -> None:
        # A copy, because the caller may fill the same memory again.
        self._parts.append(part.clone())
        self._length += part.shape[self._axis]

    def look(self) -> Tensor:
        """Return all that is there, and keep it."""
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts, self._axis)]
        return self._parts[0]

    def take(self, count: int) -> Tensor:
        """Return the first ``count`` places, and keep the rest."""
        whole = self.look()
        self._parts = [whole.narrow(self._axis, count, self._length - count)]
        self._length -= count
        return whole.narrow(self._axis, 0, count)


def _filled(part: Tensor, length: int, axis: int) -> Tensor:
    """Return ``part`` with zeros after it, ``length`` places along the axis."""
    missing = list(part.shape)
    missing[axis] = length - part.shape[axis]
    return torch.cat([part, part.new_zeros(missing)], axis)
