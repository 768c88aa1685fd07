"""The strided body: convolutions on the waveform, in the line of SoundStream, EnCodec and DAC.

    samples -> kernel 7 -> [residual units -> activation -> stride s, twice the channels] ... -> LSTM -> activation -> latent
    latent -> kernel 7 -> LSTM -> [activation -> stride s back, half the channels -> residual units] ... -> activation -> samples

A residual unit is activation, dilated convolution, activation, convolution of kernel 1; the skip is plain. SoundStream:
Zeghidour et al. 2021, arXiv 2107.03312. EnCodec: Defossez et al. 2022, arXiv 2210.13438. DAC: Kumar et al. 2023, arXiv
2306.06546.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.audio.config import CodecNetworkConfig
from tokenize_kit.tokenizers.learned.audio.networks.activations import Elu, Snake
from tokenize_kit.tokenizers.learned.layers import Convolution, Recurrent, Tanh, TransposedConvolution
from tokenize_kit.tokenizers.learned.streaming import Chain, Layer, Residual, State


class StridedEncoder(nn.Module):
    """Samples (B, C, N), N a multiple of the hop, to latents (B, D, N / hop)."""

    def __init__(self, config: CodecNetworkConfig) -> None:
        super().__init__()
        options = config.options()
        convolution = partial(Convolution, causal=config.causal, normed=config.weight_norm)
        width = options["width"]
        layers: list[Layer] = [convolution(config.channels, width, options["kernel"])]
        for stride in options["strides"]:
            layers += _units(config, width)
            layers += [_activation(config, width), convolution(width, 2 * width, 2 * stride, stride=stride)]
            width *= 2
        if options["lstm_layers"]:
            layers.append(Recurrent(width, options["lstm_layers"]))
        layers += [_activation(config, width), convolution(width, config.dim, options["latent_kernel"])]
        self.layers = Chain(layers)

    def forward(self, samples: Tensor) -> Tensor:
        """Return the latents of whole sounds."""
        latents: Tensor = self.layers(samples.transpose(1, 2))
        return latents.transpose(1, 2)

    def start(self) -> State:
        """See `Layer.start`."""
        return self.layers.start()

    def push(self, samples: Tensor, state: State, last: bool) -> tuple[Tensor, State]:
        """Return the latents that are certain after one more piece, and the new state."""
        latents, state = self.layers.push(samples.transpose(1, 2), state, last)
        return latents.transpose(1, 2), state

    def needs(self, count: int) -> int:
        """Return how many samples the first ``count`` latents look at."""
        return self.layers.needs(count)


class StridedDecoder(nn.Module):
    """Latents (B, D, T) to samples (B, C, T * hop)."""

    def __init__(self, config: CodecNetworkConfig) -> None:
        super().__init__()
        options = config.options()
        normal = {"causal": config.causal, "normed": config.weight_norm}
        width = (options["decoder_width"] or options["width"]) * 2 ** len(options["strides"])
        layers: list[Layer] = [Convolution(config.dim, width, options["kernel"], **normal)]
        if options["lstm_layers"]:
            layers.append(Recurrent(width, options["lstm_layers"]))
        for stride in reversed(options["strides"]):
            layers.append(_activation(config, width))
            layers.append(TransposedConvolution(width, width // 2, 2 * stride, stride, **normal))
            width //= 2
            layers += _units(config, width)
        layers.append(_activation(config, width))
        layers.append(Convolution(width, config.channels, options["kernel"], **normal))
        if options["activation"] == "snake":
            layers.append(Tanh())
        self.layers = Chain(layers)
        self.hop = config.hop

    def forward(self, latents: Tensor) -> Tensor:
        """Return the samples of whole sounds."""
        samples: Tensor = self.layers(latents.transpose(1, 2))
        return samples.transpose(1, 2).float()

    def start(self) -> State:
        """See `Layer.start`."""
        return self.layers.start()

    def push(self, latents: Tensor, state: State, last: bool, steps: int | None = None) -> tuple[Tensor, State]:
        """Return the samples that are certain after one more piece, and the new state.

        Args:
            latents: (B, D, t).
            state: what the last call returned.
            last: whether the sound ends with this piece.
            steps: how many of the t count; those after them only fill up. For causal networks, which then cannot go on.
        """
        samples, state = self.layers.push(latents.transpose(1, 2), state, last)
        if steps is not None:
            samples = samples[:, : steps * self.hop]
        return samples.transpose(1, 2).float(), state

    def needs(self, count: int) -> int:
        """Return how many latents the first ``count`` samples look at."""
        return self.layers.needs(count)


def _units(config: CodecNetworkConfig, width: int) -> list[Layer]:
    options = config.options()
    inside = width // options["compression"]
    convolution = partial(Convolution, causal=config.causal, normed=config.weight_norm)
    return [
        Residual(
            Chain(
                [
                    _activation(config, width),
                    convolution(width, inside, options["residual_kernel"], dilation=dilation),
                    _activation(config, inside),
                    convolution(inside, width, 1),
                ]
            )
        )
        for dilation in options["dilations"]
    ]


def _activation(config: CodecNetworkConfig, width: int) -> Layer:
    return Snake(width) if config.options()["activation"] == "snake" else Elu()
