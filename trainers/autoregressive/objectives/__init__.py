"""What a sequence model is trained to predict, and where: one file an objective.

An objective owns the shift between a token and its label. It says how many places the tokens of a document take in a row, how far
ahead of its place a label is, and what is done to rows before a model sees them. A new one is an object that keeps the
`Objective` protocol and one entry point in the group ``tokenize_kit.objectives``.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.protocol.registry import OBJECTIVES
from tokenize_kit.sequences.packing import Rows
from tokenize_kit.sequences.vocabulary import Vocabulary

Ints = NDArray[np.int64]


class Prepared(NamedTuple):
    """Rows as a model gets them."""

    rows: Rows
    """The label of a place is what it is to predict."""
    weights: NDArray[np.float32] | None = None
    """(rows, context), how much each label counts, in training and validation; None means 1."""


class Objective(Protocol):
    """What is predicted where."""

    @property
    def ahead(self) -> int:
        """How many tokens after its place the token stands that is predicted there."""
        ...

    @property
    def extra_ids(self) -> int:
        """How many ids a model has beyond those of the vocabulary, such as a mask."""
        ...

    @property
    def causal(self) -> bool:
        """Whether a place must not see the tokens after it, as they are what is predicted."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the weighted nats of all labels are those of whole documents, or in the mean a bound on them."""
        ...

    def places(self, tokens: Ints) -> Ints:
        """Return how many places of a row documents of ``tokens`` tokens take."""
        ...

    def prepare(self, rows: Rows, vocabulary: Vocabulary, numbers: Ints, seed: int) -> Prepared:
        """Return rows as a model gets them; a pure function of its arguments.

        Args:
            rows: as they are packed, with the label of each place where it counts.
            vocabulary: the id space.
            numbers: (rows,), a number for each row that no other row of the training has.
            seed: of the training.
        """
        ...


def objective_named(name: str) -> Objective:
    """Return the objective that is registered as ``name``.

    Raises:
        ValueError: there is none of that name; the message suggests the closest one.
    """
    return cast("Objective", OBJECTIVES.get(name))
