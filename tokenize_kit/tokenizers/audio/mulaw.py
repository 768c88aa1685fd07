"""Mu-law samples as tokens: one of 256 ids a sample, the tokens of WaveNet (van den Oord et al. 2016, section 2.2).

A sample x in [-1, 1] is companded by the continuous mu-law of ITU-T G.711, F(x) = sign(x) ln(1 + 255 |x|) / ln 256, and F is
rounded to the nearest of 256 equally spaced values; ids run from -1 (0) to 1 (255), as in `torchaudio.functional`. Steps are
fine near silence and coarse near full scale.

The loss is bounded: with D the decoded sample, ``|D - x| <= BOUND * (|x| + 1/255)`` where ``BOUND = 256 ** (1/255) - 1``, about
0.022: never more than 2.21 % of full scale, and 0.0086 % at silence. Zero itself decodes to 0.000086.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.media.audio import MAX_SAMPLE_RATE, check_audio
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

NAME = "mulaw"
MU = 255
BOUND = 256 ** (1 / 255) - 1
"""The largest loss relative to ``|x| + 1/255``: half a step of the companded value, carried back."""


class MuLawTokenizer(Tokenizer):
    """One id of 256 for every sample of a mono sound; the grid is ``(time,)`` and as long as the sound.

    Sounds are mono: files of more channels are mixed down when they are read, and a tensor of two channels is refused, because
    ids of two channels in one row would be a grid of another kind.

    Args:
        sample_rate: samples a second that a sound must have. The ids do not depend on it, but what they mean does.

    Raises:
        ValueError: the sample rate is out of range.
    """

    def __init__(self, sample_rate: int = 16_000) -> None:
        if isinstance(sample_rate, bool) or not 1 <= sample_rate <= MAX_SAMPLE_RATE:
            raise ValueError(f"sample rate {sample_rate} is outside 1 to {MAX_SAMPLE_RATE:,} Hz")
        self._spec = TokenSpec(
            "audio", MU + 1, ("time",), (1,), lossless=False, channels=1, sample_rate=int(sample_rate)
        )
        # The ids change between two float32 values: the upper one of each pair, found in float64, so that they depend on no
        # machine's logarithm.
        edges = expanded((2 * np.arange(1, MU + 1) - 1) / MU - 1)
        near = edges.astype(np.float32)
        near = np.where(near < edges, np.nextafter(near, np.float32(2)), near)
        self._edges = torch.from_numpy(near)
        self._levels = torch.from_numpy(expanded(2 * np.arange(MU + 1) / MU - 1).astype(np.float32))

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
        """Hexadecimal sha256 over the sample rate."""
        return fingerprint_of(NAME, {"sample_rate": self._spec.sample_rate})

    def encode(self, sample: Sample) -> Tensor:
        """Turn float32 ``(1, samples)`` in [-1, 1] into ids, int64 ``(samples,)``."""
        return torch.bucketize(check_audio(sample, 1)[0].contiguous(), self._edges, right=True)

    def decode(self, ids: Tensor) -> Sample:
        """Turn ids ``(samples,)`` back into float32 ``(1, samples)``."""
        return self._levels[check_grid(ids, self._spec)][None]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer_config.json`` into ``folder``."""
        write_config(check_target(folder, self), self, {"sample_rate": self._spec.sample_rate})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        return cls(**read_options(folder, NAME, {"sample_rate": int}))


def expanded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the samples in [-1, 1] whose companded values these are: the inverse of F."""
    samples: NDArray[np.float64] = np.sign(values) * np.expm1(np.abs(values) * np.log1p(MU)) / MU
    return samples
