"""How squares are cut out of pictures and of the frames of films that are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Cut(NamedTuple):
    """What is taken of a picture."""

    rows: slice
    """Its rows."""
    columns: slice
    """Its columns, from right to left where it is mirrored."""


@dataclass(frozen=True)
class Cutting:
    """How squares are cut out of pictures."""

    size: int | None
    """Side of the result; None takes pictures as they are."""
    crop: Literal["random", "center"]
    """Where."""
    scaled: bool
    """Whether squares may be larger than ``size`` and are scaled down to it."""
    flip: bool
    """Whether half of them are mirrored."""

    def of(self, height: int, width: int, draw: np.random.Generator | None) -> Cut:
        """Return what is taken of a picture; without ``draw`` its middle, unmirrored."""
        top, left, rows, columns = 0, 0, height, width
        if self.size is not None:
            short = min(height, width)
            side = short
            if draw is not None and self.scaled:
                side = int(draw.integers(self.size, short + 1))
            top, left = (height - side) // 2, (width - side) // 2
            if draw is not None and self.crop == "random":
                top, left = int(draw.integers(height - side + 1)), int(draw.integers(width - side + 1))
            rows = columns = side
        across = slice(left, left + columns)
        if draw is not None and self.flip and draw.random() < 0.5:
            across = slice(left + columns - 1, left - 1 if left else None, -1)
        return Cut(slice(top, top + rows), across)


def check_image_size(size: int, factor: int) -> None:
    """Refuse squares that do not fit the network.

    Raises:
        ValueError: ``size`` is no multiple of the downsample factor; names the nearest ones.
    """
    if size % factor:
        lower = max(factor, size // factor * factor)
        raise ValueError(
            f"--image-size {size} is not a multiple of {factor} (the tokenizer's downsample factor); "
            f"use {lower} or {lower + factor}"
        )


def check_sides(shapes: np.ndarray[tuple[int, int], np.dtype[np.int64]], factor: int, what: str, source: str) -> None:
    """Refuse pictures that are taken as they are and cannot be put together or do not fit the network.

    Args:
        shapes: (pictures, 2) their heights and widths.
        factor: the tokenizer's downsample factor.
        what: the samples' name for the error message.
        source: where they are from.

    Raises:
        ValueError: names the sizes and what to do.
    """
    sizes = np.unique(shapes, axis=0)
    if len(sizes) > 1:
        smallest, largest = (f"{height}x{width}" for height, width in (sizes[0], sizes[-1]))
        raise ValueError(f"{source} has {what} of different sizes ({smallest} to {largest}); give an --image-size")
    height, width = sizes[0]
    if height % factor or width % factor:
        raise ValueError(
            f"{what} of {height}x{width} are no multiple of {factor} (the tokenizer's downsample factor); "
            f"give an --image-size that is"
        )


def scaled(pictures: Tensor, size: int) -> Tensor:
    """Return pictures uint8 (B, C, H, W) of another size as squares of ``size`` pixels, by antialiased cubic interpolation."""
    made = F.interpolate(pictures.float(), (size, size), mode="bicubic", antialias=True)
    return made.round_().clamp_(0, 255).to(torch.uint8)
