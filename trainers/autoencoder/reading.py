"""Training batches by number: a batch follows from its number alone, and the next ones are read while one is trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

B = TypeVar("B")
_AHEAD = 2
"""Batches that are read while the one before is trained on."""


class NumberedBatches(ABC, Generic[B]):
    """The batches of one of several processes.

    Args:
        batch_size: samples of a batch of this process.
        seed: decides all that is drawn.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(self, batch_size: int, seed: int, rank: int, world: int) -> None:
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._waiting: dict[int, Future[B]] = {}

    @abstractmethod
    def read(self, index: int) -> B:
        """Read a batch: a function of ``index`` alone. Two threads may be in it at a time."""

    @abstractmethod
    def epoch(self, batches: int) -> float:
        """Return how often all of the data was seen after so many batches of every process."""

    def batch(self, index: int) -> B:
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
