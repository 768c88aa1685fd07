"""Every token sees all others (BERT, Devlin et al. 2019, arXiv 1810.04805), for objectives that hide what is to be predicted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainers.autoregressive.models.masks import Span


@dataclass(frozen=True)
class Bidirectional:
    """See the module. Padding is told from documents alone, as nothing is after it."""

    needs: frozenset[str] = frozenset({"documents"})
    causal: bool = False
    ahead: bool = True
    encodes: bool = False

    def sees(self, span: Span) -> Tensor | None:
        """See `Form.sees`."""
        del span
        return None


BIDIRECTIONAL = Bidirectional()
