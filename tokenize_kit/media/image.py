"""Picture files to uint8 tensors ``(C, H, W)`` and back, with Pillow.

Rules: the orientation of EXIF or XMP is applied; of an animation the first frame is taken, of several pages the first;
colours are converted to sRGB (see `tokenize_kit.media.profiles`); 16-bit grey is rounded to 8 bits (of 16-bit colour Pillow
keeps the high byte); colour becomes grey by ITU-R 601; transparency is composited on white where fewer channels are wanted,
and is kept (or set to opaque) where four are.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tokenize_kit.files import atomic_write
from tokenize_kit.media import png, tiff
from tokenize_kit.media.exif import orientation
from tokenize_kit.media.picture_files import MAX_PIXELS, open_picture
from tokenize_kit.media.picture_parts import Parts
from tokenize_kit.media.profiles import lab_to_srgb, to_srgb

# From so many pixels on; measured.
_BY_BANDS = 1 << 16
# So many pixels are brought to 8 bits, sRGB and their channels at a time: of a large picture each of that would be a copy.
_STRIP = 1 << 22
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class ReadImage(NamedTuple):
    """A picture as it was read."""

    pixels: Tensor
    """uint8 ``(C, H, W)``."""
    notes: tuple[str, ...]
    """What was done, in words that are counted: colours that were converted, a profile that was left out, a reduced size."""


def read_image(data: bytes, channels: int | None = None) -> Tensor:
    """Decode a picture file into a uint8 tensor ``(C, H, W)``.

    Args:
        data: the bytes of the file.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); None keeps what the file has.

    Raises:
        ValueError: the bytes are not a picture, a broken or truncated one, or one of more than `MAX_PIXELS` pixels.
    """
    return read_image_noting(data, channels).pixels


def read_image_noting(data: bytes, channels: int | None = None, at_least: int | None = None) -> ReadImage:
    """Decode a picture file, and say what had to be converted.

    Args:
        data: the bytes of the file.
        channels: as for `read_image`.
        at_least: the pixels that the short side must have. A JPEG of more than `MAX_PIXELS` pixels is decoded at a half, a
            quarter or an eighth of its width and height then, whichever is the largest that is within the limit.

    Raises:
        ValueError: as `read_image`.
    """
    if channels not in (None, *_MODES):
        raise ValueError(f"channels {channels} is not 1 (grey), 3 (RGB) or 4 (RGBA)")
    with warnings.catch_warnings():
        # What Pillow warns of is either no matter or an error here.
        warnings.simplefilter("ignore")
        picture, parts, notes = open_picture(data, at_least)
        if picture.width * picture.height <= _STRIP:
            pixels, words = _finished(picture, parts, channels)
        else:
            pixels, words = _finished_in_strips(picture, parts, channels)
    del picture
    turn = orientation(parts.exif, parts.xmp)
    return ReadImage(pixels if turn == 1 else _turned(pixels, turn), (*notes, words) if words else notes)


def image_of_pixels(pixels: NDArray[np.uint8], channels: int | None = None) -> Tensor:
    """Return bare pixels, uint8 ``(C, H, W)`` of 1, 3 or 4 channels, as a picture with as many channels as are wanted.

    Args:
        pixels: the values; they are copied.
        channels: as for `read_image`.

    Raises:
        ValueError: there are no pixels or another number of channels.
    """
    if channels not in (None, *_MODES):
        raise ValueError(f"channels {channels} is not 1 (grey), 3 (RGB) or 4 (RGBA)")
    picture = check_image(torch.from_numpy(pixels.copy()))
    if channels in (None, picture.shape[0]):
        return picture
    return from_pillow(_convert(to_pillow(picture), _MODES[channels]))


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
    allowed = tuple(_MODES) if channels is None else (channels,)
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
        picture = from_pillow(to_pillow(picture).resize(target, Image.Resampling.BICUBIC, box=box))
    if not pad or target == (size, size):
        return picture
    square = torch.full((channels, size, size), 255, dtype=torch.uint8)
    if channels == 4:
        square[3] = 0
    left, top = (size - target[0]) // 2, (size - target[1]) // 2
    square[:, top : top + target[1], left : left + target[0]] = picture
    return square


def _finished(picture: Image.Image, parts: Parts, channels: int | None) -> tuple[Tensor, str]:
    """Return the pixels of a picture in 8 bits, sRGB and the channels that are wanted, and what was done to its colours."""
    picture, words = _in_srgb(_to_eight_bits(picture, parts), parts)
    mode = _natural_mode(picture) if channels is None else _MODES[channels]
    return from_pillow(_convert(picture, mode)), words


def _finished_in_strips(picture: Image.Image, parts: Parts, channels: int | None) -> tuple[Tensor, str]:
    """Return the same, in memory for little more than the picture and what becomes of it."""
    rows = max(1, _STRIP // picture.width)
    pixels: Tensor | None = None
    words = ""
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(top + rows, picture.height))
        strip, words = _finished(picture.crop(box), parts, channels)
        if pixels is None:
            pixels = torch.empty((strip.shape[0], picture.height, picture.width), dtype=torch.uint8)
        pixels[:, top : top + rows] = strip
    assert pixels is not None
    return pixels, words


def _turned(pixels: Tensor, orientation: int) -> Tensor:
    """Return pixels ``(C, H, W)`` as a viewer shows them: mirrored or turned."""
    if orientation > 4:
        pixels = pixels.transpose(1, 2)
    axes = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}[orientation]
    return pixels.flip(axes) if axes else pixels.contiguous()


def _to_eight_bits(picture: Image.Image, parts: Parts) -> Image.Image:
    """Bring 16-bit grey to 8 bits by rounding (Pillow's own conversion would clip at 255), and a PNG to its transparency."""
    if isinstance(parts, png.PngParts) and parts.key is not None:
        return png.with_transparency(picture, parts)
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        values, white = tiff.grey_values(picture)
        if values.min() < 0 or values.max() > white:
            raise ValueError(f"grey values from {values.min()} to {values.max()} are outside 0 to {white}")
        return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("a picture of floating-point values has no defined white; convert it to 8 or 16 bits first")
    return picture


def _in_srgb(picture: Image.Image, parts: Parts) -> tuple[Image.Image, str]:
    """Return a picture with its colours as sRGB, and what was done in words."""
    if picture.mode == "LAB":
        return lab_to_srgb(picture), "Lab to sRGB"
    if parts.profile is None:
        return picture, ""
    if _transparent(picture):
        picture = picture.convert("LA" if picture.mode in ("1", "L", "LA") else "RGBA")
    elif picture.mode not in ("L", "CMYK"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    return to_srgb(picture, parts.profile)


def _transparent(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info


def _natural_mode(picture: Image.Image) -> str:
    if _transparent(picture):
        return "RGBA"
    return "L" if picture.mode in ("1", "L") else "RGB"


def _convert(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "RGBA":
        return picture.convert("RGBA")
    if _transparent(picture):
        opaque = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    if picture.mode == mode:
        return picture
    try:
        return picture.convert(mode)
    except ValueError:
        raise ValueError(f"pictures of colour mode {picture.mode} cannot be read; convert it to RGB first") from None
