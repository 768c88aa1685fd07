"""From samples of any kind to training batches: decoded once into token shards, then read by number in any order.

The shards come from the same pipeline as all others, with a lossless tokenizer: so they are resumable, made by any number of
workers, mapped into memory, and samples that cannot be read are listed. A batch is a function of its number alone, and the
next ones are read while one is trained on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.shards.result import EncodeResult
from tokenize_kit.sources.heldout import key_fractions

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Tokenizer
    from trainers.autoencoder.options import RunOptions

Ints = NDArray[np.int64]
_AHEAD = 2
"""Batches that are read while the one before is trained on."""


@dataclass
class SampleBatch:
    """Some samples of one shape."""

    samples: Tensor
    """As they are stored, integers: pictures uint8 (B, C, H, W), clips uint8 (B, C, T, H, W), sounds int16 (B, C, N)."""
    made: Tensor | None = None
    """What the model made of them in this step, float of the same shape, for the discriminator."""

    def to(self, device: torch.device) -> SampleBatch:
        """Return the batch on another device."""
        return SampleBatch(self.samples.to(device, non_blocking=True))


class Samples:
    """The decoded samples of a shard set, by number.

    Args:
        shards: made by `decode_once`.
        stream: name of their stream, which is that of their modality.
    """

    def __init__(self, shards: ShardSet, stream: str) -> None:
        self._arrays = shards.stream_arrays(stream)
        self._starts = np.cumsum([0, *(len(array) for array in self._arrays)])
        self.shapes: Ints = np.concatenate([array.shapes for array in self._arrays])
        """(samples, axes) of each grid."""
        self.keys: list[str] = shards.column("key").to_pylist()
        """(samples,) where each came from."""
        self.fractions = key_fractions(self.keys)
        """(samples,) of the keys, by which some are held out."""

    def __len__(self) -> int:
        return len(self.shapes)

    def grid(self, number: int) -> NDArray[Any]:
        """Return the id grid of a sample, a view of the mapped file."""
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._arrays[place].grid(int(number - self._starts[place]))


class NumberedBatches(ABC):
    """The batches of one of several processes, by number.

    Args:
        chosen: the numbers of the samples that are trained on.
        batch_size: samples of a batch of this process.
        seed: decides all that is drawn.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(self, chosen: Ints, batch_size: int, seed: int, rank: int, world: int) -> None:
        self.chosen, self.batch_size, self.seed, self.rank, self.world = chosen, batch_size, seed, rank, world
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._waiting: dict[int, Future[SampleBatch]] = {}

    @abstractmethod
    def read(self, index: int) -> SampleBatch:
        """Read a batch: a function of ``index`` alone. Two threads may be in it at a time."""

    @abstractmethod
    def epoch(self, batches: int) -> float:
        """Return how often all of the data was seen after so many batches of every process."""

    def batch(self, index: int) -> SampleBatch:
        """Return this process's batch number ``index``, and begin to read the next ones."""
        ready = self._waiting.pop(index, None)
        self._waiting = {number: future for number, future in self._waiting.items() if number > index}
        for number in range(index + 1, index + 1 + _AHEAD):
            if number not in self._waiting:
                self._waiting[number] = self._reader.submit(self.read, number)
        return self.read(index) if ready is None else ready.result()

    def places(self, index: int) -> range:
        """Return where the samples of a batch stand among those of all batches of all processes."""
        first = (index * self.world + self.rank) * self.batch_size
        return range(first, first + self.batch_size)


class EpochBatches(NumberedBatches):
    """Batches in epochs, each of which has an order of its own.

    Args:
        chosen: the numbers of the samples that are trained on.
        batch_size: samples of a batch of this process.
        seed: decides the orders.
        rank: number of this process.
        world: number of processes.
        visits: the numbers of an epoch, some perhaps several times; None visits each once.
    """

    def __init__(
        self, chosen: Ints, batch_size: int, seed: int, rank: int, world: int, visits: Ints | None = None
    ) -> None:
        super().__init__(chosen, batch_size, seed, rank, world)
        self._visits = chosen if visits is None else visits
        self._orders: dict[int, Ints] = {}

    def epoch(self, batches: int) -> float:
        """Return how many epochs so many batches of every process are."""
        return batches * self.batch_size * self.world / len(self._visits)

    def number(self, place: int) -> int:
        """Return which sample stands at a place among those of all batches of all processes."""
        epoch, within = divmod(place, len(self._visits))
        # Two threads read: what one has drawn may be gone from the dictionary when it is needed.
        order = self._orders.get(epoch)
        if order is None:
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(self._visits)
            self._orders = {key: value for key, value in self._orders.items() if key >= epoch - 1} | {epoch: order}
        return int(order[within])


def decode_once(
    tokenizer: Tokenizer,
    name: str,
    options: RunOptions,
    data: Sequence[str],
    folder: Path,
    progress: Progress | None,
    **cutting: Any,
) -> EncodeResult:
    """Decode samples into a shard set in ``folder``; continues where it was stopped.

    Args:
        tokenizer: a lossless one; its modality becomes the name of the stream.
        name: under which it is registered.
        options: how many processes decode, and how many samples may fail.
        data: what to read.
        folder: where to.
        progress: shows the position; None shows nothing.
        cutting: further options of `EncodeOptions`, by which samples are cut or scaled.

    Raises:
        FileNotFoundError: there is nothing to read.
        ValueError: the folder holds something else, or the samples of other options.
        TooManyFailuresError: more than ``options.max_failures`` samples cannot be read.
    """
    return encode(
        EncodeOptions(
            tokenizer=(f"{tokenizer.spec.modality}={name}",),
            data=tuple(data),
            out=str(folder),
            workers=options.workers,
            media_field=options.media_field,
            max_failures=options.max_failures,
            **cutting,
        ),
        progress,
        loaded={name: tokenizer},
        # Previews, and what else the run writes.
        leave_out=(options.out, str(folder.parent)),
    )


def split(
    fractions: NDArray[np.float64],
    fraction: float,
    elsewhere: bool,
    most: int,
    what: str,
    listed: NDArray[np.bool_] | None = None,
) -> tuple[Ints, list[int]]:
    """Return the numbers of the samples that are trained on, and of those that are measured.

    Args:
        fractions: of the samples' keys; see `tokenize_kit.sources.heldout.key_fractions`.
        fraction: part that is held out.
        elsewhere: whether other data is measured on, so that nothing is held out.
        most: the most samples to measure.
        what: the samples' name for the error message.
        listed: which samples are held out instead, (samples,).

    Raises:
        ValueError: nothing is left to train on.
    """
    held = fractions < (0.0 if elsewhere else fraction) if listed is None else listed
    if held.all() and listed is not None:
        raise ValueError(f"--validation-keys lists all {len(fractions)} {what}; nothing is left to train on")
    if held.all():
        raise ValueError(
            f"all {len(fractions)} {what} fall into the held-out part; lower --validation-fraction "
            f"{fraction}, or name more --data"
        )
    return np.flatnonzero(~held), spread(np.flatnonzero(held).tolist(), most)


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """Return at most ``most`` of the numbers, evenly spread."""
    count = len(numbers)
    return [numbers[place * count // most] for place in range(most)] if count > most else list(numbers)
