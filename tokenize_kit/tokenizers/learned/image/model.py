"""Encoder, quantizer and decoder as one module: what is trained, and what the tokenizer runs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.image.config import AutoencoderConfig
from tokenize_kit.tokenizers.learned.image.network import Decoder, Encoder
from tokenize_kit.tokenizers.learned.quantizers import build_quantizer


class Reconstruction(NamedTuple):
    """What a picture becomes."""

    pixels: Tensor
    """(B, C, H, W), about in [-1, 1], float32."""
    ids: Tensor
    """int64 (B, H / f, W / f), or with a last axis of codebooks."""
    losses: dict[str, Tensor]
    """The quantizer's own losses: unweighted means, float32 scalars."""


class Autoencoder(nn.Module):
    """A learned tokenizer's network; see `AutoencoderConfig`. Pictures are float (B, C, H, W) in [-1, 1]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.network)
        self.quantizer = build_quantizer(config.quantizer, config.network.latent_channels)
        self.decoder = Decoder(config.network)
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Reconstruction:
        """Return the reconstruction of pictures whose sides are multiples of the downsample factor."""
        quantized = self.quantizer(self.encoder(pixels))
        return Reconstruction(self.decoder(quantized.codes).float(), quantized.ids, quantized.losses)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Return the ids of pictures."""
        ids: Tensor = self.quantizer.encode(self.encoder(pixels))
        return ids

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Return the pictures of ids, float32."""
        pixels: Tensor = self.decoder(self.quantizer.decode(ids)).float()
        return pixels
