"""Encoder, quantizer and decoder of a video autoencoder as one module: what is trained, and what the tokenizer runs."""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.quantizers import build_quantizer
from tokenize_kit.tokenizers.learned.streaming import State
from tokenize_kit.tokenizers.learned.video.config import VideoConfig
from tokenize_kit.tokenizers.learned.video.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from tokenize_kit.tokenizers.learned.video.networks.latent import LatentDecoder, LatentEncoder


class VideoReconstruction(NamedTuple):
    """What a video becomes."""

    pixels: Tensor
    """(B, C, T, H, W), about in [-1, 1], float32."""
    ids: Tensor
    """int64 (B, t, h, w), or with a last axis of codebooks."""
    losses: dict[str, Tensor]
    """The quantizer's own losses: unweighted means, float32 scalars."""


class Half(Protocol):
    """What the encoder and the decoder of every body are: modules that take videos whole or in pieces along the time.

    The encoder turns pixels (B, C, T, H, W) into latents (B, D, t, h, w), the decoder latents into pixels. A piece is some whole
    steps: the first frame of the first piece is a step, and then each ``temporal_factor`` frames are one. All that belongs to
    the steps of a piece comes out at once, since nothing looks at later ones.
    """

    radius: int | None
    """How far in space, in ids, it looks; None where no distance is enough."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return what a whole video becomes."""
        ...

    def start(self) -> State:
        """Return the state before the first piece."""
        ...

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """Return what one more piece becomes, and the new state."""
        ...


class HalfDecoder(Half, Protocol):
    """The decoder of a body."""

    @property
    def last_weight(self) -> Tensor:
        """The weight of the last layer that all pixels go through, by whose gradients VQGAN balances its losses."""
        ...


BODIES: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "latent": (LatentEncoder, LatentDecoder),
    "convolutional": (ConvolutionalEncoder, ConvolutionalDecoder),
}
"""Encoder and decoder of each body; both are called with the configuration of the network."""


class VideoAutoencoder(nn.Module):
    """A video autoencoder's network; see `VideoConfig`. Videos are float (B, C, T, H, W) in [-1, 1].

    A picture is a video of one frame. T is 1 + n * ``temporal_factor``, see `time.py`, and the sides are multiples of
    ``spatial_factor``.
    """

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = (half(config.network) for half in BODIES[config.network.body])
        self.encoder, self.decoder = cast("Half", encoder), cast("HalfDecoder", decoder)
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
        return self.encoder(pixels)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Return the ids of whole videos."""
        return self.quantizer.encode(self.latents(pixels))

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Return the whole videos of ids, float32."""
        return self.decoder(self.quantizer.decode(ids)).float()
