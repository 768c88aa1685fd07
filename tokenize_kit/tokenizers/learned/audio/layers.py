"""Layers over time that compute a sound whole or in pieces, with the same result.

Sequences are ``(B, T, C)`` here: the channels of a place lie together, so that matrix products and convolutions on CPUs need
no copies. ``forward`` takes a whole sequence, as if zeros stood before and after it, and returns T outputs for T inputs (T /
stride, T * stride). ``push`` takes the next piece, of any length, and returns what is certain by now:

    state = layer.start()
    for piece in pieces:
        y, state = layer.push(piece, state, piece is pieces[-1])

The pieces of y, joined, are what ``forward`` returns. A state is never changed in place, so an old one can be gone on from again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

State: TypeAlias = Any
"""None at the start, or what a layer keeps: tensors, and tuples of states."""

NORM_EPS = 1e-6


class Layer(nn.Module):
    """Base of all layers; by itself, one that looks at each place alone, so a subclass may write ``forward`` only."""

    def start(self) -> State:
        """Return the state before the first piece."""
        return None

    def push(self, x: Tensor, state: State, _last: bool, /) -> tuple[Tensor, State]:
        """Return the outputs (B, t, C) that are certain after one more piece (B, n, C), and the new state."""
        assert state is None
        return self(x), None

    def needs(self, count: int) -> int:
        """Return how many inputs must have been seen so that the first ``count`` outputs are certain."""
        return count


class Convolution(Layer):
    """A convolution over time.

    With K places from the first to the last that it sees, K - stride zeros stand around the sequence: all before it in causal
    layers, else half before and half after it, the odd one before.

    Args:
        inputs, outputs: channels.
        kernel: places that it sees, at least the stride.
        stride: inputs for each output.
        dilation: distance between the places that it sees.
        groups: 1, or ``inputs`` for a depthwise convolution.
        causal: see nothing that comes later.
        normed: with weight norm.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        causal: bool = False,
        normed: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation, self.groups = kernel, stride, dilation, groups
        self.span = (kernel - 1) * dilation + 1
        if self.span < stride:
            raise ValueError(f"a convolution that sees {self.span} places cannot have a stride of {stride}")
        self.right = 0 if causal else (self.span - stride) // 2
        self.left = self.span - stride - self.right
        fan_in = kernel * inputs // groups
        self.weight = nn.Parameter(_uniform(fan_in, outputs, kernel, inputs // groups))
        self.bias = nn.Parameter(_uniform(fan_in, outputs))
        if normed:
            weight_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, T / stride, O) of a whole sequence (B, T, I)."""
        if self.left == self.right and self.stride == 1:
            return self._convolve(x, self.left)
        return self._convolve(F.pad(x, (0, 0, self.left, self.right)))

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        before = x.new_zeros(len(x), self.left, x.shape[2]) if state is None else state
        x = torch.cat([before, x, x.new_zeros(len(x), self.right if last else 0, x.shape[2])], 1)
        count = max(0, (x.shape[1] - self.span) // self.stride + 1)
        rest = x[:, count * self.stride :]
        if not count:
            return x.new_zeros(len(x), 0, self.bias.shape[0]), rest
        return self._convolve(x[:, : (count - 1) * self.stride + self.span]), rest

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        return (count - 1) * self.stride + self.span - self.left

    def _convolve(self, x: Tensor, padding: int = 0) -> Tensor:
        weight = self.weight
        if self.kernel == 1 and self.stride == 1 and self.groups == 1:
            return F.linear(x, weight[:, 0], self.bias)
        if self.stride > 1 and self.dilation == 1 and self.kernel % self.stride == 0:
            return self._products(x, weight)
        planes = x.transpose(1, 2).unsqueeze(2)
        y = F.conv2d(
            planes,
            weight.transpose(1, 2).unsqueeze(2),
            self.bias,
            (1, self.stride),
            (0, padding),
            (1, self.dilation),
            self.groups,
        )
        return y.squeeze(2).transpose(1, 2).contiguous()

    def _products(self, x: Tensor, weight: Tensor) -> Tensor:
        # Stretches of a stride's length are rows of a matrix, without a copy; an output is the sum over a few of them.
        size = self.stride * x.shape[2]
        parts = self.kernel // self.stride
        rows = x.reshape(len(x), x.shape[1] // self.stride, size)
        count = rows.shape[1] - parts + 1
        weights = torch.split(weight.flatten(1), size, 1)
        y = F.linear(rows[:, :count], weights[0], self.bias)
        for part in range(1, parts):
            y = y + F.linear(rows[:, part : part + count], weights[part])
        return y


class TransposedConvolution(Layer):
    """The mirror of a strided `Convolution`: each input is spread over ``kernel`` outputs, ``stride`` after one another.

    Of the kernel - stride outputs too many, causal layers cut off all at the end, others half on each side, the odd one in front.

    Args:
        inputs, outputs: channels.
        kernel: a multiple of the stride.
        stride: outputs for each input.
        causal: no output sees what comes later.
        normed: with weight norm.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, *, causal: bool = False, normed: bool = False
    ) -> None:
        super().__init__()
        if kernel % stride:
            raise ValueError(f"kernel {kernel} of a transposed convolution is not a multiple of its stride {stride}")
        self.kernel, self.stride, self.outputs = kernel, stride, outputs
        self.right = kernel - stride if causal else (kernel - stride) // 2
        self.left = kernel - stride - self.right
        fan_in = inputs * kernel // stride
        self.weight = nn.Parameter(_uniform(fan_in, inputs, kernel, outputs))
        self.bias = nn.Parameter(_uniform(fan_in, outputs))
        if normed:
            weight_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, T * stride, O) of a whole sequence (B, T, I)."""
        y = self._spread(x, None) + self.bias
        return y[:, self.left : y.shape[1] - self.right]

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        skip, before = (self.left, None) if state is None else state
        y = self._spread(x, before)
        done = x.shape[1] * self.stride
        stop = y.shape[1] - self.right if last else done
        return y[:, skip:stop] + self.bias, (max(0, skip - done), y[:, done:])

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        return -(-(count + self.left) // self.stride)

    def _spread(self, x: Tensor, before: Tensor | None) -> Tensor:
        """Return (B, T * stride + kernel - stride, O): all that the inputs add up to, ``before`` included."""
        size, parts, count = self.stride * self.outputs, self.kernel // self.stride, x.shape[1]
        first, *others = torch.split(self.weight.flatten(1), size, 1)
        made = x @ first
        after = made.new_zeros(len(x), parts - 1, size)
        y = torch.cat([made, after], 1)
        for part, weight in enumerate(others, 1):
            y[:, part : part + count] += x @ weight
        y = y.view(len(x), (count + parts - 1) * self.stride, self.outputs)
        if before is not None:
            y[:, : before.shape[1]] += before
        return y


class Recurrent(Layer):
    """An LSTM over time, added to what came in (EnCodec). It looks back only, whether the network is causal or not."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence of the same shape."""
        y: Tensor = self.lstm(x)[0]
        return x + y

    def push(self, x: Tensor, state: State, _last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        if not x.shape[1]:
            return x, state
        y, state = self.lstm(x, state)
        return x + y, state


class Chain(Layer):
    """Layers one after the other."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

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

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence of the same shape."""
        y: Tensor = x + self.inner(x)
        return y

    def start(self) -> State:
        """See `Layer.start`."""
        return None, self.inner.start()

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        waiting, inner = state
        y, inner = self.inner.push(x, inner, last)
        if waiting is not None:
            x = torch.cat([waiting, x], 1)
        count = y.shape[1]
        rest = x[:, count:]
        return x[:, :count] + y, (rest if rest.shape[1] else None, inner)

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        return self.inner.needs(count)


class Linear(Layer):
    """A linear layer at each place."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_uniform(inputs, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, outputs)."""
        return F.linear(x, self.weight, self.bias)


class Norm(Layer):
    """RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) over the channels of each place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence of the same shape."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), NORM_EPS)


class Scale(Layer):
    """A learned factor for each channel, small at first (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, channels: int, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence of the same shape."""
        return x * self.weight.to(x.dtype)


class Float32(Layer):
    """The same in float32, whatever precision the layer before computed in: the sums of residual blocks need it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence of the same shape."""
        return x.float()


class Elu(Layer):
    """The exponential linear unit.

    torch's own takes half of the time of an EnCodec on a CPU, because its exp(x) - 1 is exact near 0. Where no gradient is
    wanted, a quick exp is enough: it is as near to the true value as 1 + x can be in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence of the same shape."""
        if torch.is_grad_enabled() or x.dtype != torch.float32:
            return F.elu(x)
        below = x.clamp(max=0).exp_().sub_(1)
        return torch.maximum(x, below, out=below)


class Gelu(Layer):
    """The Gaussian error linear unit, in its tanh form."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence of the same shape."""
        return F.gelu(x, approximate="tanh")


class Tanh(Layer):
    """Squashes values into -1 to 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence of the same shape."""
        return torch.tanh(x)


class Snake(Layer):
    """x + sin(a x)^2 / a with a learned a for each channel (Ziyin et al. 2020, arXiv 2006.08195), as in DAC."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence of the same shape."""
        alpha = self.alpha.to(x.dtype)
        return torch.addcmul(x, torch.sin(x * alpha).square(), 1 / (alpha + 1e-9))


def _uniform(fan_in: int, *shape: int) -> Tensor:
    """Return fresh weights, uniform within 1 / sqrt(fan_in), as torch's own layers have them."""
    bound = 1 / math.sqrt(fan_in)
    return torch.empty(shape).uniform_(-bound, bound)
