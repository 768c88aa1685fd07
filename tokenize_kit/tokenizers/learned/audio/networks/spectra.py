"""Windows of the Fourier transform in and out, as layers that stream.

Window t covers the samples from t * hop - (W - hop) / 2 on, W of them, so there are exactly N / hop windows for N samples, the
same at both ends of a network; a causal network looks (W - hop) / 2 samples ahead at each end for that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenize_kit.tokenizers.learned.streaming import Layer, Spread, Windowed

COMPRESSION = 0.3
"""Magnitudes are raised to this power before a network sees them."""
MAX_MAGNITUDE = 100.0
"""Magnitudes beyond this are cut off, as in Vocos."""
TINY_POWER = 1e-6
"""Added to the squares of compressed magnitudes that are expanded, for the gradient at 0."""
SMALLEST_ENVELOPE = 1e-6


class Spectra(Windowed):
    """Sounds (B, N, C) to compressed spectra (B, N / hop, C * (W + 2)): real and imaginary parts of each frequency.

    Args:
        window: samples of a window, W.
        hop: samples from one window to the next.
    """

    def __init__(self, window: int, hop: int) -> None:
        side = (window - hop) // 2
        super().__init__(window, hop, side, side)
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.window: Tensor

    def compute(self, x: Tensor) -> Tensor:
        """See `Windowed.compute`."""
        windows = x.float().unfold(1, self.span, self.stride) * self.window
        parts = torch.view_as_real(torch.fft.rfft(windows))
        power = parts.square().sum(-1, keepdim=True)
        return (parts * (power + 1e-12) ** ((COMPRESSION - 1) / 2)).flatten(2)


class Waves(Layer):
    """Compressed spectra (B, T, C * (W + 2)), as `Spectra` makes them, to windows of sound (B, T, C * W), float32."""

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.window: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the windows of spectra."""
        size = len(self.window)
        if not x.shape[1]:
            return x.new_zeros(len(x), 0, self.channels * size, dtype=torch.float32)
        parts = x.float().reshape(*x.shape[:2], self.channels, size // 2 + 1, 2)
        power = parts.square().sum(-1, keepdim=True) + TINY_POWER
        # parts * power^((1 / c - 1) / 2) have the magnitude that gives |parts| when it is raised to c.
        growth = (power ** ((1 / COMPRESSION - 1) / 2)).minimum(MAX_MAGNITUDE * power.rsqrt())
        spectra = torch.view_as_complex(parts * growth)
        windows: Tensor = torch.fft.irfft(spectra, size) * self.window
        return windows.flatten(2)


class OverlapAdd(Spread):
    """Windows of sound (B, T, C * W) to sounds (B, T * hop, C): their sum, over that of the squared windows really there."""

    def __init__(self, window: int, hop: int) -> None:
        side = (window - hop) // 2
        super().__init__(window, hop, side, side)
        self.register_buffer("squares", torch.hann_window(window).square(), persistent=False)
        self.squares: Tensor

    def spread(self, x: Tensor) -> Tensor:
        """Return (B, T * hop + W - hop, C + 1): the sum of the windows, and of their squares as the last channel."""
        size, hop, (batch, count, values) = self.span, self.stride, x.shape
        spread = -(-size // hop)
        windows = torch.cat([x, self.squares.expand(batch, count, size)], 2).view(
            batch, count, values // size + 1, size
        )
        windows = F.pad(windows, (0, spread * hop - size))
        sums = windows.new_zeros(batch, count + spread - 1, values // size + 1, hop)
        for part in range(spread):
            sums[:, part : part + count] += windows[..., part * hop : (part + 1) * hop]
        return sums.transpose(2, 3).flatten(1, 2)[:, : count * hop + size - hop]

    def finish(self, sums: Tensor) -> Tensor:
        """See `Spread.finish`."""
        return sums[..., :-1] / sums[..., -1:].clamp(min=SMALLEST_ENVELOPE)
