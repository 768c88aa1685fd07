"""The frame-rate body: windows of the Fourier transform in, blocks at their rate, and the inverse transform out.

    samples -> spectra of overlapping windows -> blocks -> every `factor` windows joined -> blocks -> latent
    latent -> blocks -> each id spread over `factor` windows -> blocks -> spectra -> overlapping windows -> samples

No layer works at the rate of the samples, which is where a strided codec spends its time. The idea is that of Vocos (Siuzdak
2023, arXiv 2306.00814) and WavTokenizer. Two things are different. Spectra leave the network as they enter it, as real and
imaginary parts with compressed magnitudes: so the network can pass them on, and learns phases several times sooner than from
Vocos' magnitude and angle. And beside ConvNeXt's blocks (Liu et al. 2022, arXiv 2201.03545) there are plain convolutions, which
learn more for each second of a CPU.

Window t covers the samples from t * hop - (W - hop) / 2 on, W of them, so there are exactly N / hop windows for N samples, the
same at both ends of the network; a causal network looks (W - hop) / 2 samples ahead at each end for that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.audio.config import CodecNetworkConfig
from tokenize_kit.tokenizers.learned.audio.layers import (
    Chain,
    Convolution,
    Float32,
    Gelu,
    Layer,
    Linear,
    Norm,
    Residual,
    Scale,
    State,
    TransposedConvolution,
)

COMPRESSION = 0.3
"""Magnitudes are raised to this power before a network sees them."""
MAX_MAGNITUDE = 100.0
"""Magnitudes beyond this are cut off, as in Vocos."""
TINY_POWER = 1e-6
"""Added to the squares of compressed magnitudes that are expanded, for the gradient at 0."""
SMALLEST_ENVELOPE = 1e-6


class Spectra(Layer):
    """Sounds (B, N, C) to compressed spectra (B, N / hop, C * (W + 2)): real and imaginary parts of each frequency.

    Args:
        window: samples of a window, W.
        hop: samples from one window to the next.
    """

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        self.hop, self.side = hop, (window - hop) // 2
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.window: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the spectra of whole sounds."""
        return self._spectra(F.pad(x, (0, 0, self.side, self.side)))

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        before = x.new_zeros(len(x), self.side, x.shape[2]) if state is None else state
        x = torch.cat([before, x, x.new_zeros(len(x), self.side if last else 0, x.shape[2])], 1)
        size = len(self.window)
        count = max(0, (x.shape[1] - size) // self.hop + 1)
        rest = x[:, count * self.hop :]
        if not count:
            return x.new_zeros(len(x), 0, x.shape[2] * (size + 2)), rest
        return self._spectra(x), rest

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        return (count - 1) * self.hop + len(self.window) - self.side

    def _spectra(self, x: Tensor) -> Tensor:
        windows = x.float().unfold(1, len(self.window), self.hop) * self.window
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


class OverlapAdd(Layer):
    """Windows of sound (B, T, C * W) to sounds (B, T * hop, C): their sum, over that of the squared windows really there."""

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        self.hop, self.side = hop, (window - hop) // 2
        self.register_buffer("squares", torch.hann_window(window).square(), persistent=False)
        self.squares: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return whole sounds."""
        sums = self._added(x)
        return self._divided(sums[:, self.side : sums.shape[1] - self.side])

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        skip, before = (self.side, None) if state is None else state
        sums = self._added(x)
        if before is not None:
            sums[:, : before.shape[1]] += before
        done = x.shape[1] * self.hop
        stop = sums.shape[1] - self.side if last else done
        return self._divided(sums[:, skip:stop]), (max(0, skip - done), sums[:, done:])

    def needs(self, count: int) -> int:
        """See `Layer.needs`."""
        return -(-(count + self.side) // self.hop)

    def _added(self, x: Tensor) -> Tensor:
        """Return (B, T * hop + W - hop, C + 1): the sum of the windows, and of their squares as the last channel."""
        size, hop, (batch, count, values) = len(self.squares), self.hop, x.shape
        spread = -(-size // hop)
        windows = torch.cat([x, self.squares.expand(batch, count, size)], 2).view(
            batch, count, values // size + 1, size
        )
        windows = F.pad(windows, (0, spread * hop - size))
        sums = windows.new_zeros(batch, count + spread - 1, values // size + 1, hop)
        for part in range(spread):
            sums[:, part : part + count] += windows[..., part * hop : (part + 1) * hop]
        return sums.transpose(2, 3).flatten(1, 2)[:, : count * hop + size - hop]

    def _divided(self, sums: Tensor) -> Tensor:
        return sums[..., :-1] / sums[..., -1:].clamp(min=SMALLEST_ENVELOPE)


class FramesEncoder(nn.Module):
    """Samples (B, C, N), N a multiple of the hop, to latents (B, D, N / hop)."""

    def __init__(self, config: CodecNetworkConfig) -> None:
        super().__init__()
        options = config.options()
        width, factor = options["width"], options["factor"]
        fast, slow = options["encoder_blocks"]
        self.layers = Chain(
            [
                Spectra(options["window"], options["frame_hop"]),
                Linear(config.channels * (options["window"] + 2), width),
                Float32(),
                *_blocks(config, fast, fast + slow),
                Convolution(width, width, factor, stride=factor, normed=config.weight_norm),
                Float32(),
                *_blocks(config, slow, fast + slow),
                Norm(width),
                Linear(width, config.dim),
            ]
        )

    def forward(self, samples: Tensor) -> Tensor:
        """Return the latents of whole sounds."""
        latents: Tensor = self.layers(samples.transpose(1, 2))
        return latents.transpose(1, 2)

    def start(self) -> State:
        """See `Layer.start`."""
        return self.layers.start()

    def push(self, samples: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """Return the latents that are certain after one more piece, and the new state."""
        latents, state = self.layers.push(samples.transpose(1, 2), state, last)
        return latents.transpose(1, 2), state

    def needs(self, count: int) -> int:
        """Return how many samples the first ``count`` latents look at."""
        return self.layers.needs(count)


class FramesDecoder(nn.Module):
    """Latents (B, D, T) to samples (B, C, T * hop)."""

    def __init__(self, config: CodecNetworkConfig) -> None:
        super().__init__()
        options = config.options()
        width, self.factor = options["width"], options["factor"]
        slow, fast = options["decoder_blocks"]
        self.layers = Chain(
            [
                Linear(config.dim, width),
                Float32(),
                *_blocks(config, slow, fast + slow),
                TransposedConvolution(width, width, self.factor, self.factor, normed=config.weight_norm),
                Float32(),
                *_blocks(config, fast, fast + slow),
                Norm(width),
                Linear(width, config.channels * (options["window"] + 2)),
                Waves(options["window"], config.channels),
            ]
        )
        self.overlap = OverlapAdd(options["window"], options["frame_hop"])

    def forward(self, latents: Tensor) -> Tensor:
        """Return the samples of whole sounds."""
        samples: Tensor = self.overlap(self.layers(latents.transpose(1, 2)))
        return samples.transpose(1, 2)

    def start(self) -> State:
        """See `Layer.start`."""
        return self.layers.start(), self.overlap.start()

    def push(self, latents: Tensor, state: State, last: bool, steps: int | None = None) -> tuple[Tensor, State]:
        """Return the samples that are certain after one more piece, and the new state; see `StridedDecoder.push`."""
        windows, layers = self.layers.push(latents.transpose(1, 2), state[0], last)
        if steps is not None:
            windows = windows[:, : steps * self.factor]
        samples, overlap = self.overlap.push(windows, state[1], last)
        return samples.transpose(1, 2), (layers, overlap)

    def needs(self, count: int) -> int:
        """Return how many latents the first ``count`` samples look at."""
        return self.layers.needs(self.overlap.needs(count))


def _blocks(config: CodecNetworkConfig, count: int, total: int) -> list[Layer]:
    """Return ``count`` of the ``total`` blocks of an encoder or decoder."""
    options = config.options()
    width, inside, kernel = options["width"], options["width"] * options["expansion"], options["block_kernel"]

    def block() -> list[Layer]:
        if options["block"] == "convnext":
            depthwise = Convolution(width, width, kernel, groups=width, causal=config.causal)
            return [depthwise, Norm(width), Linear(width, inside)]
        return [Norm(width), Convolution(width, inside, kernel, causal=config.causal, normed=config.weight_norm)]

    return [Residual(Chain([*block(), Gelu(), Linear(inside, width), Scale(width, 1 / total)])) for _ in range(count)]
