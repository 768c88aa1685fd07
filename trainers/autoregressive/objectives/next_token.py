"""The next token, as decoders are trained: n tokens are n - 1 places, each of which is to predict the token after it.

The labels are shifted when rows are packed, so that no token is ever asked to predict the first token of its neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenize_kit.sequences.packing import Rows
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive.objectives import Ints, Prepared


@dataclass(frozen=True)
class NextToken:
    """See the module."""

    ahead: int = 1
    extra_ids: int = 0
    causal: bool = True
    whole: bool = True

    def places(self, tokens: Ints) -> Ints:
        """See `Objective.places`."""
        return tokens - 1

    def prepare(self, rows: Rows, vocabulary: Vocabulary, numbers: Ints, seed: int) -> Prepared:  # noqa: ARG002
        """See `Objective.prepare`: nothing is to be done."""
        return Prepared(rows)


NEXT_TOKEN = NextToken()
