"""Samples of 16 bits as tokens: pulse-code modulation as wav files and compact discs have it, one id of 65,536 a value.

What reading a 16-bit file gives comes back exactly; other samples are rounded to the nearest of 65,536 levels, half to even,
so they move by at most 1/65536 of full scale (one at +1.0, which 16 bits cannot say, by 1/32768). Ids run from 0 (-1.0) over
32,768 (silence) to 65,535; they fit the uint16 of a shard, so that stored sounds are as large as wav files.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from tokenize_kit.media.audio import MAX_SAMPLE_RATE, check_audio, to_pcm16
from tokenize_kit.protocol import (
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

NAME = "pcm"
LEVELS = 1 << 16
SILENCE = 1 << 15
"""The id of a sample of 0."""


class PCMTokenizer(Tokenizer):
    """One id of 65,536 for every value; the grid of a mono sound is ``(time,)``, of a stereo one ``(time, channel)``.

    Args:
        sample_rate: samples a second that a sound must have. The ids do not depend on it, but what they mean does.
        channels: 1 (mono) or 2 (stereo).

    Raises:
        ValueError: the sample rate is out of range, or another number of channels.
    """

    def __init__(self, sample_rate: int = 16_000, channels: int = 1) -> None:
        if isinstance(sample_rate, bool) or not 1 <= sample_rate <= MAX_SAMPLE_RATE:
            raise ValueError(f"sample rate {sample_rate} is outside 1 to {MAX_SAMPLE_RATE:,} Hz")
        if channels not in (1, 2) or isinstance(channels, bool):
            raise ValueError(f"channels {channels!r} is not 1 (mono) or 2 (stereo)")
        axes = ("time",) if channels == 1 else ("time", "channel")
        self._options = {"sample_rate": int(sample_rate), "channels": int(channels)}
        self._spec = TokenSpec(
            "audio", LEVELS, axes, (1,) * len(axes), lossless=False, channels=channels, sample_rate=int(sample_rate)
        )

    @property
    def spec(self) -> TokenSpec:
        """What this tokenizer is and expects; not called lossless, as only samples of 16 bits come back exactly."""
        return self._spec

    @property
    def ordinal(self) -> bool:
        """Ids are values in their order."""
        return True

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 over the sample rate and the channels."""
        return fingerprint_of(NAME, self._options)

    def encode(self, sample: Sample) -> Tensor:
        """Turn float32 ``(C, samples)`` in [-1, 1] into ids, int64 ``(samples,)`` or ``(samples, 2)``."""
        values = torch.from_numpy(to_pcm16(check_audio(sample, self._options["channels"])))
        grid = values[0] if len(values) == 1 else values.T.contiguous()
        return grid.to(torch.int64).add_(SILENCE)

    def decode(self, ids: Tensor) -> Sample:
        """Turn ids ``(samples,)`` or ``(samples, 2)`` back into float32 ``(C, samples)``."""
        ids = check_grid(ids, self._spec)
        if ids.ndim == 2 and ids.shape[1] != 2:
            raise ValueError(f"an id grid of shape {tuple(ids.shape)} must have 2 channels last")
        sound = (ids.to(torch.float32) - SILENCE) / SILENCE
        return sound[None] if ids.ndim == 1 else sound.T.contiguous()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer_config.json`` into ``folder``."""
        write_config(check_target(folder, self), self, self._options)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        return cls(**read_options(folder, NAME, {"sample_rate": int, "channels": int}))
