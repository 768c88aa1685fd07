"""Any order: hidden tokens, weighted so that the loss bounds how improbable a document is.

Of the N tokens that a document is to have predicted, n are hidden, n from 1 to N alike, and all of these predicted from the
rest, each with the weight N / n. The expected loss of a document is then that of predicting its tokens one by one in an order
that is drawn, averaged over all orders (Uria et al. 2014, arXiv 1310.1757; Hoogeboom et al. 2021, arXiv 2110.02037, eq. 4),

    E_n [ N / n  sum_{i hidden} -ln p(x_i | what is seen) ]  =  E_order [ -ln p_order(x) ]  >=  -ln E_order [ p_order(x) ]

so bits a dimension that are told of it are an upper bound, and comparable with those of causal models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenize_kit.sequences.packing import Rows
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive.objectives import Ints, Prepared
from trainers.autoregressive.objectives.hiding import Hiding, hide


@dataclass(frozen=True)
class AnyOrder(Hiding):
    """See the module. Condition and structure are never hidden."""

    whole: bool = True

    def prepare(self, rows: Rows, vocabulary: Vocabulary, numbers: Ints, seed: int) -> Prepared:
        """See `Objective.prepare`."""
        hidden, chosen, every = hide(
            rows, vocabulary, numbers, seed, lambda drawn, of: 1 + (drawn * of).astype(np.int64)
        )
        return Prepared(hidden, (every / chosen).astype(np.float32))


ANY_ORDER = AnyOrder()
