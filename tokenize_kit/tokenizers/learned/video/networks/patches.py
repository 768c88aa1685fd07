"""From pixels to places at the resolution of the ids and back: patches, the first frame's and the others', and Haar bands.

Inside, videos are (B, T, H, W, C), see `streaming.py`.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.layers import Linear
from tokenize_kit.tokenizers.learned.streaming import Layer, State
from tokenize_kit.tokenizers.learned.video.config import VideoNetworkConfig
from tokenize_kit.tokenizers.learned.video.time import frames_of, latent_steps


class Patches(Layer):
    """Frames (B, T, H, W, C) to places (B, t, h, w, width): linear, the first frame by a layer of its own.

    Args:
        config: the channels and the factors.
        width: channels of a place.
        haar: whether the values of a patch are transformed first; see `bands`.
        apart: whether the low band makes the first quarter of the channels, and the high ones the rest.
    """

    axis = 1

    def __init__(self, config: VideoNetworkConfig, width: int, haar: bool, apart: bool) -> None:
        super().__init__()
        self.time, self.side, self.haar, self.apart = config.temporal_factor, config.spatial_factor, haar, apart
        size = config.channels * self.side**2
        self.first = _Parted(size, width, 4) if apart else Linear(size, width)
        self.others = _Parted(size * self.time, width, 8) if apart else Linear(size * self.time, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the places of a whole video."""
        return self.push(x, None, True)[0]

    def push(self, x: Tensor, state: State, _last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`. The state is the frames of a step that is not whole yet."""
        made = []
        if state is None:
            made.append(self.first(self._bands(patches(x[:, :1], 1, self.side))))
            x = x[:, 1:]
        elif state.shape[1]:
            x = torch.cat([state, x], 1)
        whole = x.shape[1] - x.shape[1] % self.time
        if whole or not made:
            made.append(self.others(self._bands(patches(x[:, :whole], self.time, self.side))))
        return torch.cat(made, 1) if len(made) > 1 else made[0], x[:, whole:].clone()

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        return frames_of(count, self.time)

    def _bands(self, x: Tensor) -> Tensor:
        return bands(x).flatten(-5) if self.haar else x.flatten(-4)


class Frames(Layer):
    """The mirror of `Patches`: places (B, t, h, w, width) to frames (B, T, H, W, C)."""

    axis = 1

    def __init__(self, config: VideoNetworkConfig, width: int, haar: bool, apart: bool) -> None:
        super().__init__()
        self.time, self.side, self.haar = config.temporal_factor, config.spatial_factor, haar
        self.channels = config.channels
        size = config.channels * self.side**2
        self.first = _Joined(width, size, 4) if apart else Linear(width, size)
        self.others = _Joined(width, size * self.time, 8) if apart else Linear(width, size * self.time)

    def forward(self, x: Tensor) -> Tensor:
        """Return the frames of a whole video."""
        return self.push(x, False, True)[0]

    def start(self) -> State:
        """Return whether the first step has been seen."""
        return False

    def push(self, x: Tensor, state: State, _last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        made = []
        if not state and x.shape[1]:
            made.append(self._frames(self.first(x[:, :1]), 1))
            x = x[:, 1:]
        if x.shape[1] or not made:
            made.append(self._frames(self.others(x), self.time))
        return torch.cat(made, 1) if len(made) > 1 else made[0], True

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        return latent_steps(count, self.time)

    def _frames(self, x: Tensor, time: int) -> Tensor:
        if not self.haar:
            return frames(x.reshape(*x.shape[:-1], time, self.side, self.side, self.channels))
        half = (max(1, time // 2), self.side // 2, self.side // 2, self.channels)
        return frames(pixels(x.reshape(*x.shape[:-1], 8 if time > 1 else 4, *half)))


class _Parted(nn.Module):
    """Values of bands, the low one first, to channels of which the first quarter comes from the low band alone."""

    def __init__(self, size: int, width: int, count: int) -> None:
        super().__init__()
        self.sizes = [size // count, size - size // count]
        self.low, self.high = Linear(self.sizes[0], width // 4), Linear(self.sizes[1], width - width // 4)

    def forward(self, x: Tensor) -> Tensor:
        low, high = torch.split(x, self.sizes, -1)
        return torch.cat([self.low(low), self.high(high)], -1)


class _Joined(nn.Module):
    """The mirror of `_Parted`."""

    def __init__(self, width: int, size: int, count: int) -> None:
        super().__init__()
        self.sizes = [width // 4, width - width // 4]
        self.low, self.high = Linear(self.sizes[0], size // count), Linear(self.sizes[1], size - size // count)

    def forward(self, x: Tensor) -> Tensor:
        low, high = torch.split(x, self.sizes, -1)
        return torch.cat([self.low(low), self.high(high)], -1)


def patches(x: Tensor, time: int, side: int) -> Tensor:
    """Cut frames (B, T, H, W, C) into (B, T / time, H / side, W / side, time, side, side, C)."""
    batch, steps, height, width, channels = x.shape
    x = x.reshape(batch, steps // time, time, height // side, side, width // side, side, channels)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7)


def frames(x: Tensor) -> Tensor:
    """Put patches (B, t, h, w, time, side, side, C) together: the inverse of `patches`."""
    batch, steps, rows, columns, time, side, _, channels = x.shape
    x = x.permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, steps * time, rows * side, columns * side, channels)


def bands(x: Tensor) -> Tensor:
    """Split patches (..., time, side, side, C) into (..., bands, time / 2, side / 2, side / 2, C), the low one first.

    One orthonormal step of the Haar transform: 8 bands, or 4 of patches of one frame, whose time is left as it is.
    """
    time, side, channels = x.shape[-4], x.shape[-2], x.shape[-1]
    pair = 2 if time > 1 else 1
    x = x.reshape(*x.shape[:-4], time // pair, pair, side // 2, 2, side // 2, 2, channels)
    x = x.movedim((-6, -4, -2), (-3, -2, -1)).flatten(-3)
    return (x @ _haar(pair * 4).to(x)).movedim(-1, -5)


def pixels(x: Tensor) -> Tensor:
    """Put bands (..., bands, time / 2, side / 2, side / 2, C) together: the inverse of `bands`."""
    count, channels = x.shape[-5], x.shape[-1]
    pair = count // 4
    x = x.movedim(-5, -1) @ _haar(count).to(x).T
    x = x.reshape(*x.shape[:-1], pair, 2, 2).movedim((-3, -2, -1), (-6, -4, -2))
    *others, time, _, rows, _, columns, _, _ = x.shape
    return x.reshape(*others, time * pair, rows * 2, columns * 2, channels)


@cache
def _haar(count: int) -> Tensor:
    """Return the orthonormal matrix from ``count`` values, a power of two, to bands: sums and differences along each axis."""
    matrix = torch.ones(1, 1)
    for _ in range(count.bit_length() - 1):
        matrix = torch.kron(matrix, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    return matrix / math.sqrt(count)
