"""Attention that skips what a pattern does not keep: only blocks of keys that some query of a block looks at are multiplied.

- A window, and the blocks of ``fixed``, cut the row into blocks. The queries of a block look at its own keys and those of the
  blocks beside it, as many as the window reaches, and for ``fixed`` at the summary columns of the row besides, which are
  gathered. They are joined before the softmax, so that it is one over the union.
- Columns lay the row out as (places / stride, stride) and attend along each column.

So time grows with (places * window), (places ** 2 / stride) and (places * (stride + places * columns / stride)). Documents, the
condition of a form and the order of time are masks within the blocks. What a query does not see is what the masks of `patterns`
say, which the tests hold this against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.autoregressive.models.fast.attention import attend
from trainers.autoregressive.models.masks import Span, attention_mask
from trainers.autoregressive.models.patterns import Blocks, Columns, Pattern

LEAST_BLOCK, MOST_BLOCK = 32, 256
"""Places of a block: smaller products cost more than what they save, larger blocks hold more that a window hides."""
OUTSIDE = -2
"""The document of places that are beyond the row; padding has -1."""

Sees = Callable[[Span], Tensor | None]


@dataclass(frozen=True)
class Sparse:
    """How one layer attends, in the place of a mask; made by `sparse`. N blocks of b places, or columns of N places."""

    block: int
    """b, or the stride."""
    along: bool
    """Whether attention is along columns, and not within blocks."""
    before: int
    """How many blocks before its own a block looks at."""
    after: int
    """How many after it."""
    gathered: Tensor | None
    """int64 (M, S), places whose keys every block looks at besides."""
    mask: Tensor | None
    """bool (M * N, 1, b, keys), with M = B, or 1 where all rows have the same; for columns (M * b, 1, N, N)."""
    causal: bool
    """Whether no mask means the keys up to a query."""
    shared: bool
    """Whether M is 1."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return what `fast.attention.attend` returns with the mask of the pattern, (B, H, T, E).

        Args:
            queries: (B, H, T, E).
            keys: (B, K, T, E), where K divides H.
            values: (B, K, T, E).
        """
        batch, heads, length, size = queries.shape
        if self.along:
            asked, own, told = (self._rows(_cut(x, self.block).transpose(2, 3)) for x in (queries, keys, values))
        else:
            asked = self._rows(_cut(queries, self.block))
            own, told = (self._rows(self._looked_at(x)) for x in (keys, values))
        seen = attend(asked, own, told, self.mask, self.causal, ahead=True)
        # (N, heads of all rows, b, E) or (rows * N, H, b, E), and back.
        if self.shared:
            seen = seen.view(-1, batch, heads, *seen.shape[-2:]).permute(1, 2, 0, 3, 4)
        else:
            seen = seen.view(batch, -1, *seen.shape[-3:]).transpose(1, 2)
        seen = seen.transpose(2, 3) if self.along else seen
        return seen.reshape(batch, heads, -1, size)[:, :, :length]

    def _rows(self, x: Tensor) -> Tensor:
        """Bring blocks (B, H, N, b, E) to the first axis; where they share a mask, rows of the batch become further heads."""
        return x.permute(2, 0, 1, 3, 4).flatten(1, 2) if self.shared else x.transpose(1, 2).flatten(0, 1)

    def _looked_at(self, x: Tensor) -> Tensor:
        """Return what each block looks at, (B, K, N, keys, E)."""
        near = _beside(_cut(x, self.block), self.before, self.after)
        if self.gathered is None:
            return near
        index = self.gathered.expand(len(x), -1)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[-1])
        return torch.cat((near, x.gather(2, index)[:, :, None].expand(-1, -1, near.shape[2], -1, -1)), 3)


def sparse(span: Span, pattern: Pattern, sees: Sees, causal: bool, ahead: bool) -> Sparse | None:
    """Return how to attend within whole rows, or None where a mask costs no more.

    Args:
        span: of whole rows, without a window.
        pattern: of the layer.
        sees: of the form, see `forms.Form`.
        causal: the same.
        ahead: the same.
    """
    if isinstance(pattern.far, Columns):
        return _columns(span, pattern.far, sees, causal)
    if isinstance(pattern.far, Blocks):
        return _blocks(span, pattern.far, sees, causal, ahead)
    if pattern.window is None:
        return None
    block = min(max(pattern.window, LEAST_BLOCK), MOST_BLOCK)
    before = -(-(pattern.window - 1) // block)
    after = before if ahead else 0
    if (before + 1 + after) * block >= span.stop:
        return None
    known = _Known(span)
    inside = known.beside(block, before, after, pattern.window)
    return Sparse(
        block, False, before, after, None, attention_mask(inside, sees, causal), causal, known.documents.shape[0] == 1
    )


def _columns(span: Span, far: Columns, sees: Sees, causal: bool) -> Sparse | None:
    if far.stride == 1 or far.stride >= span.stop:
        return None
    known = _Known(span)
    documents, given = (
        None if x is None else _cut(x, far.stride, OUTSIDE).transpose(1, 2).flatten(0, 1)
        for x in (known.documents, known.given)
    )
    # What is beyond the row comes last, and a causal query does not look there.
    plain = span.documents is None and (causal or span.stop % far.stride == 0)
    count = -(-span.stop // far.stride)
    inside = Span(0, count, span.device, None, None if plain else documents, None if given is None else given > 0)
    mask = attention_mask(inside, sees, causal)
    return Sparse(far.stride, True, 0, 0, None, mask, causal, known.documents.shape[0] == 1)


def _blocks(span: Span, far: Blocks, sees: Sees, causal: bool, ahead: bool) -> Sparse | None:
    # Where documents begin anywhere, the block of a token may begin in the block of places before its own, and end in the next.
    aside = int(span.documents is not None)
    before, after = aside, aside * int(ahead)
    # Of a document at most this part are summaries, however it ends.
    most = span.stop * far.columns // far.stride
    near = (before + 1 + after) * far.stride
    if near + most >= span.stop:
        return None
    known = _Known(span)
    telling = far.summary(known.own) & (known.documents >= 0)
    gathered = torch.argsort(~telling, dim=1, stable=True)[:, :most]
    real = telling.gather(1, gathered)
    inside = known.beside(far.stride, before, after, None, gathered, real)

    def keeps(inside: Span) -> Tensor:
        # A summary of the query's own block is among the keys of its block already.
        same = far.same_block(inside)
        return torch.cat((same[..., :near], ~same[..., near:]), -1) if most else same

    mask = attention_mask(inside, sees, causal, keeps)
    shared = known.documents.shape[0] == 1
    return Sparse(far.stride, False, before, after, gathered if most else None, mask, causal, shared)


class _Known:
    """What is known of the places of whole rows, (M, T) each: of all rows, or of one where they are alike."""

    def __init__(self, span: Span) -> None:
        self.span = span
        rows = 1 if span.given is None else len(span.given)
        nothing = torch.zeros(rows, span.stop, dtype=torch.int64, device=span.device)
        self.documents = nothing if span.documents is None else span.documents
        self.given = None if span.given is None else span.given.long()
        self.own = span.own_places.expand_as(self.documents)
        self.places = torch.arange(span.stop, device=span.device).expand_as(self.documents)

    def beside(
        self,
        block: int,
        before: int,
        after: int,
        window: int | None,
        gathered: Tensor | None = None,
        real: Tensor | None = None,
    ) -> Span:
        """Return the queries of each block and the keys that it looks at, as rows of a span."""

        def looked_at(x: Tensor, outside: int) -> Tensor:
            blocks = _cut(x, block, outside)
            near = _beside(blocks[..., None], before, after, outside)[..., 0]
            if gathered is not None and real is not None:
                more = torch.where(real, x.gather(1, gathered), outside)
                near = torch.cat((near, more[:, None].expand(-1, near.shape[1], -1)), 2)
            return near.flatten(0, 1)

        documents = looked_at(self.documents, OUTSIDE)
        starts = torch.full((len(documents),), before * block, device=documents.device)
        return Span(
            0,
            documents.shape[1],
            self.span.device,
            window,
            documents,
            None if self.given is None else looked_at(self.given, 0) > 0,
            None,
            starts,
            block,
            # Beyond the row places go on, so that a query there is at a place of its own.
            _counted(looked_at(self.places, -1), block, before, self.places.shape[1]),
            looked_at(self.own, 0),
        )


def _counted(places: Tensor, block: int, before: int, length: int) -> Tensor:
    """Give the queries of the last block that are beyond the row, which have the place -1, places of their own."""
    inside = torch.arange(places.shape[1], device=places.device)
    queries = (inside >= before * block) & (inside < (before + 1) * block)
    return torch.where((places < 0) & queries, length + inside, places)


def _cut(x: Tensor, block: int, outside: int = 0) -> Tensor:
    """Cut the places of ``x`` (B, T), or (B, H, T, E), into blocks of their own axis, filling the last one."""
    axis = 1 if x.ndim == 2 else 2
    if missing := -x.shape[axis] % block:
        x = F.pad(x, (0, missing) if x.ndim == 2 else (0, 0, 0, missing), value=outside)
    return x.reshape(*x.shape[:axis], -1, block, *x.shape[axis + 1 :])


def _beside(blocks: Tensor, before: int, after: int, outside: int = 0) -> Tensor:
    """Put the blocks that are beside each block (.., N, b, E) around it, (.., N, (before + 1 + after) * b, E)."""
    if not before and not after:
        return blocks
    count = blocks.shape[-3]
    around = F.pad(blocks, (0, 0, 0, 0, before, after), value=outside)
    return torch.cat([around.narrow(-3, number, count) for number in range(before + 1 + after)], -2)
