"""Hidden tokens for parallel decoding, as MaskGIT is trained (Chang et al. 2022, arXiv 2202.04200).

Of a document the part cos(pi u / 2) is hidden, u drawn from [0, 1), so that mostly much is: decoding begins with nothing. All
hidden tokens are predicted and count alike, so documents of which much is hidden count more; the loss is no bound on a
likelihood, for which there is ``any-order``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenize_kit.sequences.packing import Rows
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive.objectives import Ints, Prepared
from trainers.autoregressive.objectives.hiding import Floats, Hiding, hide


@dataclass(frozen=True)
class MaskGIT(Hiding):
    """See the module. Condition and structure are never hidden."""

    def prepare(self, rows: Rows, vocabulary: Vocabulary, numbers: Ints, seed: int) -> Prepared:
        """See `Objective.prepare`."""
        return Prepared(hide(rows, vocabulary, numbers, seed, _cosine)[0])


def _cosine(drawn: Floats, every: Ints) -> Ints:
    return np.ceil(np.cos(np.pi / 2 * drawn) * every).astype(np.int64)


MASKGIT = MaskGIT()
