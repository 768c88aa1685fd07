"""Channel values of every pixel of every frame as ids: lossless, vocabulary 256.

It is to video what `tokenize_kit.tokenizers.image.pixels` is to pictures: raw pixels for small models, and the form in which
trainers keep films that were decoded once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor

from tokenize_kit.media.video import check_video
from tokenize_kit.protocol import (
    MAX_FRAME_RATE,
    Tokenizer,
    TokenSpec,
    check_grid,
    check_target,
    fingerprint_of,
    read_options,
    write_config,
)

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample

NAME = "frames"


class FramesTokenizer(Tokenizer):
    """Channel values as ids.

    The grid of a grey video is ``(time, height, width)``, of RGB and RGBA ``(time, height, width, channel)``.

    Args:
        frame_rate: frames a second that a video must have. The ids do not depend on it, but what they mean does.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).

    Raises:
        ValueError: the frame rate is out of range, or another number of channels.
    """

    def __init__(self, frame_rate: float = 12.0, channels: int = 3) -> None:
        if isinstance(frame_rate, bool) or not 0 < frame_rate <= MAX_FRAME_RATE:
            raise ValueError(f"frame rate {frame_rate} is outside 0 to {MAX_FRAME_RATE} frames a second")
        if channels not in (1, 3, 4) or isinstance(channels, bool):
            raise ValueError(f"channels {channels!r} is not 1 (grey), 3 (RGB) or 4 (RGBA)")
        axes = ("time", "height", "width") if channels == 1 else ("time", "height", "width", "channel")
        self._options: dict[str, Any] = {"frame_rate": float(frame_rate), "channels": int(channels)}
        self._spec = TokenSpec(
            "video", 256, axes, (1,) * len(axes), lossless=True, channels=int(channels), frame_rate=float(frame_rate)
        )

    @property
    def spec(self) -> TokenSpec:
        """What this tokenizer is and expects."""
        return self._spec

    @property
    def ordinal(self) -> bool:
        """Ids are values in their order."""
        return True

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 over the frame rate and the channels."""
        return fingerprint_of(NAME, self._options)

    def encode(self, sample: Sample) -> Tensor:
        """Turn a uint8 video ``(T, C, H, W)`` into ids, int64 ``(T, H, W, C)``, or ``(T, H, W)`` if it is grey."""
        frames = check_video(sample, self._spec.channels)
        ids = frames[:, 0] if self._spec.channels == 1 else frames.permute(0, 2, 3, 1)
        return ids.to(torch.int64).contiguous()

    def decode(self, ids: Tensor) -> Sample:
        """Turn ids ``(T, H, W, C)``, or ``(T, H, W)`` if grey, back into a uint8 video ``(T, C, H, W)``."""
        ids = check_grid(ids, self._spec)
        if self._spec.channels == 1:
            return ids.to(torch.uint8)[:, None]
        if ids.shape[3] != self._spec.channels:
            raise ValueError(f"an id grid of shape {tuple(ids.shape)} must have {self._spec.channels} channels last")
        return ids.to(torch.uint8).permute(0, 3, 1, 2).contiguous()

    def encode_pieces(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode the pieces (t, C, H, W) of one video, each by itself; yield the ids of each."""
        return map(self.encode, pieces)

    def decode_pieces(self, grids: Iterable[Tensor], length: int | None = None) -> Iterator[Tensor]:
        """Decode the pieces of one grid; yield those of the video, cut to ``length`` frames if it is given.

        Raises:
            ValueError: as `decode`, or they have fewer frames than that.
        """
        frames = 0
        for ids in grids:
            piece = cast("Tensor", self.decode(ids))
            left = len(piece) if length is None else max(0, length - frames)
            frames += len(piece)
            yield piece[:left]
        if length is not None and frames < length:
            raise ValueError(f"ids of {frames:,} frames do not cover {length:,}")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer_config.json`` into ``folder``."""
        write_config(check_target(folder, self), self, self._options)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        return cls(**read_options(folder, NAME, {"frame_rate": float, "channels": int}))
