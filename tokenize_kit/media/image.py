"""Picture files to uint8 tensors ``(C, H, W)`` and back, with Pillow.

What comes in from outside is hostile until shown otherwise: only formats that Pillow decodes by itself are opened,
sizes are checked before a pixel is decoded, and whatever breaks inside a decoder becomes a ValueError that names it.

Rules: EXIF orientation is applied; of an animation the first frame is taken; 16-bit grey is rounded to 8 bits (of
16-bit colour Pillow keeps the high byte); colour becomes grey by ITU-R 601; transparency is composited on white where
fewer channels are wanted, and is kept (or set to opaque) where four are.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from tokenize_kit.files import atomic_write

MAX_PIXELS = 1 << 26
"""The largest picture that is read: 67 megapixels, 200 MB as RGB. Larger ones are refused before they are decoded."""

# Named, because Pillow would otherwise also try formats that start other programs (EPS) or that are not pictures.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def read_image(data: bytes, channels: int | None = None) -> Tensor:
    """Decode a picture file into a uint8 tensor ``(C, H, W)``.

    Args:
        data: the bytes of the file.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); None keeps what the file has.

    Raises:
        ValueError: the bytes are not a picture, a broken or truncated one, or one of more than `MAX_PIXELS` pixels.
    """
    if channels not in (None, *_MODES):
        raise ValueError(f"channels {channels} is not 1 (grey), 3 (RGB) or 4 (RGBA)")
    picture = _open(data)
    width, height = picture.size
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(
            f"a picture of {width}x{height} pixels is outside the limit of 1 to {MAX_PIXELS:,} pixels; "
            "scale it down first"
        )
    try:
        picture.load()
        picture = ImageOps.exif_transpose(picture)
    except Exception as error:  # on broken bytes Pillow's decoders raise nearly every built-in exception
        raise ValueError(f"cannot decode the picture ({_reason(error)}); it is damaged or cut short") from None
    picture = _to_eight_bits(picture)
    mode = _natural_mode(picture) if channels is None else _MODES[channels]
    return from_pillow(_convert(picture, mode))


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
    array = np.array(picture)
    planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


def resize_image(sample: Tensor, size: int, *, crop: bool = True) -> Tensor:
    """Resize a uint8 picture ``(C, H, W)`` so that its short side has ``size`` pixels (bicubic, antialiased).

    With ``crop`` the middle is kept as a square ``(C, size, size)``; otherwise the long side follows in proportion.
    A picture that already has the wanted size is returned as it is.

    Raises:
        ValueError: ``size`` is below 1, or the result would have more than `MAX_PIXELS` pixels.
    """
    picture = check_image(sample)
    _, height, width = picture.shape
    short = min(height, width)
    if crop:
        target = (size, size)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
    else:
        target = (max(1, round(width * size / short)), max(1, round(height * size / short)))
        box = (0.0, 0.0, float(width), float(height))
    if size < 1 or target[0] * target[1] > MAX_PIXELS:
        raise ValueError(f"image size {size} is outside the limit: 1 or more, and at most {math.isqrt(MAX_PIXELS)}")
    if target == (width, height):
        return picture
    return from_pillow(to_pillow(picture).resize(target, Image.Resampling.BICUBIC, box=box))


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Our own limit is below the one that Pillow warns at, and it is an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"a picture larger than the limit of {MAX_PIXELS:,} pixels: {error}") from None
    except Exception as error:
        raise ValueError(f"not a picture that can be read ({len(data)} bytes; {_reason(error)})") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    # Pillow prints the address of the byte stream, which differs from run to run.
    return type(error).__name__ if not text or "BytesIO" in text else text


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Bring 16-bit grey to 8 bits by rounding; Pillow's own conversion would clip at 255."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"grey values from {values.min()} to {values.max()} are outside 0 to 65535")
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("a picture of floating-point values has no defined white; convert it to 8 or 16 bits first")
    return picture


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
    try:
        return picture.convert(mode)
    except ValueError:
        raise ValueError(f"pictures of colour mode {picture.mode} cannot be read; convert it to RGB first") from None
