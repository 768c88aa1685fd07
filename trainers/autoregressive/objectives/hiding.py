"""What objectives of hidden tokens share, and rows of which each document has a number of its own of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.sequences.orders.random import mixed
from tokenize_kit.sequences.packing import IGNORED, Rows
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive.objectives import Ints

Floats = NDArray[np.float64]

_OF_DOCUMENTS = 0x68696464656E
"""Sets the bits that say how many are hidden apart from those that say which."""


@dataclass(frozen=True)
class Hiding:
    """An objective whose label is the token at its own place, which is hidden behind an id after those of the vocabulary."""

    ahead: int = 0
    extra_ids: int = 1
    causal: bool = False
    whole: bool = False

    def places(self, tokens: Ints) -> Ints:
        """See `Objective.places`: every token has a place."""
        return tokens


def hide(
    rows: Rows, vocabulary: Vocabulary, numbers: Ints, seed: int, count: Callable[[Floats, Ints], Ints]
) -> tuple[Rows, Ints, Ints]:
    """Hide some of what is to be predicted of each document, each choice of as many tokens as likely as any other.

    Args:
        rows: R of T places, see `Objective.prepare`.
        vocabulary: the id after its last one is the mask.
        numbers: (R,), see `Objective.prepare`.
        seed: the same.
        count: how many of a document are hidden, from 1 to all: given a number in [0, 1) for each document, and how many it has.

    Returns:
        The rows, and for each place (R, T) how many tokens of its document are hidden, and how many could be; 1 where none could.
    """
    height, length = rows.ids.shape
    counts = rows.labels != IGNORED
    # A number for each document of all rows; padding, which has -1, comes first.
    most = int(rows.documents.max(initial=0)) + 2
    own = np.arange(height)[:, None] * most + rows.documents + 1
    every = np.bincount(own[counts], minlength=height * most)
    start = mixed(np.array([seed], np.uint64), numbers.astype(np.uint64))[:, None]
    how_many = uniform(mixed(start ^ np.uint64(_OF_DOCUMENTS), np.arange(most, dtype=np.uint64))).reshape(-1)
    chosen = np.where(every > 0, np.clip(count(how_many, np.maximum(every, 1)), 1, np.maximum(every, 1)), 0)
    # The tokens of each document in an order that is drawn: the first of them are hidden.
    drawn = np.where(counts, uniform(mixed(start, np.arange(length, dtype=np.uint64))), 2.0)
    order = np.lexsort((drawn.reshape(-1), own.reshape(-1)))
    sorted_own = own.reshape(-1)[order]
    rank = np.empty(own.size, np.int64)
    rank[order] = np.arange(own.size) - np.searchsorted(sorted_own, sorted_own)
    hidden = counts & (rank.reshape(own.shape) < chosen[own])
    result = rows._replace(
        ids=np.where(hidden, vocabulary.size, rows.ids), labels=np.where(hidden, rows.labels, IGNORED)
    )
    return result, np.maximum(chosen, 1)[own], np.maximum(every, 1)[own]


def uniform(bits: NDArray[np.uint64]) -> Floats:
    """Return numbers in [0, 1) from random bits."""
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)
