"""Encoder, quantizer and decoder of a neural audio codec as one module: what is trained, and what the tokenizer runs."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from tokenize_kit.tokenizers.learned.audio.config import CodecConfig
from tokenize_kit.tokenizers.learned.audio.networks.frames import FramesDecoder, FramesEncoder
from tokenize_kit.tokenizers.learned.audio.networks.strided import StridedDecoder, StridedEncoder
from tokenize_kit.tokenizers.learned.quantizers import build_quantizer


class AudioReconstruction(NamedTuple):
    """What a sound becomes."""

    samples: Tensor
    """(B, C, N), about in [-1, 1], float32."""
    ids: Tensor
    """int64 (B, N / hop), or with a last axis of codebooks."""
    losses: dict[str, Tensor]
    """The quantizer's own losses: unweighted means, float32 scalars."""


class Codec(nn.Module):
    """A neural audio codec's network; see `CodecConfig`. Sounds are float (B, C, N) in [-1, 1], N a multiple of the hop."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        network = config.network
        self.encoder: StridedEncoder | FramesEncoder
        self.decoder: StridedDecoder | FramesDecoder
        if network.body == "strided":
            self.encoder, self.decoder = StridedEncoder(network), StridedDecoder(network)
        else:
            self.encoder, self.decoder = FramesEncoder(network), FramesDecoder(network)
        self.quantizer = build_quantizer(config.quantizer, network.dim)

    def forward(self, samples: Tensor, quantize: bool = True) -> AudioReconstruction:
        """Return the reconstruction of sounds.

        Args:
            samples: float (B, C, N) in [-1, 1].
            quantize: whether the decoder sees codes; otherwise it sees the latents, and there are no ids (B, T, 0) and losses.

        Raises:
            ValueError: their length is not a multiple of the hop.
        """
        latents = self.latents(samples)
        if not quantize:
            none = torch.zeros(len(latents), latents.shape[2], 0, dtype=torch.int64, device=latents.device)
            return AudioReconstruction(self.decoder(latents), none, {})
        quantized = self.quantizer(latents)
        return AudioReconstruction(self.decoder(quantized.codes), quantized.ids, quantized.losses)

    def latents(self, samples: Tensor) -> Tensor:
        """Return what the quantizer is given, (B, D, N / hop).

        Raises:
            ValueError: the length of the sounds is not a multiple of the hop.
        """
        hop = self.config.network.hop
        if samples.shape[-1] % hop:
            raise ValueError(
                f"a sound of {samples.shape[-1]} samples is not a multiple of the hop {hop}; pad or cut it"
            )
        latents: Tensor = self.encoder(samples)
        return latents

    @torch.no_grad()
    def encode(self, samples: Tensor) -> Tensor:
        """Return the ids of whole sounds."""
        return self.quantizer.encode(self.latents(samples))

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Return the whole sounds of ids, float32."""
        samples: Tensor = self.decoder(self.quantizer.decode(ids))
        return samples


def fold_weight_norm(model: Codec) -> Codec:
    """Return a copy of a codec in which weights that were trained with weight norm are plain; it computes the same."""
    config = replace(model.config, network=replace(model.config.network, weight_norm=False))
    with torch.random.fork_rng([]):  # the fresh weights are overwritten; nobody's random numbers shall change
        plain = Codec(config)
    plain.load_state_dict(_folded(model))
    return plain.to(next(model.parameters()).device).train(model.training)


def load_folded(model: Codec, plain: Codec) -> None:
    """Give a codec, with or without weight norm, the weights of one without: the inverse of `fold_weight_norm`.

    Raises:
        ValueError: their configurations differ in more than that.
    """
    config = replace(model.config, network=replace(model.config.network, weight_norm=False))
    if config != plain.config:
        raise ValueError("the weights are of a codec with another configuration")
    weights = plain.state_dict()
    with torch.no_grad():
        for name, module in model.named_modules():
            if is_parametrized(module, "weight"):
                module.weight = weights.pop(f"{name}.weight")
    kept = {name: value for name, value in model.state_dict().items() if ".parametrizations." not in name}
    assert set(kept) == set(weights), "equal configurations have equal parts"
    for name, value in weights.items():
        kept[name].copy_(value)


def _folded(model: Codec) -> dict[str, Tensor]:
    state = {name: value for name, value in model.state_dict().items() if ".parametrizations." not in name}
    for name, module in model.named_modules():
        if is_parametrized(module, "weight"):
            state[f"{name}.weight"] = module.weight.detach()
    return state
