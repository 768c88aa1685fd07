"""Calls of a network side by side on a CPU, each in one thread.

Threads that need not wait for each other are faster than several that share the work of one call, and sums do not depend on how
many there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

_Given = TypeVar("_Given")


class Begin(Protocol):
    """Begins a call; what it returns waits for the result."""

    def __call__(self, work: Callable[[_Given], Tensor], given: _Given, /) -> Callable[[], Tensor]:
        """Begin ``work(given)``."""
        ...


@contextmanager
def alone(device: torch.device, mixed: bool) -> Iterator[None]:
    """Compute without gradients, on a CPU in one thread, since sums can depend on how many there are.

    Args:
        device: where.
        mixed: with bfloat16 where `torch.autocast` takes it; else all is float32.
    """
    threads = torch.get_num_threads()
    one = device.type == "cpu" and threads > 1
    if one:
        torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, mixed):
            yield
    finally:
        if one:
            torch.set_num_threads(threads)


@contextmanager
def side_by_side(most: int, device: torch.device) -> Iterator[Begin]:
    """Yield what begins a call: side by side on a CPU with several threads, else when its result is asked for.

    Args:
        most: no more than so many calls will be running.
        device: where they compute.
    """
    threads = torch.get_num_threads()
    if threads == 1 or device.type != "cpu":
        yield partial
        return
    workers = max(1, min(threads, most))
    ready = threading.Barrier(workers)

    def prepare(_worker: int) -> None:
        torch.get_num_threads()  # a thread takes over the number of the process the first time it looks
        torch.set_num_threads(1)
        ready.wait()

    with ThreadPoolExecutor(workers) as pool:
        try:
            list(pool.map(prepare, range(workers)))
        finally:
            # The number of a thread is its own, but threads of later begin with the one that was set last.
            torch.set_num_threads(threads)

        def begin(work: Callable[[_Given], Tensor], given: _Given) -> Callable[[], Tensor]:
            return pool.submit(work, given).result

        try:
            yield begin
        finally:
            pool.shutdown(cancel_futures=True)


def each(work: Callable[[_Given], Tensor], items: Sequence[_Given], device: torch.device) -> list[Tensor]:
    """Return what ``work`` makes of each item, several side by side.

    Args:
        work: computes on ``device``.
        items: what it is given, one after the other.
        device: where it computes.
    """
    if len(items) < 2:
        return [work(item) for item in items]
    with side_by_side(len(items), device) as begin:
        return [wait() for wait in [begin(work, item) for item in items]]
