"""What the convolutional body is built from: convolutions over frames and time, norms, residual blocks, squares of places.

Milliseconds on one thread of a processor without AVX-512, float32, for 17 frames of 32x32 places with 32 channels / 9 of 16x16
with 64 / 5 of 8x8 with 128, as `benchmarks/video_convolutions.py` printed them: without gradients each frame by a call of its
own, and forward and backward for all frames of two videos.

    kernel and form                          frame by frame        forward and backward
    (1, 3, 3) conv2d                         5.8 / 4.8 / 3.1       38 / 27 / 16
    (3, 1, 1) one matrix product             2.9 / 2.6 / 1.4       55 / 13 / 6.6
    (3, 1, 1) conv2d over time and places    5.4 / 2.1 / 1.8       54 / 12 / 7.0
    (3, 3, 3) conv2d of all frames' channels 31 / 15 / 14          145 / 60 / 40
    (3, 3, 3) conv2d of each, added          36 / 16 / 9.2         121 / 62 / 42
    (3, 3, 3) conv3d                         83 / 22 / 15          164 / 71 / 39

Taken are the first, the second and the fifth: a kernel over three axes costs three of a frame, a factorised one half of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.layers import NORM_EPS, CausalConvolution, Norm
from tokenize_kit.tokenizers.learned.streaming import Chain, Layer, State

GROUPS = 32
SIDE = 3
"""Places along height and width that the convolutions of blocks see."""


def frame_convolution(inputs: int, outputs: int, side: int) -> CausalConvolution:
    """Return a convolution over ``side`` x ``side`` places of each frame by itself."""
    return CausalConvolution(inputs, outputs, (1, side, side))


class Factorised(Chain):
    """A convolution over each frame, then one over the time at each place, which passes on what it is given at the start."""

    def __init__(self, inputs: int, outputs: int, kernel: int, repeat: bool) -> None:
        frame = frame_convolution(inputs, outputs, SIDE)
        time = CausalConvolution(outputs, outputs, (kernel, 1, 1), repeat=repeat)
        super().__init__([frame, time])
        self.blind()

    @property
    def frame(self) -> CausalConvolution:
        """The convolution over a frame."""
        return cast("CausalConvolution", self.layers[0])

    @property
    def time(self) -> CausalConvolution:
        """The convolution over the time."""
        return cast("CausalConvolution", self.layers[1])

    def blind(self) -> None:
        """Look at no frame but its own."""
        pass_on(self.time)

    def clear(self) -> None:
        """Give zeros."""
        nn.init.zeros_(self.frame.weight)
        nn.init.zeros_(self.frame.bias)


class Full(CausalConvolution):
    """A convolution over time, height and width at once; at the start it sees its own frame alone.

    It is the sum of one convolution for each frame that it sees: so frames whose kernel is 0 change no bit.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, repeat: bool) -> None:
        super().__init__(inputs, outputs, (kernel, SIDE, SIDE), repeat=repeat)
        # What is left must have the size of a convolution over one frame.
        bound = (SIDE * SIDE * inputs) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        self.blind()

    def compute(self, x: Tensor) -> Tensor:
        """See `Windowed.compute`."""
        count = x.shape[1] - self.span + 1
        size = count if torch.is_grad_enabled() else 1
        return torch.cat([self._sums(x, first, size) for first in range(0, count, size)], 1)

    def _sums(self, x: Tensor, first: int, count: int) -> Tensor:
        """Return ``count`` outputs (B, count, H, W, O) from ``first`` on."""
        own, *before = reversed(range(self.span))
        kernels = self.weight.movedim(-1, 2).unbind(1)
        seen = x[:, first : first + self.span - 1 + count]
        y = F.conv2d(planes(seen[:, own:]), kernels[own], self.bias, padding=SIDE // 2)
        for place in before:
            y = y + F.conv2d(planes(seen[:, place : place + count]), kernels[place], padding=SIDE // 2)
        return of_planes(y, seen[:, own:])

    def blind(self) -> None:
        """Look at no frame but its own."""
        nn.init.zeros_(self.weight[:, :-1])

    def clear(self) -> None:
        """Give zeros."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def convolution(inputs: int, outputs: int, kind: str, kernel: int, repeat: bool) -> Factorised | Full:
    """Return a convolution over 3x3 places of ``kernel`` frames, causal in time.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        kind: ``factorised`` or ``full``.
        kernel: frames that it sees.
        repeat: before the first frame this stands again, instead of zeros.
    """
    return (Factorised if kind == "factorised" else Full)(inputs, outputs, kernel, repeat)


def pass_on(layer: CausalConvolution, times: int = 1) -> None:
    """Make a convolution over time alone give its newest input, ``times`` times as channels after one another."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    channels = layer.weight.shape[-1]
    for first in range(0, times * channels, channels):
        nn.init.eye_(layer.weight[first : first + channels, -1, 0, 0])


class GroupNorm(Layer):
    """GroupNorm over each frame by itself: 32 groups as in VQGAN, or the most that divide. Nothing of other frames is seen."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = next(groups for groups in range(min(GROUPS, channels), 0, -1) if channels % groups == 0)
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a video of the same shape."""
        if not x.shape[1]:
            return x
        return of_planes(F.group_norm(planes(x), self.groups, self.weight, self.bias, NORM_EPS), x)


def make_norm(channels: int, kind: str) -> Layer:
    """Return the norm of ``channels`` channels: ``rms``, over the channels of each place, or ``group``."""
    return Norm(channels) if kind == "rms" else GroupNorm(channels)


class Block(Layer):
    """Norm, SiLU and a convolution, twice, added to what came in (B, T, H, W, C); starts as the identity.

    Args:
        channels: C.
        norm: ``rms`` or ``group``.
        make: returns a convolution from and to so many channels.
    """

    axis = 1

    def __init__(self, channels: int, norm: str, make: Callable[[int, int], Factorised | Full]) -> None:
        super().__init__()
        self.norm1, self.norm2 = make_norm(channels, norm), make_norm(channels, norm)
        self.conv1, self.conv2 = make(channels, channels), make(channels, channels)
        self.conv2.clear()

    def forward(self, x: Tensor) -> Tensor:
        """Return a video of the same shape."""
        h = self.conv1(F.silu(self.norm1(x)))
        result: Tensor = x + self.conv2(F.silu(self.norm2(h)))
        return result

    def start(self) -> State:
        """See `Layer.start`."""
        return self.conv1.start(), self.conv2.start()

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        h, first = self.conv1.push(F.silu(self.norm1(x)), state[0], last)
        h, second = self.conv2.push(F.silu(self.norm2(h)), state[1], last)
        return x + h, (first, second)


class SpaceToChannels(Layer):
    """Squares of places (B, T, H, W, C) to the channels of one, (B, T, H / side, W / side, C * side^2), as torch has them."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Return a smaller video."""
        batch, steps, height, width, channels = x.shape
        if not steps:  # of which torch forgets the shape
            return x.new_zeros(batch, 0, height // self.side, width // self.side, channels * self.side**2)
        return of_planes(F.pixel_unshuffle(planes(x), self.side), x) if self.side > 1 else x


class ChannelsToSpace(Layer):
    """The inverse of `SpaceToChannels`."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Return a larger video."""
        batch, steps, height, width, channels = x.shape
        if not steps:
            return x.new_zeros(batch, 0, height * self.side, width * self.side, channels // self.side**2)
        return of_planes(F.pixel_shuffle(planes(x), self.side), x) if self.side > 1 else x


def planes(x: Tensor) -> Tensor:
    """Return the frames of videos (B, T, H, W, C) as maps (B * T, C, H, W), channels last in memory."""
    return x.flatten(0, 1).movedim(-1, 1)


def of_planes(maps: Tensor, x: Tensor) -> Tensor:
    """Return maps (B * T, C, H, W) as videos (B, T, H, W, C) with the B and T of ``x``."""
    return maps.movedim(1, -1).view(*x.shape[:2], *maps.shape[2:], maps.shape[1])
