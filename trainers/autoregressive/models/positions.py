"""How a token knows its place: waves of its position, scaled for contexts that are longer than those of the training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainers.autoregressive.models.config import TransformerConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines (..., T, 1, E) and sines (..., T, 1, E/2) in float32, as `fast.pointwise.place_heads` wants them."""


class Waves:
    """Sines and cosines of every place, made once for each device and kept in float32 whatever the model's dtype is."""

    def __init__(self, config: TransformerConfig) -> None:
        self.config = config
        self.size = config.head_dim if config.rotated else config.width
        self._tables: dict[torch.device, Rotation] = {}

    def frequencies(self, device: torch.device) -> Tensor:
        """Return how far each of the size / 2 waves turns at a place, float64: base^(-2i / size), or stretched."""
        config = self.config
        exponent = torch.arange(0, self.size, 2, dtype=torch.float64, device=device) / self.size
        plain = config.rope_base**-exponent
        if config.rope_scaling == "none":
            return plain
        slow = plain / config.rope_factor
        if config.rope_scaling == "linear":
            return slow
        # How much of a wave is left as it is.
        kept = (_llama3_kept if config.rope_scaling == "llama3" else _yarn_kept)(config, plain, self.size)
        return slow * (1 - kept) + plain * kept

    def rotation(self, device: torch.device) -> Rotation:
        """Return cosines (places, 1, size) and sines (places, 1, size / 2) in float32."""
        if device not in self._tables:
            # A table that is made while generating must serve a later training step too.
            with torch.inference_mode(False):
                place = torch.arange(self.config.context, dtype=torch.float64, device=device)
                angles = torch.outer(place, self.frequencies(device))
                factor = self.config.rope_amplitude
                cos, sin = (angles.cos() * factor).float(), (angles.sin() * factor).float()
                self._tables[device] = (torch.cat((cos, cos), -1)[:, None], sin[:, None])
        return self._tables[device]

    def axial(self, places: Tensor) -> Rotation:
        """Return cosines (B, T, 1, size) and sines (B, T, 1, size / 2) of places (B, T, 3).

        The pairs of a head belong to the axes in turn, so that each axis has slow and fast ones (as Qwen3-VL interleaves them).
        Where the places are the same along all axes it is `rotation`.
        """
        cos, sin = self.rotation(places.device)
        pair = torch.arange(self.size // 2, device=places.device)
        along = places[..., pair % places.shape[-1]]
        cos, sin = cos[along, 0, pair], sin[along, 0, pair]
        return torch.cat((cos, cos), -1)[:, :, None], sin[:, :, None]

    def sinusoids(self, device: torch.device) -> Tensor:
        """Return the table (places, size) of Vaswani et al.: sine and cosine in turn."""
        cos, sin = self.rotation(device)
        return torch.stack((sin[:, 0], cos[:, 0, : self.size // 2]), -1).flatten(1)


def _llama3_kept(config: TransformerConfig, plain: Tensor, _: int) -> Tensor:
    """Return how much of each wave is kept: all of those that turn often within the old context, nothing of those that hardly do.

    Llama 3.1 (Grattafiori et al. 2024, arXiv 2407.21783), as its published configurations say it.
    """
    assert config.rope_original_context is not None
    low, high = config.rope_turns
    turns = plain * (config.rope_original_context / (2 * math.pi))
    return ((turns - low) / (high - low)).clamp(0, 1)


def _yarn_kept(config: TransformerConfig, plain: Tensor, size: int) -> Tensor:
    """Return the same for YaRN (Peng et al. 2023, arXiv 2309.00071): a ramp over the numbers of the waves."""
    assert config.rope_original_context is not None
    low, high = config.rope_turns

    def number(turns: float) -> float:
        """Return which wave turns so often within the old context."""
        assert config.rope_original_context is not None
        return size * math.log(config.rope_original_context / (turns * 2 * math.pi)) / (2 * math.log(config.rope_base))

    first, last = max(math.floor(number(high)), 0), min(math.ceil(number(low)), size - 1)
    numbers = torch.arange(len(plain), dtype=plain.dtype, device=plain.device)
    return 1 - ((numbers - first) / max(last - first, 1e-3)).clamp(0, 1)


class NextPlace(nn.Module):
    """Tells a token where in its grid the id after it is: sines and cosines of its coordinates, and a matrix.

    A coordinate of -1, which is none, adds nothing.
    """

    WAVES = 16
    """Wavelengths a coordinate, from 2 pi places to a thousand times that."""

    def __init__(self, width: int, axes: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * axes * self.WAVES, width, bias=False)

    def forward(self, coordinates: Tensor) -> Tensor:
        """Return what is added to the embeddings of tokens, (B, T, D); ``coordinates`` is int64 (B, T, axes)."""
        exponent = torch.arange(self.WAVES, dtype=torch.float32, device=coordinates.device) / self.WAVES
        angles = coordinates.float()[..., None] * 1000.0**-exponent
        waves = torch.cat((angles.sin(), angles.cos()), -1) * (coordinates >= 0)[..., None]
        result: Tensor = self.enter(waves.flatten(-2).to(self.enter.weight.dtype))
        return result
