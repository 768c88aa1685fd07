"""Videos as uint8 tensors ``(T, C, H, W)``: checked and resized."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenize_kit.media.image import resize_image

CHANNELS = (1, 3, 4)
"""Grey, RGB, RGBA."""


def check_video(sample: object, channels: int | None = None) -> Tensor:
    """Return ``sample`` if it is a video: a uint8 tensor ``(T, C, H, W)`` with at least one frame of one pixel.

    Args:
        sample: what a caller handed in.
        channels: how many channels it must have; None accepts 1, 3 and 4.

    Raises:
        TypeError: it is not a uint8 tensor.
        ValueError: it has another number of axes or channels, no frame or no pixels.
    """
    if not isinstance(sample, Tensor):
        raise TypeError(f"a video is a uint8 tensor (T, C, H, W), got {type(sample).__name__}")
    if sample.dtype != torch.uint8:
        raise TypeError(
            f"a video is a uint8 tensor with values 0 to 255, got {sample.dtype}; scale and convert it first"
        )
    if sample.ndim != 4:
        raise ValueError(
            f"a video has the axes (T, C, H, W), got the shape {tuple(sample.shape)}; a picture is a video of one frame"
        )
    allowed = CHANNELS if channels is None else (channels,)
    if sample.shape[1] not in allowed:
        expected = " or ".join(map(str, allowed))
        raise ValueError(
            f"a video of shape {tuple(sample.shape)} has {sample.shape[1]} channels, expected {expected}; "
            "the layout is (T, C, H, W)"
        )
    if sample.numel() == 0:
        raise ValueError(f"a video of shape {tuple(sample.shape)} has no {'frames' if not len(sample) else 'pixels'}")
    return sample.cpu()


def resize_video(frames: Tensor, size: int, *, crop: bool = True, pad: bool = False) -> Tensor:
    """Resize every frame of a uint8 video ``(T, C, H, W)`` as `tokenize_kit.media.image.resize_image` does a picture.

    Raises:
        ValueError: ``size`` is below 1, or a frame would have too many pixels.
    """
    return torch.stack([resize_image(frame, size, crop=crop, pad=pad) for frame in check_video(frames)])
