"""A condition sees itself as a whole, what is predicted what is before it (PrefixLM, Raffel et al. 2020, arXiv 1910.10683)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainers.autoregressive.models.masks import Span


@dataclass(frozen=True)
class Prefix:
    """See the module. While it generates, all of a condition must come in one step."""

    needs: frozenset[str] = frozenset({"given"})
    causal: bool = True
    ahead: bool = True
    encodes: bool = False

    def sees(self, span: Span) -> Tensor | None:
        """See `Form.sees`."""
        if span.queries == 1:
            return None  # what is before a token holds its whole condition
        given = span.known_given
        return span.before | (span.at_queries(given)[..., None] & given[:, None] & span.near)


PREFIX = Prefix()
