"""What it is to compute a sample whole or in pieces along one of its axes, with the same result.

Samples are ``(B, axes..., C)`` here: the channels of a place lie together, so that matrix products and convolutions on CPUs need
no copies. A sound is (B, T, C), a video (B, T, H, W, C). Pieces follow one another along one axis, which each layer knows as its
``axis``; the others are whole in every piece. ``forward`` takes a whole sample, as if zeros stood around it, and returns T
outputs for T inputs (T / stride, T * stride). ``push`` takes the next piece, of any length, and returns what is certain by now:

    state = layer.start()
    for piece in pieces:
        y, state = layer.push(piece, state, piece is pieces[-1])

The pieces of y, joined along the axis, are what ``forward`` returns. A state is never changed in place, so an old one can be gone
on from again. Here are the two ways to look at what is beside a place (`Windowed`, `Spread`) and how layers are put together
(`Chain`, `Residual`); the layers themselves are in `layers.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State: TypeAlias = Any
"""None at the start, or what a layer keeps: tensors, and tuples of states."""


class Layer(nn.Module):
    """Base of all layers; by itself, one that looks at each place alone, so a subclass may write ``forward`` only."""

    axis: int | None = None
    """The axis of (B, axes..., C) along which pieces follow one another; None where that makes no difference."""

    def start(self) -> State:
        """Return the state before the first piece."""
        return None

    def push(self, x: Tensor, state: State, _last: bool, /) -> tuple[Tensor, State]:
        """Return the outputs that are certain after one more piece, and the new state."""
        assert state is None
        return self(x), None

    def needs(self, count: int) -> int:
        """Return how many inputs must have been seen so that the first ``count`` outputs are certain."""
        return count


class Windowed(Layer, ABC):
    """Base of layers each of whose outputs sees a window of the inputs; a subclass writes `compute`.

    Args:
        span: places from the first to the last of a window, at least the stride.
        stride: inputs from one window to the next.
        left, right: zeros that stand before and after a sample.
        axis: along which the windows follow one another, and the pieces too.
        repeat: before a sample its first place stands again and again, instead of zeros.
    """

    axis: int

    def __init__(self, span: int, stride: int, left: int, right: int, axis: int = 1, repeat: bool = False) -> None:
        super().__init__()
        assert span >= stride
        self.span, self.stride, self.left, self.right, self.axis = span, stride, left, right, axis
        self.repeat = repeat

    @abstractmethod
    def compute(self, x: Tensor) -> Tensor:
        """Return the outputs of all windows that fit into ``x``, at least one, around which nothing is added."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a whole sample."""
        if self.repeat or self.span == 1:
            return self.push(x, None, True)[0]
        sides = (0, 0) * (x.ndim - 1 - self.axis)
        return self.compute(F.pad(x, (*sides, self.left, self.right)))

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        axis = self.axis
        if self.span == 1 and x.shape[axis]:
            return self.compute(x), None  # nothing to keep, and nothing to copy
        if state is None and not x.shape[axis] and (self.repeat or self.span == 1):
            return _cut(self.compute(_zeros(x, axis, self.span)), axis, 0, 0), None
        before = self._before(x) if state is None else state
        x = torch.cat([before, x, _zeros(x, axis, self.right if last else 0)], axis)
        count = max(0, (x.shape[axis] - self.span) // self.stride + 1)
        rest = _cut(x, axis, count * self.stride, x.shape[axis])
        if not count:
            return _cut(self.compute(_zeros(x, axis, self.span)), axis, 0, 0), rest
        return self.compute(_cut(x, axis, 0, (count - 1) * self.stride + self.span)), rest

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        return (count - 1) * self.stride + self.span - self.left

    def _before(self, x: Tensor) -> Tensor:
        """Return what stands before a sample that begins with ``x``."""
        axis = self.axis
        if not self.repeat:
            return _zeros(x, axis, self.left)
        return _cut(x, axis, 0, 1).expand(*x.shape[:axis], self.left, *x.shape[axis + 1 :])


class Spread(Layer, ABC):
    """Base of layers that spread each input over a window of outputs, which add up where windows overlap.

    A subclass writes `spread`, and `finish` if something is to be done with the sums.

    Args:
        span: outputs of a window, at least the stride.
        stride: outputs from one window to the next.
        left, right: outputs that are cut off at the beginning and at the end of a sample.
        axis: along which the windows follow one another, and the pieces too.
    """

    axis: int

    def __init__(self, span: int, stride: int, left: int, right: int, axis: int = 1) -> None:
        super().__init__()
        assert span >= stride
        self.span, self.stride, self.left, self.right, self.axis = span, stride, left, right, axis

    @abstractmethod
    def spread(self, x: Tensor) -> Tensor:
        """Return the T * stride + span - stride sums of the windows of T inputs, in memory of their own."""

    def finish(self, sums: Tensor) -> Tensor:
        """Return the outputs that sums become when nothing is added to them any more."""
        return sums

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a whole sample."""
        sums = self.spread(x)
        return self.finish(_cut(sums, self.axis, self.left, sums.shape[self.axis] - self.right))

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        axis = self.axis
        skip, before = (self.left, None) if state is None else state
        sums = self.spread(x)
        if before is not None:
            _cut(sums, axis, 0, before.shape[axis]).add_(before)
        size, done = sums.shape[axis], x.shape[axis] * self.stride
        stop = size - self.right if last else done
        return self.finish(_cut(sums, axis, skip, stop)), (max(0, skip - done), _cut(sums, axis, done, size))

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        return -(-(count + self.left) // self.stride)


class Chain(Layer):
    """Layers one after the other.

    Raises:
        ValueError: they stream along different axes.
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        axes = {layer.axis for layer in self._layers()} - {None}
        if len(axes) > 1:
            raise ValueError(f"the layers of a chain stream along different axes, {sorted(map(str, axes))}; use one")
        self.axis = next(iter(axes), None)

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes out at the end."""
        for layer in self.layers:
            x = layer(x)
        return x

    def start(self) -> State:
        """See `Layer.start`."""
        return tuple(layer.start() for layer in self._layers())

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        states = []
        for layer, before in zip(self._layers(), state, strict=True):
            x, after = layer.push(x, before, last)
            states.append(after)
        return x, tuple(states)

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        for layer in reversed(self._layers()):
            count = layer.needs(count)
        return count

    def _layers(self) -> list[Layer]:
        return cast("list[Layer]", list(self.layers))


class Residual(Layer):
    """A layer whose output is added to what came in. Pieces of it wait until the layer has looked far enough ahead."""

    def __init__(self, inner: Layer) -> None:
        super().__init__()
        self.inner = inner
        self.axis = inner.axis

    def forward(self, x: Tensor) -> Tensor:
        """Return a sample of the same shape."""
        y: Tensor = x + self.inner(x)
        return y

    def start(self) -> State:
        """See `Layer.start`."""
        return None, self.inner.start()

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        waiting, inner = state
        y, inner = self.inner.push(x, inner, last)
        if self.axis is None:
            return x + y, (None, inner)
        if waiting is not None:
            x = torch.cat([waiting, x], self.axis)
        count = y.shape[self.axis]
        rest = _cut(x, self.axis, count, x.shape[self.axis])
        return _cut(x, self.axis, 0, count) + y, (rest if rest.shape[self.axis] else None, inner)

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        return self.inner.needs(count)


def _cut(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    return x.narrow(axis, start, max(0, stop - start))


def _zeros(x: Tensor, axis: int, count: int) -> Tensor:
    """Return ``count`` places of zeros that can be joined to ``x`` along the axis."""
    return x.new_zeros(*x.shape[:axis], count, *x.shape[axis + 1 :])
