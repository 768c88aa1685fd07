"""Which keys a query sees: what its form says, within its document, behind the padding and within the window.

Masks are boolean, (B or 1, queries, keys), True where a query sees a key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """Queries at the places ``start`` to ``stop`` of B rows, whose keys are all places up to ``stop``."""

    start: int
    stop: int
    device: torch.device
    window: int | None = None
    """A query sees only keys that are fewer than so many places away."""
    documents: Tensor | None = None
    """int64 (B, stop), where the rows are whole."""
    given: Tensor | None = None
    """bool (B, stop), which keys are a condition."""
    padding: Tensor | None = None
    """int64 (B,), how many of the first keys are padding."""
    starts: Tensor | None = None
    """int64 (B,), the place of the first query of each row where these differ; ``start`` is of no meaning then."""
    count: int = 0
    """The number of queries then."""
    keys: Tensor | None = None
    """int64 (B, stop), the place of each key in its row where that is not its number."""
    own: Tensor | None = None
    """int64 (B, stop), the place of each key in its document where that does not follow from the rest."""

    @property
    def queries(self) -> int:
        """Number of queries."""
        return self.stop - self.start if self.starts is None else self.count

    @property
    def known_given(self) -> Tensor:
        """`given`, for a form that needs it."""
        assert self.given is not None, "the form names it among its needs"
        return self.given

    def at_queries(self, known: Tensor) -> Tensor:
        """Return what is known of the keys (B, stop) at the queries, (B, queries)."""
        if self.starts is None:
            return known[:, self.start :]
        return known.expand(len(self._places), -1).gather(1, self._places)

    @cached_property
    def _places(self) -> Tensor:
        """(1 or B, queries), the place of each query."""
        if self.starts is None:
            return torch.arange(self.start, self.stop, device=self.device)[None]
        return self.starts[:, None] + torch.arange(self.count, device=self.device)

    @cached_property
    def apart(self) -> Tensor:
        """(1 or B, queries, keys), how many places a key is before a query."""
        if self.keys is not None:
            return self.at_queries(self.keys)[..., None] - self.keys[:, None]
        return self._places[..., None] - torch.arange(self.stop, device=self.device)

    @cached_property
    def own_places(self) -> Tensor:
        """(1 or B, keys), the place of each key in its document; below 0 for left padding."""
        if self.own is not None:
            return self.own
        place = torch.arange(self.stop, device=self.device)[None]
        if self.padding is not None:
            return place - self.padding[:, None]
        return place if self.documents is None else places_in(self.documents)

    @cached_property
    def before(self) -> Tensor:
        """The keys up to each query itself, within the window."""
        apart = self.apart
        return (apart >= 0) if self.window is None else (apart >= 0) & (apart < self.window)

    @cached_property
    def near(self) -> Tensor:
        """The keys on both sides of each query, within the window."""
        apart = self.apart
        return torch.ones_like(apart, dtype=torch.bool) if self.window is None else apart.abs() < self.window

    @cached_property
    def itself(self) -> Tensor:
        """The one key at the place of each query."""
        return self.apart == 0

    @property
    def unbroken(self) -> bool:
        """Whether attention without a mask sees the same as `before`: the first places, or the last one (within the window)."""
        first = self.start == 0 and (self.window is None or self.window >= self.stop)
        alike = self.documents is None and self.padding is None and self.starts is None
        return alike and (first or self.queries == 1)


def places_in(documents: Tensor) -> Tensor:
    """Return the place of each token in its document, int64 (B, T); ``documents`` are of whole rows, each in one run."""
    place = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return place - torch.where(begins, place, 0).cummax(1).values


def attention_mask(
    span: Span,
    sees: Callable[[Span], Tensor | None],
    causal: bool,
    keeps: Callable[[Span], Tensor] | None = None,
) -> Tensor | None:
    """Return the mask of a span, (B or 1, 1, queries, keys), or None where attention without one sees the same.

    Args:
        span: the queries and keys.
        sees: of a form, see `forms.Form.sees`.
        causal: of the form.
        keeps: of a pattern, which keys are looked at, see `patterns`; None means all.
    """
    mask = sees(span)
    if mask is None:
        if span.unbroken and keeps is None:
            return None
        mask = span.before if causal else span.near
    if keeps is not None:
        mask = mask & keeps(span)
    if span.documents is not None:
        same = span.at_queries(span.documents)[..., None] == span.documents[:, None]
        mask = mask & same
    if span.padding is not None:
        # A place of the padding sees itself: a row without any key would give NaN.
        key = torch.arange(span.stop, device=span.device)
        mask = mask & ((key >= span.padding[:, None])[:, None] | span.itself)
    return mask[:, None]


def one_document(documents: Tensor | None) -> bool:
    """Return whether every row is known to be one document; on a GPU, where the comparison would wait, nothing is known."""
    return documents is None or (documents.device.type == "cpu" and bool((documents == documents[:, :1]).all()))


ENCODED_MULTIPLE = 32
"""How many places an encoder has is a multiple of this, so that there are few shapes to compile."""


@dataclass(frozen=True)
class Condition:
    """Where the conditions of rows are, brought together: S places of each row, those of no condition after the others."""

    places: Tensor
    """int64 (B, S), places in the row."""
    mask: Tensor
    """(B, 1, S, S), what the encoder sees: all of the condition of the same document, within the window."""
    seen: Tensor
    """(B, 1, T, S + 1), what of it each place of the row sees. The last, which is nothing, is for those that see no other."""

    @classmethod
    def of(cls, given: Tensor, documents: Tensor | None, window: int | None) -> Condition:
        """Find the conditions of whole rows.

        Args:
            given: bool (B, T), which tokens are a condition.
            documents: int64 (B, T); None means one document a row.
            window: of the model.
        """
        length = given.shape[1]
        count = int(given.sum(1).max())
        count = min(length, max(1, -(-count // ENCODED_MULTIPLE)) * ENCODED_MULTIPLE)
        # Stable, so the conditions of a row stay in their order.
        places = torch.argsort(~given, dim=1, stable=True)[:, :count]
        real = given.gather(1, places)
        mask = real[:, :, None] & real[:, None]
        seen = real[:, None].expand(-1, length, -1)
        if documents is not None:
            own = documents.gather(1, places)
            mask = mask & (own[:, :, None] == own[:, None])
            seen = seen & (documents[:, :, None] == own[:, None])
        if window is not None:
            mask = mask & ((places[:, :, None] - places[:, None]).abs() < window)
        mask = mask | torch.eye(count, dtype=torch.bool, device=given.device)
        seen = torch.cat((seen, ~seen.any(-1, keepdim=True)), -1)
        return cls(places, mask[:, None], seen[:, None])

    def gather(self, x: Tensor) -> Tensor:
        """Return what ``x`` (B, T, ...) has at the places, (B, S, ...)."""
        index = self.places.view(*self.places.shape, *(1,) * (x.ndim - 2))
        return x.gather(1, index.expand(-1, -1, *x.shape[2:]))


def with_nothing(encoded: Tensor) -> Tensor:
    """Return what is encoded (B, S, D) with the zero at its end that `Condition.seen` speaks of."""
    return F.pad(encoded, (0, 0, 0, 1))
