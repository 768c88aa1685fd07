"""What views may do to pictures, uint8 ``(C, H, W)`` of 1, 3 or 4 channels, and so to every frame of a film.

An operation is one function under `_operation`. It keeps the number of channels; of four the last, how much is seen, stays as it
is where nothing is moved. All arithmetic is of whole numbers or elementwise, so that every machine gives the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.media.image.tensors import resize_image, scale_image
from tokenize_kit.protocol.views import Operation, no_argument

PICTURES: dict[str, Operation] = {}
"""The operations of pictures."""
FILMS: dict[str, Operation] = {}
"""The same of films ``(T, C, H, W)``, frame by frame."""

COLOUR_MAPS = ("cividis", "inferno", "magma", "plasma", "turbo", "viridis")
"""Tables of 256 colours, as matplotlib has them."""
MAX_SIGMA = 64.0
"""The widest blur in pixels."""

# R, G and B as ITU-R BT.601 weighs them, in the fixed point of Pillow.
_GREY = (19595, 38470, 7471)
_SIGMAS = 4
"""A Gaussian ends after so many standard deviations."""


def _operation(usage: str, parse: Callable[[str], tuple[Any, ...]]) -> Callable[[Any], Any]:
    """Register a function of a picture and of what ``parse`` makes of the argument."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make(argument: str) -> Callable[[Tensor], Tensor]:
            values = parse(argument)
            return lambda picture: function(picture, *values)

        def make_for_films(argument: str) -> Callable[[Tensor], Tensor]:
            change = make(argument)
            return lambda frames: torch.stack([change(frame) for frame in frames])

        PICTURES[function.__name__] = Operation(usage, make)
        FILMS[function.__name__] = Operation(usage, make_for_films)
        return function

    return register


def _sides(argument: str) -> tuple[int, int | None]:
    """Return height and width, or the length of the short side and None."""
    numbers = argument.split("x")
    if len(numbers) > 2 or not all(number.isascii() and number.isdecimal() and int(number) for number in numbers):
        raise ValueError("write the pixels of the short side, or height and width")
    return int(numbers[0]), int(numbers[1]) if numbers[1:] else None


def _sigma(argument: str) -> tuple[float]:
    try:
        sigma = float(argument or 1)
    except ValueError:
        sigma = math.nan
    if not 0 < sigma <= MAX_SIGMA:
        raise ValueError(f"the standard deviation in pixels is above 0 and at most {MAX_SIGMA:g}")
    return (sigma,)


def _colour_map(argument: str) -> tuple[str]:
    name = argument or "viridis"
    if name not in COLOUR_MAPS:
        raise ValueError(f"the colour maps are {', '.join(COLOUR_MAPS)}")
    return (name,)


@_operation("resize:N or resize:HxW", _sides)
def resize(picture: Tensor, height: int, width: int | None = None) -> Tensor:
    """Scale to a height and width, or so that the short side has ``height`` pixels and the long one follows in proportion."""
    return resize_image(picture, height, crop=False) if width is None else scale_image(picture, height, width)


@_operation("grey", no_argument)
def grey(picture: Tensor) -> Tensor:
    """Make all colours the luma of ITU-R BT.601."""
    return _with_colours(picture, _luma(picture))


@_operation("flip", no_argument)
def flip(picture: Tensor) -> Tensor:
    """Mirror left and right."""
    return picture.flip(-1)


@_operation("edges", no_argument)
def edges(picture: Tensor) -> Tensor:
    """Make all colours the magnitude of the Sobel gradient of the luma, a quarter of it, at most 255; the border is repeated."""
    around = np.pad(_luma(picture).astype(np.int64), 1, mode="edge")
    down = around[:-2] + 2 * around[1:-1] + around[2:]
    across = around[:, :-2] + 2 * around[:, 1:-1] + around[:, 2:]
    squares = (down[:, 2:] - down[:, :-2]) ** 2 + (across[2:] - across[:-2]) ** 2
    return _with_colours(picture, np.minimum(np.rint(np.sqrt(squares) / 4), 255).astype(np.uint8))


@_operation("colormap or colormap:NAME", _colour_map)
def colormap(picture: Tensor, name: str = "viridis") -> Tensor:
    """Give every luma the colour that a table has for it.

    Raises:
        ValueError: the picture has a single channel.
    """
    if len(picture) < 3:
        raise ValueError("a colour map needs pictures of colours; this one has a single channel")
    return _with_colours(picture, _colours_of(name)[_luma(picture)].transpose(2, 0, 1))


@_operation("blur or blur:SIGMA", _sigma)
def blur(picture: Tensor, sigma: float = 1.0) -> Tensor:
    """Blur with a Gaussian of a standard deviation in pixels; the border is repeated, colours count by how much they are seen."""
    values = picture.numpy().astype(np.float64)
    if len(values) == 4:
        values[:3] *= values[3] / 255
    radius = math.ceil(_SIGMAS * sigma)
    weights = [math.exp(-(place**2) / (2 * sigma**2)) for place in range(-radius, radius + 1)]
    for axis in (1, 2):
        length = values.shape[axis]
        around = np.take(values, np.arange(-radius, length + radius).clip(0, length - 1), axis)
        values = np.zeros_like(values)
        for place, weight in enumerate(weights):
            values += np.take(around, np.arange(length) + place, axis) * (weight / sum(weights))
    if len(values) == 4:
        values[:3] *= 255 / np.maximum(values[3], 1e-9)
    return torch.from_numpy(np.rint(values).clip(0, 255).astype(np.uint8))


def _luma(picture: Tensor) -> NDArray[np.uint8]:
    """Return the luma ``(H, W)``."""
    planes = picture.numpy()
    if len(planes) == 1:
        return np.asarray(planes[0], np.uint8)
    weighed = sum(plane.astype(np.uint32) * weight for plane, weight in zip(planes, _GREY, strict=False))
    return np.asarray(np.asarray(weighed) + 0x8000 >> 16, np.uint8)


def _with_colours(picture: Tensor, colours: NDArray[np.uint8]) -> Tensor:
    """Return a picture with other colours, (H, W) for all or (3, H, W), and its own fourth channel."""
    channels = min(len(picture), 3)
    changed = torch.from_numpy(np.array(np.broadcast_to(colours, (channels, *picture.shape[1:]))))
    return torch.cat([changed, picture[3:]])


@cache
def _colours_of(name: str) -> NDArray[np.uint8]:
    """Return the colours of a map, uint8 (256, 3)."""
    from matplotlib import colormaps

    table: Any = colormaps[name]
    return np.floor(np.array(table.colors) * 255 + 0.5).astype(np.uint8)
