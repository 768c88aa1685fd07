"""What may be drawn for pictures, uint8 ``(C, H, W)``, when they are encoded, and so for films, all frames of one alike.

They keep the size; what comes into the picture from beyond its border repeats that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenize_kit.media.image.tensors import scale_image
from tokenize_kit.protocol.augmentations import Augmentation
from tokenize_kit.protocol.views import no_argument

Draw = Callable[[Tensor, np.random.Generator], Tensor]

PICTURES: dict[str, Augmentation] = {}
"""The augmentations of pictures."""
FILMS: dict[str, Augmentation] = {}
"""The same of films ``(T, C, H, W)``."""


def _augmentation(usage: str, parse: Callable[[str], tuple[Any, ...]]) -> Callable[[Any], Any]:
    """Register a function of a picture, a generator and of what ``parse`` makes of the argument."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make(argument: str) -> Draw:
            values = parse(argument)
            return lambda picture, generator: function(picture, generator, *values)

        def make_for_films(argument: str) -> Draw:
            draw = make(argument)

            def changed(frames: Tensor, generator: np.random.Generator) -> Tensor:
                seed = int(generator.integers(1 << 62))
                return torch.stack([draw(frame, np.random.Generator(np.random.PCG64(seed))) for frame in frames])

            return changed

        PICTURES[function.__name__] = Augmentation(usage, make)
        FILMS[function.__name__] = Augmentation(usage, make_for_films)
        return function

    return register


def _part(argument: str) -> tuple[float]:
    try:
        part = float(argument)
    except ValueError:
        part = math.nan
    if not 0 < part < 1:
        raise ValueError("it is a part of the side, above 0 and below 1")
    return (part,)


@_augmentation("flip", no_argument)
def flip(picture: Tensor, generator: np.random.Generator) -> Tensor:
    """Mirror one in two."""
    return picture.flip(-1) if generator.random() < 0.5 else picture


@_augmentation("shift:PART", _part)
def shift(picture: Tensor, generator: np.random.Generator, part: float) -> Tensor:
    """Move by whole pixels, up to so much of the height and of the width, each way."""
    found = picture
    for axis in (-2, -1):
        side = picture.shape[axis]
        most = int(part * side)
        places = torch.arange(side) - int(generator.integers(-most, most, endpoint=True))
        found = found.index_select(axis % picture.ndim, places.clamp_(0, side - 1))
    return found


@_augmentation("zoom:PART", _part)
def zoom(picture: Tensor, generator: np.random.Generator, part: float) -> Tensor:
    """Scale by a factor between 1 - PART and 1 + PART about the middle."""
    factor = 1 + part * float(generator.uniform(-1, 1))
    height, width = picture.shape[-2:]
    found = scale_image(picture, max(1, round(height * factor)), max(1, round(width * factor)))
    for axis, side in ((-2, height), (-1, width)):
        there = found.shape[axis]
        places = torch.arange(side) - (side - there) // 2
        found = found.index_select(axis % found.ndim, places.clamp_(0, there - 1))
    return found
