"""Quality of pictures: PSNR, SSIM and MS-SSIM of 8-bit pictures, as torchmetrics computes them.

They are written out here because importing torchmetrics takes longer than evaluating a tokenizer on a hundred pictures;
the tests compare them with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

SSIM_WINDOW = 11
"""Side of the Gaussian window, in pixels."""

SSIM_MIN_SIDE = SSIM_WINDOW // 2 + 1
"""SSIM needs pictures at least this large, because a border of half a window is mirrored around them."""

MS_SSIM_MIN_SIDE = SSIM_WINDOW << 4
"""MS-SSIM needs pictures at least this large, so that the window fits into the picture that was halved four times."""

_MS_SSIM_POWERS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_STRIP_VALUES = 1 << 18
_PEAK = 255.0
_SIGMA = 1.5


def on_white(picture: Tensor) -> Tensor:
    """Return a uint8 picture ``(C, H, W)`` without transparency: RGBA is composited on white, others stay as they are."""
    if picture.shape[0] != 4:
        return picture
    values, alpha = picture[:3].to(torch.int32), picture[3:].to(torch.int32)
    return ((values * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)


def squared_error(picture: Tensor, other: Tensor) -> int:
    """Return the sum of squared differences of two uint8 tensors of equal shape, exactly.

    Raises:
        ValueError: the dtypes are not uint8 or the shapes differ.
    """
    if picture.dtype != torch.uint8 or other.dtype != torch.uint8:
        raise ValueError(
            f"pictures of {picture.dtype} and {other.dtype} cannot be compared; round them to uint8 (do not truncate)"
        )
    if picture.shape != other.shape:
        raise ValueError(f"pictures of shapes {tuple(picture.shape)} and {tuple(other.shape)} cannot be compared")
    difference = picture.to(torch.int32) - other.to(torch.int32)
    return int((difference * difference).sum(dtype=torch.int64))


def psnr_of(error: float) -> float:
    """Return the PSNR in dB of a mean squared error of 8-bit values; infinite for zero."""
    return 10 * math.log10(_PEAK**2 / error) if error else math.inf


def psnr(picture: Tensor, other: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of two uint8 pictures ``(C, H, W)``; infinite if they are equal."""
    return psnr_of(squared_error(picture, other) / picture.numel())


def ssim(picture: Tensor, other: Tensor) -> float:
    """Return the structural similarity of two uint8 pictures ``(C, H, W)``, in [-1, 1] (Wang et al. 2004).

    A Gaussian window of 11x11 pixels with sigma 1.5 around every pixel, the picture mirrored at its edges; k1 0.01,
    k2 0.03, averaged over the channels and pixels.

    Raises:
        ValueError: the dtypes or shapes differ, or a side is shorter than `SSIM_MIN_SIDE`.
    """
    squared_error(picture, other)
    if min(picture.shape[-2:]) < SSIM_MIN_SIDE:
        raise ValueError(
            f"a picture of shape {tuple(picture.shape)} is smaller than the {SSIM_MIN_SIDE} that SSIM needs"
        )
    return _means(_mirrored(torch.stack([picture, other])))[0]


def ms_ssim(picture: Tensor, other: Tensor) -> float:
    """Return the multi-scale structural similarity of two uint8 pictures ``(C, H, W)`` (Wang et al. 2003).

    Five scales, each half of the one before; contrast and structure of the first four (of the windows that lie inside)
    and the similarity of the last, with the exponents of the paper. Negative parts count as 0, whose powers are defined.

    Raises:
        ValueError: the dtypes or shapes differ, or a side is shorter than `MS_SSIM_MIN_SIDE`.
    """
    squared_error(picture, other)
    if min(picture.shape[-2:]) < MS_SSIM_MIN_SIDE:
        raise ValueError(
            f"a picture of shape {tuple(picture.shape)} is smaller than the {MS_SSIM_MIN_SIDE} that MS-SSIM needs"
        )
    both = torch.stack([picture, other])
    product = 1.0
    for power in _MS_SSIM_POWERS[:-1]:
        product *= max(0.0, _means(both)[1]) ** power
        # Exact in float32: the mean of 256 values of 8 bits has 16 bits.
        both = functional.avg_pool2d(both.to(torch.float32), 2)
    return float(product * max(0.0, _means(_mirrored(both))[0]) ** _MS_SSIM_POWERS[-1])


def _mirrored(both: Tensor) -> Tensor:
    """Return pictures ``(..., H, W)`` of any type with half a window mirrored around them."""
    for axis in (-2, -1):
        length, half = both.shape[axis], SSIM_WINDOW // 2
        places = torch.arange(-half, length + half).abs()
        places = torch.minimum(places, 2 * (length - 1) - places)
        both = both.index_select(axis, places)
    return both


def _means(both: Tensor) -> tuple[float, float]:
    """Return the mean similarity, and that of contrast and structure alone, over the windows inside ``(2, C, H, W)``."""
    _, channels, height, width = both.shape
    windows = height - SSIM_WINDOW + 1
    rows = max(1, _STRIP_VALUES // (channels * width))
    similarity = structure = 0.0
    # In strips, because the maps in float64 take 120 times the memory of a picture.
    for top in range(0, windows, rows):
        strip = both[:, :, top : min(top + rows, windows) + SSIM_WINDOW - 1].to(torch.float64)
        maps = _ssim_maps(*strip)
        similarity, structure = similarity + float(maps[0].sum()), structure + float(maps[1].sum())
    count = channels * windows * (width - SSIM_WINDOW + 1)
    return similarity / count, structure / count


def _ssim_maps(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maps of similarity, and of contrast and structure alone, of float64 pictures ``(C, H, W)``."""
    maps = _filtered(_filtered(torch.stack([x, y, x * x, y * y, x * y]), -1), -2)
    mean_x, mean_y, square_x, square_y, product = maps
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    structure = (2 * (product - mean_x * mean_y) + c2) / (variances + c2)
    return luminance * structure, structure


def _filtered(maps: Tensor, axis: int) -> Tensor:
    """Return the Gaussian mean along one axis, of the windows inside: shifted sums cost less than a float64 convolution."""
    window = [math.exp(-0.5 * ((place - SSIM_WINDOW // 2) / _SIGMA) ** 2) for place in range(SSIM_WINDOW)]
    length = maps.shape[axis] - SSIM_WINDOW + 1
    total = torch.zeros_like(maps.narrow(axis, 0, length))
    for place, weight in enumerate(window):
        total.add_(maps.narrow(axis, place, length), alpha=weight / sum(window))
    return total
