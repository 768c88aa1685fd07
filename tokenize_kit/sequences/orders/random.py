"""An order of its own for every sample, as any-order models are trained on (XLNet, arXiv 1906.08237; sigma-GPT, 2404.09562).

A model of random orders must be told which place it predicts next: a batch says it beside the place of the token itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.sequences.orders import Ints

Bits = NDArray[np.uint64]


@dataclass(frozen=True)
class Random:
    """Every permutation is as likely as any other; the seed of a sample alone decides it, on every machine."""

    drawn: bool = True
    least_axes: int = 1

    def turns(self, shape: tuple[int, ...], seeds: Ints) -> Ints:
        """See `Order.turns`."""
        places = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint64)
        drawn = mixed(seeds.astype(np.uint64)[:, None], places)
        return np.argsort(drawn, axis=1, kind="stable")


def mixed(seed: Bits, number: Bits) -> Bits:
    """Return 64 random bits for each seed and number: SplitMix64 (Steele et al. 2014), which each seed starts elsewhere."""
    with np.errstate(over="ignore"):
        return _scrambled(_scrambled(seed) + (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def _scrambled(bits: Bits) -> Bits:
    with np.errstate(over="ignore"):
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(bits ^ (bits >> np.uint64(31)), np.uint64)


RANDOM = Random()
"""Drawn anew for every sample and epoch."""
