"""Every token sees itself and those before it (decoder-only models since GPT, Radford et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainers.autoregressive.models.masks import Span


@dataclass(frozen=True)
class Causal:
    """See the module."""

    needs: frozenset[str] = frozenset()
    causal: bool = True
    ahead: bool = False
    encodes: bool = False

    def sees(self, span: Span) -> Tensor | None:
        """See `Form.sees`."""
        del span
        return None


CAUSAL = Causal()
