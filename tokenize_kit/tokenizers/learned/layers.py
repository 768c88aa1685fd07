"""Layers that stream: convolutions, an LSTM, and what looks at each place alone; see `streaming.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tokenize_kit.tokenizers.learned.streaming import Layer, Spread, State, Windowed

NORM_EPS = 1e-6


class Convolution(Windowed):
    """A convolution over sequences (B, T, C), which stream along their one axis.

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
        span = (kernel - 1) * dilation + 1
        if span < stride:
            raise ValueError(f"a convolution that sees {span} places cannot have a stride of {stride}")
        right = 0 if causal else (span - stride) // 2
        super().__init__(span, stride, span - stride - right, right)
        self.kernel, self.dilation, self.groups = kernel, dilation, groups
        fan_in = kernel * inputs // groups
        self.weight = nn.Parameter(_uniform(fan_in, outputs, kernel, inputs // groups))
        self.bias = nn.Parameter(_uniform(fan_in, outputs))
        if normed:
            weight_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, T / stride, O) of a whole sequence (B, T, I)."""
        if self.left == self.right and self.stride == 1:
            return self._convolve(x, self.left)
        return super().forward(x)

    def compute(self, x: Tensor) -> Tensor:
        """See `Windowed.compute`."""
        return self._convolve(x)

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


class CausalConvolution(Windowed):
    """A convolution over several axes of samples (B, axes..., C), causal along the one that streams.

    Output t sees the inputs up to t * stride along that axis and nothing later: the first output sees the first input alone, and
    1 + (T - 1) / stride outputs belong to T inputs. Along the other axes, n inputs give n / stride outputs; kernel - stride zeros
    stand around them, half on each side, the odd one before. Along the one that streams, zeros stand before the first input, or
    this stands there again.

    Each step along the axis that streams is computed by a call of its own where no gradient is wanted. Libraries choose the order
    of sums by the shape, so only then are its bits the same in every piece. For training all steps go together.

    Args:
        inputs, outputs: channels.
        kernel: places that it sees along each axis, at least the stride; two to four axes.
        stride: inputs for each output along each axis; None: 1.
        axis: the axis of the samples that streams, from 1 on.
        repeat: before the first input along that axis, this stands again, instead of zeros.

    Raises:
        ValueError: kernel, stride and axis do not belong together.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        *,
        stride: Sequence[int] | None = None,
        axis: int = 1,
        repeat: bool = False,
    ) -> None:
        stride = (1,) * len(kernel) if stride is None else stride
        if len(kernel) - 1 not in _CONVOLUTIONS or len(stride) != len(kernel) or not 1 <= axis <= len(kernel):
            raise ValueError(
                f"a convolution over 2 to 4 axes has a kernel and a stride for each, and streams along one of them, "
                f"got kernel {tuple(kernel)}, stride {tuple(stride)}, axis {axis}"
            )
        for places, step in zip(kernel, stride, strict=True):
            if not 1 <= step <= places:
                raise ValueError(f"a convolution that sees {places} places cannot have a stride of {step}")
        super().__init__(kernel[axis - 1], stride[axis - 1], kernel[axis - 1] - 1, 0, axis, repeat)
        others = [place for place in range(len(kernel)) if place != axis - 1]
        self.whole_stride = tuple(stride[place] for place in others)
        beyond = [kernel[place] - stride[place] for place in others]
        # Equal zeros on both sides are the convolution's own matter, and cost no copy.
        even = all(both % 2 == 0 for both in beyond)
        self.padding = tuple(both // 2 for both in beyond) if even else (0,) * len(beyond)
        self.sides = () if even else tuple(s for both in reversed(beyond) for s in (both - both // 2, both // 2))
        self.alone = all(kernel[place] == 1 for place in others)
        self.convolve = _CONVOLUTIONS[len(others)]
        fan_in = math.prod(kernel) * inputs
        self.weight = nn.Parameter(_uniform(fan_in, outputs, *kernel, inputs))
        self.bias = nn.Parameter(_uniform(fan_in, outputs))

    def compute(self, x: Tensor) -> Tensor:
        """See `Windowed.compute`."""
        x = x.movedim(self.axis, 1)
        if self.sides:
            x = F.pad(x, (0, 0, *self.sides))
        # What is seen along the axis that streams becomes channels of a convolution over the others.
        weight = self.weight.movedim(self.axis, -2).flatten(-2).movedim(-1, 1)
        count = (x.shape[1] - self.span) // self.stride + 1
        size = count if torch.is_grad_enabled() else 1
        made = [self._steps(x, first, size, weight) for first in range(0, count, size)]
        return torch.cat(made, 1).movedim(1, self.axis)

    def _steps(self, x: Tensor, first: int, count: int, weight: Tensor) -> Tensor:
        """Return ``count`` outputs (B, count, other axes..., O) from ``first`` on."""
        start, stop = first * self.stride, (first + count - 1) * self.stride + 1
        parts = [x[:, start + place : stop + place : self.stride] for place in range(self.span)]
        seen = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        if self.alone:
            return F.linear(seen, weight.flatten(1), self.bias)
        y = self.convolve(seen.flatten(0, 1).movedim(-1, 1), weight, self.bias, self.whole_stride, self.padding)
        y = y.movedim(1, -1)
        return y.reshape(len(x), count, *y.shape[1:])


class TransposedConvolution(Spread):
    """The mirror of a strided convolution: each input is spread over ``kernel`` outputs, ``stride`` after one another.

    Of the kernel - stride outputs too many, causal layers cut off all at the end, others half on each side, the odd one in front.
    In samples with several axes, each place of the others is spread by itself.

    Args:
        inputs, outputs: channels.
        kernel: a multiple of the stride.
        stride: outputs for each input.
        causal: no output sees what comes later.
        normed: with weight norm.
        axis: along which inputs are spread.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        *,
        causal: bool = False,
        normed: bool = False,
        axis: int = 1,
    ) -> None:
        if kernel % stride:
            raise ValueError(f"kernel {kernel} of a transposed convolution is not a multiple of its stride {stride}")
        right = kernel - stride if causal else (kernel - stride) // 2
        super().__init__(kernel, stride, kernel - stride - right, right, axis)
        self.outputs = outputs
        fan_in = inputs * kernel // stride
        self.weight = nn.Parameter(_uniform(fan_in, inputs, kernel, outputs))
        self.bias = nn.Parameter(_uniform(fan_in, outputs))
        if normed:
            weight_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a whole sample.

        The bias is added before the ends are cut off: its gradient is a sum over all places, whose order decides the last bit.
        """
        y = self.finish(self.spread(x))
        return y.narrow(self.axis, self.left, y.shape[self.axis] - self.right - self.left)

    def spread(self, x: Tensor) -> Tensor:
        """See `Spread.spread`."""
        axis, count, parts = self.axis, x.shape[self.axis], self.span // self.stride
        size = self.stride * self.outputs
        first, *others = torch.split(self.weight.flatten(1), size, 1)
        made = x @ first
        after = made.new_zeros(*made.shape[:axis], parts - 1, *made.shape[axis + 1 :])
        y = torch.cat([made, after], axis)
        for part, weight in enumerate(others, 1):
            y.narrow(axis, part, count).add_(x @ weight)
        places = y.view(*y.shape[:-1], self.stride, self.outputs).movedim(-2, axis + 1)
        return places.flatten(axis, axis + 1)

    def finish(self, sums: Tensor) -> Tensor:
        """See `Spread.finish`."""
        return sums + self.bias


class Recurrent(Layer):
    """An LSTM over sequences (B, T, C), added to what came in (EnCodec). It looks back only, in any network."""

    axis = 1

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return a sample of the same shape."""
        y: Tensor = self.lstm(x)[0]
        return x + y

    def push(self, x: Tensor, state: State, _last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        if not x.shape[1]:
            return x, state
        y, state = self.lstm(x, state)
        return x + y, state


class Linear(Layer):
    """A linear layer at each place."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_uniform(inputs, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs)."""
        return F.linear(x, self.weight, self.bias)


class Norm(Layer):
    """RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) over the channels of each place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a sample of the same shape."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), NORM_EPS)


class Scale(Layer):
    """A learned factor for each channel, small at first (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, channels: int, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Return a sample of the same shape."""
        return x * self.weight.to(x.dtype)


class Float32(Layer):
    """The same in float32, whatever precision the layer before computed in: the sums of residual blocks need it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a sample of the same shape."""
        return x.float()


class Gelu(Layer):
    """The Gaussian error linear unit, in its tanh form."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a sample of the same shape."""
        return F.gelu(x, approximate="tanh")


class Silu(Layer):
    """The sigmoid-weighted linear unit, x * sigmoid(x) (Elfwing et al. 2017, arXiv 1702.03118)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a sample of the same shape."""
        return F.silu(x)


class Tanh(Layer):
    """Squashes values into -1 to 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a sample of the same shape."""
        return torch.tanh(x)


def _uniform(fan_in: int, *shape: int) -> Tensor:
    """Return fresh weights, uniform within 1 / sqrt(fan_in), as torch's own layers have them."""
    bound = 1 / math.sqrt(fan_in)
    return torch.empty(shape).uniform_(-bound, bound)


_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
"""torch's convolutions by the number of their axes."""
