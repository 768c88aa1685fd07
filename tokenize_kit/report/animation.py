"""Videos for a page: an original beside its reconstruction in one animated WebP, so that both play in step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from tokenize_kit.metrics.video import opaque

MAX_BYTES = 1 << 20
"""A larger animation is coded with losses (quality 90), then, as long as it is larger, with half the pixels a side."""

FRAMES_SHOWN = 64
"""The first frames of a longer video are shown."""

GAP = 4
"""White pixels between the two, of what is shown."""

_QUALITY = 90


class Animation(NamedTuple):
    """An animated WebP."""

    data: bytes
    width: int
    """Pixels of the file."""
    height: int


def side_by_side(videos: Sequence[Tensor], gap: int = GAP) -> Tensor:
    """Return videos of one height and length beside each other on white, uint8 ``(T, 3, H, W)``.

    Args:
        videos: uint8 ``(T, C, H, W)`` of 1, 3 or 4 channels.
        gap: white pixels between two.
    """
    parts: list[Tensor] = []
    for video in videos:
        if parts:
            parts.append(torch.full((*parts[0].shape[:3], gap), 255, dtype=torch.uint8))
        parts.append(opaque(video).expand(-1, 3, -1, -1))
    return torch.cat(parts, 3)


def animation(video: Tensor, frame_rate: float, largest: int) -> Animation:
    """Return the first frames of a video as an animated WebP that plays for ever, no larger than `MAX_BYTES` if that can be.

    Args:
        video: uint8 ``(T, 3, H, W)``.
        frame_rate: frames a second.
        largest: pixels of the longer side; a larger one is halved until it fits.
    """
    frames = video[:FRAMES_SHOWN]
    while max(frames.shape[-2:]) > largest:
        frames = _halved(frames)
    data = _webp(frames, frame_rate, lossless=True)
    if len(data) > MAX_BYTES:
        data = _webp(frames, frame_rate, lossless=False)
    while len(data) > MAX_BYTES and min(frames.shape[-2:]) > 1:
        frames = _halved(frames)
        data = _webp(frames, frame_rate, lossless=False)
    return Animation(data, frames.shape[-1], frames.shape[-2])


def _halved(frames: Tensor) -> Tensor:
    height, width = max(1, frames.shape[-2] // 2), max(1, frames.shape[-1] // 2)
    smaller = torch.nn.functional.adaptive_avg_pool2d(frames.to(torch.float32), (height, width))
    return smaller.round().to(torch.uint8)


def _webp(frames: Tensor, frame_rate: float, *, lossless: bool) -> bytes:
    from PIL import Image

    pictures = [Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in frames]
    # Each begins at the millisecond nearest to its time, so that no drift adds up.
    times = [round(1000 * place / frame_rate) for place in range(len(pictures) + 1)]
    durations = [max(1, after - before) for before, after in pairwise(times)]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        lossless=lossless,
        quality=_QUALITY,
        method=4,
    )
    return buffer.getvalue()
