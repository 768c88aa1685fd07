"""Shard sets as data sets of torch: by number, and as a shuffled stream that goes on exactly where it was.

    from torch.utils.data import DataLoader
    from tokenize_kit.shards import ShardDataset, ShardStream

    loader = DataLoader(ShardDataset("shards/emoji"), batch_size=None, shuffle=True, num_workers=2)
    stream = ShardStream("shards/emoji", seed=0, rank=0, world=8)

A sample is a dict: ``key``, for each stream its ids as an int64 tensor in the shape of the grid, ``NAME.size`` where a shard has
it, and the columns. Samples have shapes of their own, so whoever wants batches gives `DataLoader` a ``collate_fn``.

A stream gives each sample once an epoch, in an order that the seed and the epoch decide, divided among ranks and the workers of a
`DataLoader` without loss or repetition. ``state_dict()`` says how far a process is and ``load_state_dict()`` goes on there, also
as ``torchdata.stateful_dataloader.StatefulDataLoader`` asks its workers to; with workers of torch's own `DataLoader` nobody asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from tokenize_kit.files import sha256_of_file
from tokenize_kit.shards.format import KEY, MANIFEST_FILE, SIZE_SUFFIX
from tokenize_kit.shards.reader import Record, ShardSet

Sample = dict[str, Any]


class ShardDataset(Dataset[Sample]):
    """A shard set by number.

    Args:
        shards: a finished shard set, or the folder or URL of one.
        streams: which of its streams a sample has; None takes all.

    Raises:
        FileNotFoundError, ValueError, VerificationError: as `ShardSet.open`; or there is no such stream.
    """

    def __init__(self, shards: ShardSet | str | os.PathLike[str], streams: Sequence[str] | None = None) -> None:
        self.shards = shards if isinstance(shards, ShardSet) else ShardSet.open(shards)
        self.streams = tuple(self.shards.streams) if streams is None else tuple(streams)
        for name in self.streams:
            if name not in self.shards.streams:
                raise ValueError(
                    f"{self.shards.folder} has no stream {name!r}; it has {', '.join(self.shards.streams)}"
                )

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; negative numbers count from the end.

        Raises:
            IndexError: there is none of that number.
        """
        return sample_of(self.shards.record(index), self.streams)


class ShardStream(IterableDataset[Sample]):
    """A shard set as a stream in a drawn order, one epoch each time it is iterated.

    Args:
        shards: a finished shard set, or the folder or URL of one.
        streams: which of its streams a sample has; None takes all.
        seed: decides the orders.
        shuffle: draw an order for each epoch, or keep that of the set.
        rank: this process.
        world: number of processes. A rank has every world-th sample of the order, and each worker of its `DataLoader` every
            n-th of these; ranks may differ by one sample.

    Raises:
        FileNotFoundError, ValueError, VerificationError: as `ShardSet.open`; or there is no such stream, or no such rank.
    """

    def __init__(
        self,
        shards: ShardSet | str | os.PathLike[str],
        streams: Sequence[str] | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} must be from 0 to {world - 1}, as world is {world}")
        self.data = ShardDataset(shards, streams)
        self.seed, self.shuffle, self.rank, self.world = seed, shuffle, rank, world
        self.epoch = 0
        """Of the next iteration; counts up when one ends. Workers of a `DataLoader` that are made anew for each epoch do not
        count: set it with `set_epoch` then."""
        self._given = 0

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be that epoch, from its beginning."""
        self.epoch, self._given = epoch, 0

    def __iter__(self) -> Iterator[Sample]:
        first, step = self._part()
        mine = self._order()[first::step]
        while self._given < len(mine):
            # Counted before it is handed over: the state of who has got it is that after it.
            self._given += 1
            yield self.data[int(mine[self._given - 1])]
        self.epoch, self._given = self.epoch + 1, 0

    def __len__(self) -> int:
        """Return how many samples this rank has in an epoch, over all workers."""
        return len(range(self.rank, len(self.data), self.world))

    def state_dict(self) -> dict[str, Any]:
        """Return where this process is, plain data: the epoch, and how many of its samples were given."""
        return {"epoch": self.epoch, "given": self._given, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; the next iteration begins there.

        Raises:
            ValueError: it is the state of other shards, another seed, order, rank, or number of processes or workers.
        """
        own = self._identity()
        for name, value in own.items():
            if state.get(name) != value:
                raise ValueError(
                    f"the state is of a stream with {name} {state.get(name)!r}, and this one has {value!r}; make the stream as "
                    "that one was, or begin anew without the state"
                )
        self.epoch, self._given = int(state["epoch"]), int(state["given"])

    def _identity(self) -> dict[str, Any]:
        first, step = self._part()
        return {
            "shards": sha256_of_file(self.data.shards.folder / MANIFEST_FILE),
            "seed": self.seed,
            "shuffle": self.shuffle,
            "part": f"{first} of {step}",
        }

    def _part(self) -> tuple[int, int]:
        """Return the first place of the order that this process has, and how many further the next is."""
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self.rank + self.world * number, self.world * workers

    def _order(self) -> NDArray[np.int64]:
        count = len(self.data)
        if not self.shuffle:
            return np.arange(count)
        return np.random.Generator(np.random.PCG64([self.seed, self.epoch])).permutation(count)


def sample_of(record: Record, streams: Sequence[str]) -> Sample:
    """Return a record as torch's loaders hand it on; see the module."""
    ids = {name: torch.from_numpy(record.grids[name].astype(np.int64)) for name in streams}
    sizes = {f"{name}{SIZE_SUFFIX}": size for name, size in record.sizes.items() if name in streams}
    return {KEY: record.key, **ids, **sizes, **record.columns}
