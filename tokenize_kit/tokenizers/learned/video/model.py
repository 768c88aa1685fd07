"""Encoder, quantizer and decoder of a video autoencoder as one module: what is trained, and what the tokenizer runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.quantizers import build_quantizer
from tokenize_kit.tokenizers.learned.video.config import VideoConfig, VideoNetworkConfig
from tokenize_kit.tokenizers.learned.video.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from tokenize_kit.tokenizers.learned.video.networks.half import Half
from tokenize_kit.tokenizers.learned.video.networks.latent import LatentDecoder, LatentEncoder


class VideoReconstruction(NamedTuple):
    """What a video becomes."""

    pixels: Tensor
    """(B, C, T, H, W), about in [-1, 1], float32."""
    ids: Tensor
    """int64 (B, t, h, w), or with a last axis of codebooks."""
    losses: dict[str, Tensor]
    """The quantizer's own losses: unweighted means, float32 scalars."""


BODIES: dict[str, tuple[Callable[[VideoNetworkConfig], Half], Callable[[VideoNetworkConfig], Half]]] = {
    "latent": (LatentEncoder, LatentDecoder),
    "convolutional": (ConvolutionalEncoder, ConvolutionalDecoder),
}
"""What makes the encoder and the decoder of each body. A decoder has a ``last_weight`` besides: that of the last layer that all
pixels go through, by whose gradients VQGAN balances its losses."""


class VideoAutoencoder(nn.Module):
    """A video autoencoder's network; see `VideoConfig`. Videos are float (B, C, T, H, W) in [-1, 1].

    A picture is a video of one frame. T is 1 + n * ``temporal_factor``, see `time.py`, and the sides are multiples of
    ``spatial_factor``.
    """

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = (half(config.network) for half in BODIES[config.network.body])
        self.quantizer = build_quantizer(config.quantizer, config.network.dim)

    def forward(self, pixels: Tensor, quantize: bool = True) -> VideoReconstruction:
        """Return the reconstruction of videos.

        Args:
            pixels: float (B, C, T, H, W) in [-1, 1].
            quantize: whether the decoder sees codes; otherwise it sees the latents, and there are no ids (B, t, h, w, 0) and
                losses.

        Raises:
            ValueError: the network has no such number of frames, or sides.
        """
        latents = self.latents(pixels)
        if not quantize:
            none = torch.zeros(len(latents), *latents.shape[2:], 0, dtype=torch.int64, device=latents.device)
            return VideoReconstruction(self.decoder(latents).float(), none, {})
        quantized = self.quantizer(latents)
        return VideoReconstruction(self.decoder(quantized.codes).float(), quantized.ids, quantized.losses)

    def latents(self, pixels: Tensor) -> Tensor:
        """Return what the quantizer is given, (B, D, t, h, w).

        Raises:
            ValueError: as `forward`.
        """
        network = self.config.network
        time, side = network.temporal_factor, network.spatial_factor
        frames, height, width = pixels.shape[2:]
        if (frames - 1) % time:
            raise ValueError(
                f"a video of {frames} frames is not 1 + n * {time}, the temporal factor; fill it up or cut it"
            )
        if height % side or width % side:
            raise ValueError(
                f"frames of {height}x{width} are no multiples of the spatial factor {side}; pad or cut them"
            )
        latents: Tensor = self.encoder(pixels)
        return latents

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Return the ids of whole videos."""
        return self.quantizer.encode(self.latents(pixels))

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Return the whole videos of ids, float32."""
        pixels: Tensor = self.decoder(self.quantizer.decode(ids)).float()
        return pixels
