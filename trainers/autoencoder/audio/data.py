"""Sounds to training batches, by way of token shards of 16-bit samples, made with the ``pcm`` tokenizer at one sample rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.protocol.notes import counted
from tokenize_kit.shards import ShardSet
from tokenize_kit.tokenizers.audio.pcm import SILENCE, PCMTokenizer
from trainers.autoencoder.data import Ints, NumberedBatches, SampleBatch, Samples, decode_once

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from trainers.autoencoder.audio.options import TrainAudioOptions

DRAWS = 4
"""How often a crop is drawn until one is not silent; of a part p of silence, p to this power is left."""


@dataclass(frozen=True)
class Cropping:
    """How crops are cut out of sounds."""

    length: int
    """Samples of a crop."""
    silence_db: float | None = None
    """Crops whose root mean square is below this, in dB of full scale, are drawn again; None takes all as they come."""

    def silent(self, crop: NDArray[np.int16]) -> bool:
        """Return whether a crop, int16 (C, N), is to be drawn again."""
        if self.silence_db is None:
            return False
        power = float(np.square(crop, dtype=np.float64).mean()) / SILENCE**2
        return bool(power < 10 ** (self.silence_db / 10))


class Sounds(Samples):
    """The sounds of a shard set, by number.

    Args:
        shards: made by `prepare`.
    """

    def __init__(self, shards: ShardSet) -> None:
        super().__init__(shards, "audio")
        self.lengths: Ints = self.shapes[:, 0].copy()
        """Samples of each."""
        self.channels = int(self.shapes[0, 1]) if self.shapes.shape[1] == 2 else 1

    def part(self, number: int, start: int, length: int) -> NDArray[np.int16]:
        """Return samples of a sound, int16 (C, n): those from ``start`` on, at most ``length``."""
        grid = self.grid(number)[start : start + length]
        # The lowest id is -32768: flipping the highest bit is the subtraction.
        values = (grid ^ np.uint16(SILENCE)).view(np.int16)
        return np.ascontiguousarray(values.reshape(len(values), self.channels).T)


class SoundBatches(NumberedBatches):
    """Training batches by number, for one of several processes.

    Every crop of every batch is drawn by its own number: a sound with a probability proportional to its duration, and a place in
    it; a sound that is shorter than a crop lies at any place in silence.

    Args:
        sounds: where they come from.
        chosen: the numbers of those that are trained on.
        cropping: how crops are cut out of them.
        batch_size: crops of a batch of this process.
        seed: decides which and where.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(
        self, sounds: Sounds, chosen: Ints, cropping: Cropping, batch_size: int, seed: int, rank: int, world: int
    ) -> None:
        super().__init__(chosen, batch_size, seed, rank, world)
        self.sounds, self.cropping = sounds, cropping
        self._ends = np.cumsum(sounds.lengths[chosen])

    @property
    def samples(self) -> int:
        """Samples of all sounds that are trained on."""
        return int(self._ends[-1])

    def epoch(self, batches: int) -> float:
        """Return how often all of the sound was heard after so many batches of every process."""
        return batches * self.batch_size * self.world * self.cropping.length / self.samples

    def read(self, index: int) -> SampleBatch:
        """Read a batch: a function of ``index`` alone."""
        crops = [self.crop(np.random.default_rng([self.seed, place])) for place in self.places(index)]
        return SampleBatch(torch.from_numpy(np.stack(crops)))

    def crop(self, draw: np.random.Generator) -> NDArray[np.int16]:
        """Draw a crop, int16 (C, N)."""
        size = self.cropping.length
        for attempt in range(DRAWS):
            number = self.chosen[int(np.searchsorted(self._ends, draw.integers(self.samples), side="right"))]
            room = int(self.sounds.lengths[number]) - size
            crop = self.sounds.part(number, int(draw.integers(room + 1)) if room > 0 else 0, size)
            if not self.cropping.silent(crop) or attempt == DRAWS - 1:
                break
        if room >= 0:
            return crop
        whole = np.zeros((self.sounds.channels, size), np.int16)
        before = int(draw.integers(1 - room))
        whole[:, before : before + crop.shape[1]] = crop
        return whole


def to_samples(sounds: Tensor) -> Tensor:
    """Turn int16 sounds into float32 in [-1, 1)."""
    return sounds.float().div_(SILENCE)


def prepare(
    options: TrainAudioOptions, data: Sequence[str], folder: Path, tokenizer: PCMTokenizer, progress: Progress | None
) -> None:
    """Decode sounds into a shard set of 16-bit samples in ``folder``; continues where it was stopped.

    Raises:
        FileNotFoundError: there is nothing to read.
        ValueError: the folder holds something else, or the sounds of other options.
        TooManyFailuresError: more than ``options.max_failures`` sounds cannot be read.
    """
    result = decode_once(tokenizer, "pcm", options, data, folder, progress)
    if progress is not None:
        for what, count in result.conversions.items():
            progress.note(counted(count, f"of {result.rows:,} sounds", what))
