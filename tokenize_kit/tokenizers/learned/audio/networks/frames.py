"""The frame-rate body: windows of the Fourier transform in, blocks at their rate, and the inverse transform out.

    samples -> spectra of overlapping windows -> blocks -> every `factor` windows joined -> blocks -> latent
    latent -> blocks -> each id spread over `factor` windows -> blocks -> spectra -> overlapping windows -> samples

No layer works at the rate of the samples, which is where a strided codec spends its time. The idea is that of Vocos (Siuzdak
2023, arXiv 2306.00814) and WavTokenizer. Two things are different. Spectra leave the network as they enter it, as real and
imaginary parts with compressed magnitudes: so the network can pass them on, and learns phases several times sooner than from
Vocos' magnitude and angle. And beside ConvNeXt's blocks (Liu et al. 2022, arXiv 2201.03545) there are plain convolutions, which
learn more for each second of a CPU.

How windows follow one another is in `spectra.py`.
"""

from __future__ import annotations

from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.audio.config import CodecNetworkConfig
from tokenize_kit.tokenizers.learned.audio.networks.spectra import OverlapAdd, Spectra, Waves
from tokenize_kit.tokenizers.learned.layers import (
    Convolution,
    Float32,
    Gelu,
    Linear,
    Norm,
    Scale,
    TransposedConvolution,
)
from tokenize_kit.tokenizers.learned.streaming import Chain, Layer, Residual, State


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
