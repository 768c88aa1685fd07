"""Fewer frames and more frames: a blend of what is pooled or repeated and of what a convolution makes of it.

    y = sigma(a) * pooled + (1 - sigma(a)) * convolved,  a = 2 at the start      (VidTok, Tang et al. 2024, arXiv 2412.13061)

The first frame stays one frame: going down its step is the frame itself, going up the first factor - 1 of its frames are dropped.

    frames  0 | 1 2 | 3 4 | ..      factor 2; down, a step sees the frames of the step before too
    steps   0 |  1  |  2  | ..
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.layers import CausalConvolution
from tokenize_kit.tokenizers.learned.streaming import Layer, State, Windowed
from tokenize_kit.tokenizers.learned.video.networks.blocks import pass_on
from tokenize_kit.tokenizers.learned.video.time import latent_steps

BLEND = 2.0
"""The a of a fresh layer: 88 % are pooled or repeated."""
STEPS = 2
"""Latent steps that the convolution of `TimeUp` sees."""


class TimeDown(Windowed):
    """1 + n * factor frames (B, T, H, W, C) to 1 + n steps. Before the first frame this stands again.

    Args:
        channels: C.
        factor: frames of a step, a power of two.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(factor + 1, factor, factor, 0, repeat=True)
        self.convolution = CausalConvolution(channels, channels, (factor + 1, 1, 1), stride=(factor, 1, 1))
        self.blend = nn.Parameter(torch.full((1,), BLEND))
        self.blind()

    def blind(self) -> None:
        """Give the last frame of each step, in the part that a convolution makes."""
        pass_on(self.convolution)

    def compute(self, x: Tensor) -> Tensor:
        """See `Windowed.compute`."""
        pooled = x[:, 1:].reshape(len(x), -1, self.stride, *x.shape[2:])
        # By twos, so that the mean of equal frames is that frame to the bit.
        while pooled.shape[2] > 1:
            pooled = (pooled[:, :, ::2] + pooled[:, :, 1::2]) / 2
        return _blended(pooled.squeeze(2), self.convolution.compute(x), self.blend)


class TimeUp(Layer):
    """1 + n steps (B, t, H, W, C) to 1 + n * factor frames.

    Args:
        channels: C.
        factor: frames of a step.
    """

    axis = 1

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.convolution = CausalConvolution(channels, factor * channels, (STEPS, 1, 1), repeat=True)
        self.blend = nn.Parameter(torch.full((1,), BLEND))
        self.blind()

    def blind(self) -> None:
        """Give each step again and again, in the part that a convolution makes."""
        pass_on(self.convolution, self.factor)

    def forward(self, x: Tensor) -> Tensor:
        """Return the frames of whole videos."""
        return self._frames(x, self.convolution(x), True)

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        convolved, after = self.convolution.push(x, state, last)
        return self._frames(x, convolved, state is None), after

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        return latent_steps(count, self.factor)

    def _frames(self, x: Tensor, convolved: Tensor, first: bool) -> Tensor:
        convolved = convolved.view(*x.shape[:-1], self.factor, x.shape[-1]).movedim(-2, 2).flatten(1, 2)
        y = _blended(x.repeat_interleave(self.factor, 1), convolved, self.blend)
        return y[:, self.factor - 1 :] if first else y


def _blended(plain: Tensor, convolved: Tensor, blend: Tensor) -> Tensor:
    # In this form equal parts give themselves to the bit.
    return plain + (convolved - plain) * (1 - torch.sigmoid(blend))
