"""Packed rows taken apart into their documents, for models that carry a state from token to token.

    row 0   a a a a b b b -        run 0   a a a a
    row 1   c c c c c c - -   ->   run 1   b b b .
                                   run 2   c c c c c c

Runs of similar length are brought together, so that no more than half of what is computed is padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Runs:
    """Some documents of packed rows, R of them, as rows of their own of L places: those that are real first."""

    rows: Tensor
    """int64 (R, 1), the packed row of each."""
    places: Tensor
    """int64 (R, L), the places in it; what is beyond the length is a place of the row all the same."""
    lengths: Tensor
    """int64 (R,), how many places are real, at least 1."""

    def gather(self, x: Tensor) -> Tensor:
        """Return what packed rows ``x`` (B, T, ...) have there, (R, L, ...)."""
        return x[self.rows, self.places]

    def scatter(self, result: Tensor, found: Tensor) -> Tensor:
        """Return ``result`` (B, T, ...) with what was ``found`` (R, L, ...) at the real places."""
        real = torch.arange(self.places.shape[1], device=found.device) < self.lengths[:, None]
        rows = self.rows.expand_as(self.places)[real]
        return result.index_put((rows, self.places[real]), found[real].to(result.dtype))


def runs_of(documents: Tensor) -> Iterator[Runs]:
    """Yield the documents of packed rows, those of similar length at once.

    Args:
        documents: int64 (B, T), the number of each place's document, below 0 for padding; a document's places are neighbours.
    """
    count, length = documents.shape
    border = torch.ones(count, 1, dtype=torch.bool, device=documents.device)
    begins = torch.cat((border, documents[:, 1:] != documents[:, :-1]), 1) & (documents >= 0)
    ends = torch.cat((documents[:, 1:] != documents[:, :-1], border), 1) & (documents >= 0)
    rows, starts = begins.nonzero(as_tuple=True)
    lengths = ends.nonzero(as_tuple=True)[1] - starts + 1
    # The number of doublings that a length needs.
    size = (lengths - 1).clamp(min=0).float().add(1).log2().floor()
    for one in torch.unique(size).tolist():
        chosen = size == one
        longest = int(lengths[chosen].max())
        places = starts[chosen, None] + torch.arange(longest, device=documents.device)
        yield Runs(rows[chosen, None], places.clamp(max=length - 1), lengths[chosen])


@dataclass(frozen=True)
class Shift:
    """The next tokens of rows of which some begin with padding, moved to the left so that the real ones come first."""

    lengths: Tensor
    """int64 (B,), how many of the n places are real; 0 for a row that is still padding."""
    count: int

    @classmethod
    def of(cls, left_padding: Tensor | None, start: int, count: int) -> Shift | None:
        """Return how ``count`` places from ``start`` on are moved; None if all of them are real.

        Args:
            left_padding: int64 (B,), how many leading places of each row are padding.
            start: number of the first place.
            count: of places.
        """
        if left_padding is None or not bool((left_padding > start).any()):
            return None
        return cls(count - (left_padding - start).clamp(0, count), count)

    def left(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, n, ...) with the real places first; what comes after them is of no meaning."""
        places = torch.arange(self.count, device=x.device) + (self.count - self.lengths)[:, None]
        return x[torch.arange(len(x), device=x.device)[:, None], places.clamp(max=self.count - 1)]

    def back(self, x: Tensor) -> Tensor:
        """Return what `left` moved at its own places again, and zeros at the padding."""
        places = torch.arange(self.count, device=x.device) - (self.count - self.lengths)[:, None]
        found = x[torch.arange(len(x), device=x.device)[:, None], places.clamp(min=0)]
        return found * (places >= 0).view(*places.shape, *(1,) * (x.ndim - 2)).to(x.dtype)
