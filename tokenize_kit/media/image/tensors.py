"""Pictures as uint8 tensors ``(C, H, W)``: checked, resized, handed to Pillow and back, written."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tokenize_kit.files import atomic_write
from tokenize_kit.media.image.lent import LARGE
from tokenize_kit.media.image.opening import MAX_PIXELS

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""What Pillow calls pictures of so many channels."""

# From so many pixels on; measured.
_BY_BANDS = 1 << 16
_ROWS = 64


def write_image(sample: object, path: Path) -> None:
    """Write a uint8 tensor ``(C, H, W)`` of 1, 3 or 4 channels as a PNG file, whole or not at all.

    Raises:
        TypeError: the sample is not a uint8 tensor.
        ValueError: its shape is not that of a picture.
    """
    picture = to_pillow(sample)
    with atomic_write(path) as file:
        picture.save(file, format="PNG")


def check_image(sample: object, channels: int | None = None) -> Tensor:
    """Return ``sample`` if it is a picture: a uint8 tensor ``(C, H, W)`` with at least one pixel.

    Args:
        sample: what a caller handed in.
        channels: how many channels it must have; None accepts 1, 3 and 4.

    Raises:
        TypeError: it is not a uint8 tensor.
        ValueError: it has another number of axes or channels, or no pixels.
    """
    if not isinstance(sample, Tensor):
        raise TypeError(f"a picture is a uint8 tensor (C, H, W), got {type(sample).__name__}")
    if sample.dtype != torch.uint8:
        raise TypeError(
            f"a picture is a uint8 tensor with values 0 to 255, got {sample.dtype}; scale and convert it first"
        )
    if sample.ndim != 3:
        raise ValueError(f"a picture has the axes (C, H, W), got the shape {tuple(sample.shape)}")
    allowed = tuple(MODES) if channels is None else (channels,)
    if sample.shape[0] not in allowed:
        expected = " or ".join(map(str, allowed))
        raise ValueError(
            f"a picture of shape {tuple(sample.shape)} has {sample.shape[0]} channels, expected {expected}; "
            "the layout is (C, H, W)"
        )
    if sample.numel() == 0:
        raise ValueError(f"a picture of shape {tuple(sample.shape)} has no pixels")
    return sample.cpu()


def to_pillow(sample: object) -> Image.Image:
    """Return a uint8 tensor ``(C, H, W)`` of 1, 3 or 4 channels as a Pillow picture."""
    picture = check_image(sample)
    array = picture[0].numpy() if picture.shape[0] == 1 else picture.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array)


def from_pillow(picture: Image.Image) -> Tensor:
    """Return a Pillow picture of mode L, RGB or RGBA as a uint8 tensor ``(C, H, W)``."""
    bands = len(picture.getbands())
    if bands == 1 or picture.width * picture.height < _BY_BANDS:
        array = np.array(picture)
        planes = array[None] if bands == 1 else array.transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(planes))
    # Of large pictures band by band, which is faster and takes less memory.
    planes = np.empty((bands, picture.height, picture.width), np.uint8)
    for number in range(bands):
        planes[number] = np.asarray(picture.getchannel(number))
    return torch.from_numpy(planes)


def resize_image(sample: Tensor, size: int, *, crop: bool = True, pad: bool = False) -> Tensor:
    """Resize a uint8 picture ``(C, H, W)`` so that its short side has ``size`` pixels (bicubic, antialiased).

    With ``crop`` the middle is kept as a square ``(C, size, size)``; otherwise the long side follows in proportion. With
    ``pad`` it is the long side that has ``size`` pixels, and the picture lies in the middle of a square ``(C, size, size)``
    that is white, and transparent where there are four channels. A picture of the wanted size is returned as it is.

    Raises:
        ValueError: ``size`` is below 1, or the result would have more than `MAX_PIXELS` pixels.
    """
    picture = check_image(sample)
    channels, height, width = picture.shape
    short, long = sorted((height, width))
    box = (0.0, 0.0, float(width), float(height))
    if pad:
        target = (max(1, round(width * size / long)), max(1, round(height * size / long)))
    elif crop:
        target = (size, size)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
    else:
        target = (max(1, round(width * size / short)), max(1, round(height * size / short)))
    area = size * size if pad else target[0] * target[1]
    if size < 1 or area > MAX_PIXELS:
        raise ValueError(f"image size {size} is outside the limit: 1 or more, and at most {math.isqrt(MAX_PIXELS)}")
    if target != (width, height):
        picture = _scaled(picture, target, box)
    if not pad or target == (size, size):
        return picture
    square = torch.full((channels, size, size), 255, dtype=torch.uint8)
    if channels == 4:
        square[3] = 0
    left, top = (size - target[0]) // 2, (size - target[1]) // 2
    square[:, top : top + target[1], left : left + target[0]] = picture
    return square


def scale_image(sample: Tensor, height: int, width: int) -> Tensor:
    """Scale a uint8 picture ``(C, H, W)`` to a height and width, whatever its proportion (bicubic, antialiased).

    Raises:
        ValueError: a side is below 1, or the result would have more than `MAX_PIXELS` pixels.
    """
    picture = check_image(sample)
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"a picture of {height}x{width} pixels is outside the limit of 1 to {MAX_PIXELS:,} pixels")
    if (height, width) == tuple(picture.shape[1:]):
        return picture
    return _scaled(picture, (width, height), (0.0, 0.0, float(picture.shape[2]), float(picture.shape[1])))


def _scaled(picture: Tensor, target: tuple[int, int], box: tuple[float, float, float, float]) -> Tensor:
    """Return what is in a box of a picture, scaled to a width and height; of a large picture with little memory besides."""
    if picture[0].numel() <= LARGE:
        return from_pillow(to_pillow(picture).resize(target, Image.Resampling.BICUBIC, box=box))
    # Pillow scales each channel by itself, and colours by how much is seen of them.
    alpha = picture[3] if len(picture) == 4 else None
    scaled = [
        Image.fromarray((plane if alpha is None or number == 3 else _seen(plane, alpha)).numpy()).resize(
            target, Image.Resampling.BICUBIC, box=box
        )
        for number, plane in enumerate(picture.contiguous())
    ]
    if alpha is None:
        return torch.cat([from_pillow(plane) for plane in scaled])
    return from_pillow(Image.merge("RGBa", scaled).convert("RGBA"))


def _seen(plane: Tensor, alpha: Tensor) -> Tensor:
    """Return a channel times alpha, rounded as Pillow does it, in parts because of the wider numbers."""
    seen = torch.empty_like(plane)
    for top in range(0, len(plane), _ROWS):
        product = plane[top : top + _ROWS].int() * alpha[top : top + _ROWS] + 128
        seen[top : top + _ROWS] = ((product >> 8) + product) >> 8
    return seen
