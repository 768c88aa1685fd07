"""Picture files to uint8 tensors ``(C, H, W)``: sRGB, 8 bits, the right way up, with the channels that are wanted."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tokenize_kit.media.image import png, tiff
from tokenize_kit.media.image.exif import orientation
from tokenize_kit.media.image.lent import LARGE, give_back
from tokenize_kit.media.image.opening import open_picture
from tokenize_kit.media.image.parts import Parts
from tokenize_kit.media.image.profiles import lab_to_srgb, to_srgb
from tokenize_kit.media.image.tensors import MODES, check_image, from_pillow, to_pillow

# So many pixels are brought to 8 bits, sRGB and their channels at a time: of a large picture each of that would be a copy.
_STRIP = 1 << 20


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
    if channels not in (None, *MODES):
        raise ValueError(f"channels {channels} is not 1 (grey), 3 (RGB) or 4 (RGBA)")
    with warnings.catch_warnings():
        # What Pillow warns of is either no matter or an error here.
        warnings.simplefilter("ignore")
        picture, parts, notes = open_picture(data, at_least)
        if picture.width * picture.height <= LARGE:
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
    if channels not in (None, *MODES):
        raise ValueError(f"channels {channels} is not 1 (grey), 3 (RGB) or 4 (RGBA)")
    picture = check_image(torch.from_numpy(pixels.copy()))
    if channels in (None, picture.shape[0]):
        return picture
    return from_pillow(_convert(to_pillow(picture), MODES[channels]))


def _finished(picture: Image.Image, parts: Parts, channels: int | None) -> tuple[Tensor, str]:
    """Return the pixels of a picture in 8 bits, sRGB and the channels that are wanted, and what was done to its colours."""
    picture, words = _in_srgb(_to_eight_bits(picture, parts), parts)
    mode = _natural_mode(picture) if channels is None else MODES[channels]
    return from_pillow(_convert(picture, mode)), words


def _finished_in_strips(picture: Image.Image, parts: Parts, channels: int | None) -> tuple[Tensor, str]:
    """Return the same, in memory for little more than the larger of the picture, which is used up, and what becomes of it."""
    rows = max(1, _STRIP // picture.width)
    pixels: Tensor | None = None
    words = ""
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(top + rows, picture.height))
        strip, words = _finished(picture.crop(box), parts, channels)
        if pixels is None:
            pixels = torch.empty((strip.shape[0], picture.height, picture.width), dtype=torch.uint8)
        pixels[:, top : top + rows] = strip
        give_back(picture, box[3])
    assert pixels is not None
    return pixels, words


def _turned(pixels: Tensor, orientation: int) -> Tensor:
    """Return pixels ``(C, H, W)`` as a viewer shows them: mirrored or turned, in the memory in which they are."""
    channels, height, width = pixels.shape
    turned = pixels.view(channels, width, height) if orientation > 4 else pixels
    axes = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}[orientation]
    for number, plane in enumerate(pixels):
        turned[number] = (plane.t() if orientation > 4 else plane).flip(axes)  # a copy in any case
    return turned


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
