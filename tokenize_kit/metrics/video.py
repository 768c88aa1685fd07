"""Quality of videos over time: errors of frames, and how they change from one frame to the next.

Pure functions over uint8 videos ``(T, C, H, W)`` that count exact sums in integers; the PSNR and SSIM of a frame are those of
pictures (`tokenize_kit.metrics.image`). The error of a frame t is e[t] = reconstruction[t] - original[t].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tokenize_kit.metrics.image import on_white, ssim

STILL_LEVELS = 2
"""A pixel of the original stands still where no channel changes by more than this many of 255 levels: above it is motion, below
it the noise of a camera or of the codec that a film comes in."""

_CHUNK_VALUES = 1 << 21


class Changes(NamedTuple):
    """How the error of a video changes, for each step from frame t - 1 to t; int64 ``(T - 1,)``, empty for one frame."""

    power: Tensor
    """The sum of (e[t] - e[t - 1])^2: the squared error of the difference of the two frames."""
    still: Tensor
    """How many values (pixels times channels) stand still in the original."""
    still_power: Tensor
    """The sum of (e[t] - e[t - 1])^2 over these."""
    still_error: Tensor
    """The sum of e[t]^2 + e[t - 1]^2 over these."""


def check_pair(video: Tensor, other: Tensor) -> None:
    """Refuse what cannot be compared as two videos.

    Raises:
        ValueError: the dtypes are not uint8, the shapes differ or are not ``(T, C, H, W)``.
    """
    if video.dtype != torch.uint8 or other.dtype != torch.uint8:
        raise ValueError(
            f"videos of {video.dtype} and {other.dtype} cannot be compared; round them to uint8 (do not truncate)"
        )
    if video.shape != other.shape or video.ndim != 4 or not video.numel():
        raise ValueError(
            f"videos of shapes {tuple(video.shape)} and {tuple(other.shape)} cannot be compared; both are (T, C, H, W)"
        )


def opaque(video: Tensor) -> Tensor:
    """Return a uint8 video ``(T, C, H, W)`` without transparency: RGBA is composited on white, others stay as they are."""
    return torch.stack([on_white(frame) for frame in video]) if video.shape[1] == 4 else video


def frame_errors(video: Tensor, other: Tensor) -> Tensor:
    """Return the sum of squared differences of each frame of two uint8 videos ``(T, C, H, W)``, int64 ``(T,)``.

    Raises:
        ValueError: as `check_pair`.
    """
    check_pair(video, other)
    sums = []
    for part in _parts(video, 0):
        error = other[part].to(torch.int32) - video[part].to(torch.int32)
        sums.append((error * error).flatten(1).sum(1, dtype=torch.int64))
    return torch.cat(sums)


def changes(video: Tensor, other: Tensor) -> Changes:
    """Return how the error of a uint8 video ``(T, C, H, W)`` changes from frame to frame; see `Changes`, `STILL_LEVELS`.

    Raises:
        ValueError: as `check_pair`.
    """
    check_pair(video, other)
    found: list[Changes] = []
    for part in _parts(video, 1):
        before = video[part].to(torch.int32)
        error = other[part].to(torch.int32) - before
        moved = (before[1:] - before[:-1]).abs().amax(1, keepdim=True) > STILL_LEVELS  # (t, 1, H, W)
        power, squares = (error[1:] - error[:-1]).square(), error.square()
        both = squares[1:] + squares[:-1]
        still = (~moved).flatten(1).sum(1) * video.shape[1]
        found.append(Changes(_sums(power), still, *(_sums(part.masked_fill(moved, 0)) for part in (power, both))))
    if not found:
        return Changes(*(torch.zeros(0, dtype=torch.int64) for _ in Changes._fields))
    return Changes(*(torch.cat(sums) for sums in zip(*found, strict=True)))


def video_ssim(video: Tensor, other: Tensor) -> float:
    """Return the mean over the frames of two uint8 videos ``(T, C, H, W)`` of their `tokenize_kit.metrics.image.ssim`.

    Raises:
        ValueError: as `check_pair`, or a side is shorter than SSIM needs.
    """
    check_pair(video, other)
    # Frames count as channels, over which SSIM is a mean.
    sums = [ssim(video[part].flatten(0, 1), other[part].flatten(0, 1)) * len(video[part]) for part in _parts(video, 0)]
    return sum(sums) / len(video)


def behind_borders(frames: int, factor: int) -> Tensor:
    """Return which frames of a video follow a border between two time steps of a causal grid, bool ``(frames,)``.

    The first step of such a grid is the first frame, every other one ``factor`` frames; so the frames 1 + k * factor do.
    """
    places = torch.arange(frames)
    return (places > 0) & ((places - 1) % factor == 0)


def _parts(video: Tensor, overlap: int) -> Iterator[slice]:
    """Yield ranges of frames that cover a video in bounded memory, each with the last frames of the one before."""
    most = max(1, _CHUNK_VALUES // video[0].numel())
    for start in range(0, len(video) - overlap, most):
        yield slice(start, min(start + most + overlap, len(video)))


def _sums(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1, dtype=torch.int64)
