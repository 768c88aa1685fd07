"""Which samples and which operation each sequence has: from the seed and its number alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tokenize_kit.shards.pairs.options import PairsOptions
from tokenize_kit.sources.heldout import held_out, key_fractions


class Drawn(NamedTuple):
    """What one sequence is made of."""

    operation: str
    rows: tuple[int, ...]
    """Of the examples, and last of the query."""
    held_out: bool


class Draw:
    """Says what each sequence is made of.

    Args:
        keys: of the samples.
        options: of the run.
        operations: all of them, those that are held out last.
        kept: how many of them are for training, too.

    Raises:
        ValueError: there are too few samples on a side.
    """

    def __init__(self, keys: Sequence[str], options: PairsOptions, operations: Sequence[str], kept: int) -> None:
        self.keys, self._options, self._operations, self._kept = keys, options, operations, kept
        held = key_fractions(keys) < options.validation_fraction
        self._sides = np.flatnonzero(~held), np.flatnonzero(held)
        for what, rows in zip(("for training", "held out"), self._sides, strict=True):
            needed = options.pairs + 1
            if len(rows) < needed and (what == "for training" or options.validation_fraction):
                raise ValueError(
                    f"{len(rows)} of {len(keys):,} samples are {what} (--validation-fraction {options.validation_fraction:g}), "
                    f"but a sequence needs {needed} of them; use fewer --pairs, another fraction, or more samples"
                )

    def sequence(self, number: int) -> Drawn:
        """Return what sequence ``number`` is made of."""
        apart = held_out(f"{self._options.seed}/{number}", self._options.validation_fraction)
        generator = np.random.default_rng([self._options.seed, number])
        operation = self._operations[int(generator.integers(len(self._operations) if apart else self._kept))]
        side = self._sides[apart]
        rows = side[generator.choice(len(side), self._options.pairs + 1, replace=False)]
        return Drawn(operation, tuple(rows.tolist()), apart)
