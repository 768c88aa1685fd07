"""The place of a token in its grid as an input, for models that would not know it otherwise.

Each coordinate is told by sines and cosines of several wavelengths, which a matrix brings to the width of the model (Vaswani et
al. 2017; CoordConv, Liu et al. 2018, arXiv 1807.03247, for why a network wants to be told).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WAVES = 8
"""Wavelengths a coordinate, from 2 places to 256."""
AXES = 3


class Coordinates(nn.Module):
    """Positions along time, height and width as states (..., D).

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(AXES * 2 * WAVES, width, bias=False)
        nn.init.normal_(self.enter.weight, std=0.2 * (2 / self.enter.in_features) ** 0.5)

    def forward(self, places: Tensor) -> Tensor:
        """Return what positions (..., 3), int64, are to be added as, (..., D)."""
        rates = 2 * math.pi / 2.0 ** torch.arange(1, WAVES + 1, device=places.device)
        angles = places[..., None].float() * rates
        waves = torch.cat((angles.sin(), angles.cos()), -1).flatten(-2)
        result: Tensor = self.enter(waves.to(self.enter.weight.dtype))
        return result
