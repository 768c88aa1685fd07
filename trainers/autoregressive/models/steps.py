"""The tokens of a joint step in one place: what stands between tokens, which are flat everywhere else, and the blocks.

A joint step is what a layout puts together, such as the ids of all codebooks at one time (`Inputs.steps` says where it ends). The
embeddings of its tokens are summed into one place, the blocks run over places, and what they say at a place serves all tokens
of the step after it (MusicGen, Copet et al. 2023, arXiv 2306.05284):

    tokens    <bos> <begin> 00 | 10 01 | 20 11 02 | ..        places   0 1 2 | 3 | 4 | ..
    predicted   from the place of ..      00: 1    10, 01: 2    20, 11, 02: 3

So the state of a token, from which the next one is predicted, is that of the last place that is closed at it; `codebooks` then
tells the ids of the next step apart. Places count from 0 in each document. Left padding, and what is not closed at the end of a
row, are no places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trainers.autoregressive.models.inputs import Inputs


@dataclass(frozen=True)
class Joined:
    """Where the tokens of rows go. B rows, T tokens, P places; rows may have fewer places than P, these are the first ones."""

    closes: Tensor
    """bool (B, T), which tokens are the last of their steps."""
    slots: Tensor
    """int64 (B, T), the codebook of the token after each; 0 if it has none."""
    real: Tensor
    """bool (B, T), which are no padding."""
    places: int
    """P, at least 1."""
    open: Tensor | None = None
    """bool (B,), in which rows the first token goes on with a step that began before; None means in none."""

    @classmethod
    def of(cls, steps: Tensor, real: Tensor, multiple: int = 1, open: Tensor | None = None) -> Joined:
        """Lay out tokens.

        Args:
            steps: int64 (B, T, 2), see `Inputs.steps`.
            real: bool (B, T), which are no padding.
            multiple: P is a multiple of it if T is, so that there are few shapes to compile.
            open: see `Joined`.
        """
        closes = (steps[..., 0] > 0) & real
        places = max(1, int(closes.sum(1).max()))
        return cls(closes, steps[..., 1], real, min(steps.shape[1], -(-places // multiple) * multiple), open)

    @cached_property
    def number(self) -> Tensor:
        """How many places each row has, int64 (B,)."""
        return self.closes.sum(1)

    @cached_property
    def _closed(self) -> Tensor:
        """(B, T), how many places are closed up to each token, itself included."""
        return self.closes.long().cumsum(1)

    @cached_property
    def _goal(self) -> Tensor:
        """(B, T), the place of each token; that of what is not closed is the number of its row, that of padding P + 1."""
        return torch.where(self.real, self._closed - self.closes.long(), self.places + 1)

    @cached_property
    def there(self) -> Tensor:
        """Which places there are, bool (B, P)."""
        return torch.arange(self.places, device=self.closes.device) < self.number[:, None]

    @cached_property
    def ends(self) -> Tensor:
        """The token that closes each place, int64 (B, P); 0 where there is no place."""
        return self._tokens_at(self.closes, 0)[:, : self.places]

    @cached_property
    def begins(self) -> Tensor:
        """The token that each place begins with, then that of what is not closed, int64 (B, P + 1); -1 where none is here."""
        after = torch.cat((torch.ones_like(self.closes[:, :1]), self.closes[:, :-1] | ~self.real[:, :-1]), 1)
        if self.open is not None:
            after[:, 0] = ~self.open
        return self._tokens_at(self.real & after, -1)

    def _tokens_at(self, chosen: Tensor, none: int) -> Tensor:
        """Return for each place, and for what is not closed, the token of its own that is chosen, (B, P + 1)."""
        rows, length = chosen.shape
        spare = self.places + 1
        found = torch.full((rows, spare + 1), none, device=chosen.device)
        tokens = torch.arange(length, device=chosen.device).expand(rows, -1)
        return found.scatter_(1, torch.where(chosen, self._goal, spare), tokens)[:, :spare]

    def sums(self, x: Tensor) -> Tensor:
        """Return the sums of what the tokens of each step have, (B, P + 1, D); of what is not closed at the number of its row.

        Args:
            x: (B, T, D).
        """
        rows, each = len(x), self.places + 2
        goal = self._goal + torch.arange(rows, device=x.device)[:, None] * each
        room = x.new_zeros(rows * each, x.shape[-1])
        return room.index_add(0, goal.reshape(-1), x.flatten(0, 1)).view(rows, each, -1)[:, :-1]

    def spread(self, hidden: Tensor, before: Tensor | None = None) -> Tensor:
        """Return for each token the state of the last place that is closed at it, (B, T, D).

        Args:
            hidden: (B, P, D).
            before: (B, D), of the last place before these tokens; None where there is none.
        """
        at = self._closed
        if before is None:
            at = (at - 1).clamp(min=0)
        else:
            hidden = torch.cat((before[:, None], hidden), 1)
        at = at + torch.arange(len(at), device=at.device)[:, None] * hidden.shape[1]
        return hidden.flatten(0, 1).index_select(0, at.reshape(-1)).view(*self.closes.shape, -1)

    def inputs(self, inputs: Inputs) -> Inputs:
        """Return what is known of the places: of the tokens that close them, and axial positions of those that begin them."""
        documents = positions = None
        if inputs.documents is not None:
            documents = torch.where(self.there, inputs.documents.gather(1, self.ends), -1)
            places = torch.arange(self.places, device=documents.device).expand_as(documents)
            new = torch.ones_like(self.there)
            new[:, 1:] = documents[:, 1:] != documents[:, :-1]
            positions = places - torch.where(new, places, 0).cummax(1).values
        return Inputs(
            inputs.ids.gather(1, self.ends),
            positions,
            documents,
            None if inputs.given is None else inputs.given.gather(1, self.ends) & self.there,
            None if inputs.axial is None else taken(inputs.axial, self.begins[:, : self.places].clamp(min=0)),
            None if inputs.following is None else taken(inputs.following, self.ends),
        )


def taken(x: Tensor, tokens: Tensor) -> Tensor:
    """Return what ``x`` (B, T, C) has at ``tokens`` (B, P), (B, P, C)."""
    return x.gather(1, tokens[..., None].expand(-1, -1, x.shape[-1]))
