"""Masked tokens, as BERT is trained (Devlin et al. 2019, arXiv 1810.04805): some of a document are hidden and all others seen.

Of the tokens that are to be predicted 15 % are chosen; of these 80 % become ``<mask>``, an id after those of the vocabulary, 10 %
another token of the same row, and 10 % stay. Condition and structure are never hidden. Which tokens are chosen follows from
the seed and the number of the row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenize_kit.sequences.orders.random import mixed
from tokenize_kit.sequences.packing import IGNORED, Rows
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive.objectives import Ints, Prepared
from trainers.autoregressive.objectives.hiding import Hiding, uniform

CHOSEN = 0.15
"""Part of the tokens that is predicted."""
HIDDEN, CHANGED = 0.8, 0.1
"""Parts of the chosen ones that become a mask and another id."""


@dataclass(frozen=True)
class Masked(Hiding):
    """See the module."""

    def prepare(self, rows: Rows, vocabulary: Vocabulary, numbers: Ints, seed: int) -> Prepared:
        """See `Objective.prepare`."""
        context = rows.ids.shape[1]
        start = mixed(np.array([seed], np.uint64), numbers.astype(np.uint64))[:, None]
        drawn, how, other = (
            mixed(start, np.arange(number * context, (number + 1) * context, dtype=np.uint64)) for number in range(3)
        )
        counts = rows.labels != IGNORED
        chosen = counts & (uniform(drawn) < CHOSEN)
        # Of a row with something to predict something always is: else a short document would teach nothing, and measure nothing.
        first = np.where(counts, uniform(drawn), 2.0).argmin(1)
        chosen[np.arange(len(first)), first] |= counts.any(1)
        kind = uniform(how)
        ids = np.where(chosen & (kind < HIDDEN), vocabulary.size, rows.ids)
        # Another token of the same row, so that it is of a kind that the document has.
        there = np.where(counts, rows.labels, -1)
        borrowed = np.take_along_axis(there, (other % np.uint64(context)).astype(np.int64), 1)
        changed = chosen & (kind >= HIDDEN) & (kind < HIDDEN + CHANGED) & (borrowed >= 0)
        ids = np.where(changed, borrowed, ids)
        return Prepared(rows._replace(ids=ids, labels=np.where(chosen, rows.labels, IGNORED)))


MASKED = Masked()
