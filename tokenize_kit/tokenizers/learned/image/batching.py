"""Which pictures go through the network in one call, so that ids and pixels do not depend on the batch.

Libraries choose the order of sums by the number of pictures, above all for one against many, and a last bit can turn an id. So
the pictures of one size go through the network in calls whose number of pictures follows from that size alone, filled up where
there are fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tokenize_kit.tokenizers.learned.image.config import NetworkConfig

CPU_PIXELS, GPU_PIXELS = 1 << 14, 1 << 18
"""Pixels that go through the network in one call if a picture has fewer: enough for its speed."""
CPU_NUMBERS = 1 << 21
"""Of small pictures a call may have more, up to so many numbers in the first feature map: a narrow network is done with few
pixels before Python has called its layers."""
ONE_THREAD_PIXELS = 1 << 16
"""Pictures with more pixels have all threads of the CPU for themselves: few of them would fill its caches and the memory."""
_LANES = 32
"""Numbers that torch computes together on a CPU. What is left over at the end of a tensor, fewer than these, goes through another
exponential, which can differ in the last bit."""


class Group(NamedTuple):
    """Some pictures that go through the network in one call (a call a tile)."""

    shape: tuple[int, ...]
    """That of the id grid of each."""
    places: list[int]
    """Where they are in the batch."""
    size: int
    """Pictures of the call; those that are missing are filled up."""
    one_thread: bool
    """Whether the call has one thread, beside others that have one too."""


def grouped(shapes: Sequence[tuple[int, ...]], network: NetworkConfig, device: torch.device) -> Iterator[Group]:
    """Yield the places of equal shapes of id grids together, as many as go through the network in one call."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(place)
    for shape, places in by_shape.items():
        ids = shape[0] * shape[1]
        size, used = call_size(ids, network, device)
        alone = ids * network.downsample_factor**2 <= ONE_THREAD_PIXELS and device.type == "cpu"
        for start in range(0, len(places), used):
            yield Group(shape, places[start : start + used], size, alone)


def call_size(ids: int, network: NetworkConfig, device: torch.device) -> tuple[int, int]:
    """Return how many pictures of so many ids a call of the network has, and how many of them are used."""
    area = ids * network.downsample_factor**2
    if device.type != "cpu":
        size = max(1, GPU_PIXELS // area)
        return size, size
    pixels = CPU_PIXELS
    if 4 * area <= pixels:
        pixels = max(pixels, CPU_NUMBERS // network.width)
    size = max(1, pixels // area)
    if size * ids % _LANES == 0:
        return size, size
    # What is left over at the end of a tensor must belong to pictures that only fill up; of twice as many they are few.
    size, spare = max(pixels, 2 * CPU_PIXELS) // area, -(-_LANES // ids)
    return (size, size - spare) if size > 3 else (1, 1)


def filled(batch: Tensor, count: int) -> Tensor:
    """Return a batch (B, ...) with its first element repeated at the end, up to ``count`` of them."""
    missing = count - len(batch)
    return torch.cat([batch, batch[:1].expand(missing, *batch.shape[1:])]) if missing > 0 else batch
