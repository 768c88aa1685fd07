"""Pictures and frames as files have them, and as networks do."""

from __future__ import annotations

import torch
from torch import Tensor


def to_pixels(pictures: Tensor) -> Tensor:
    """Turn uint8 pictures, or frames, (..., C, H, W) into float32 in [-1, 1]."""
    return pictures.float().div_(127.5).sub_(1)


def from_pixels(pixels: Tensor) -> Tensor:
    """Turn float pictures in [-1, 1] into uint8, rounded, values beyond cut off."""
    return pixels.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
