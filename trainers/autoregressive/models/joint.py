"""Generation with joint steps: tokens come one by one, and the blocks run where a row has the last one of a step.

The cache of keys and values is over places (`steps`). Rows may have different numbers of them, as prompts have different lengths;
each has its own count, and its places stand from the left without gaps. Rows whose steps end together, as is usual, cost one run
of the blocks for all tokens of a step; where only some end, the blocks run over these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from trainers.autoregressive.models.cache import LayerCache, RowsCache, TransformerCache
from trainers.autoregressive.models.codebooks import Codebooks
from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.models.fast import decode
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.masks import Span
from trainers.autoregressive.models.steps import Joined


class Network(Protocol):
    """What is asked of a Transformer."""

    config: TransformerConfig
    codebooks: Codebooks | None
    encoder: nn.ModuleList | None

    def embedded(self, ids: Tensor) -> Tensor:
        """Return what ids bring themselves."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits of states."""
        ...

    def extend(
        self,
        x: Tensor,
        inputs: Inputs,
        places: slice | Tensor,
        span: Span,
        cache: TransformerCache,
        layers: Sequence[LayerCache | RowsCache],
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the states of further places, and remember them."""
        ...


class JointCache:
    """What a Transformer with joint steps remembers while it generates; see `Transformer.new_cache`.

    Args:
        places: keys and values of every layer, with room for as many places as tokens may come.
        width: of the model.
        history: how many tokens `codebooks` must know before one.
        left_padding: int64 (B,), see `SequenceModel.new_cache`.
    """

    def __init__(self, places: TransformerCache, width: int, history: int, left_padding: Tensor | None) -> None:
        keys = places.layers[0][0]
        self.places, self.history, self.left_padding = places, history, left_padding
        self.length, self.position = places.length, 0
        self.shortest_padding = 0 if left_padding is None else int(left_padding.min())
        rows = places.batch
        self.counts = [0] * rows
        """How many places each row has."""
        self.last = keys.new_zeros(rows, width)
        """(B, D), the state of the last one."""
        self.sum = keys.new_zeros(rows, width)
        """(B, D), the sum of the tokens of the step that is not closed."""
        self.open = torch.zeros(rows, dtype=torch.bool, device=keys.device)
        """bool (B,), whether there is one."""
        self.axial = torch.zeros(rows, 3, dtype=torch.int64, device=keys.device)
        """(B, 3), the positions of its first token."""
        self.tokens = keys.new_zeros(rows, 0, width)
        """(B, up to ``history``, D), the embeddings of the last tokens."""
        self.slots = torch.zeros(rows, 0, dtype=torch.int64, device=keys.device)
        """Of them, see `Joined`."""
        self.closes = torch.zeros(rows, 0, dtype=torch.bool, device=keys.device)
        """The same."""

    @property
    def batch(self) -> int:
        """Number of rows."""
        return len(self.counts)

    def select(self, rows: Tensor) -> JointCache:
        """Return a cache of the rows ``rows`` (int64), in that order."""
        padding = None if self.left_padding is None else self.left_padding[rows]
        chosen = JointCache(self.places.select(rows), self.last.shape[1], self.history, padding)
        chosen.length, chosen.position = self.length, self.position
        chosen.counts = [self.counts[row] for row in rows.tolist()]
        for name in ("last", "sum", "open", "axial", "tokens", "slots", "closes"):
            setattr(chosen, name, getattr(self, name)[rows])
        return chosen

    def lay_out(self, inputs: Inputs) -> Joined:
        """Return where the next tokens go, after those that came before."""
        count = inputs.ids.shape[1]
        real = torch.ones_like(inputs.ids, dtype=torch.bool)
        if self.left_padding is not None:
            at = torch.arange(self.position, self.position + count, device=real.device)
            real = at >= self.left_padding[:, None]
        return Joined.of(inputs.of("steps"), real, open=self.open)

    def keep(self, tokens: Tensor, sums: Tensor, joined: Joined, axial: Tensor | None) -> None:
        """Remember the step that is not closed, and the last tokens.

        Args:
            tokens: (B, n, D), embeddings of those that came.
            sums: (B, P + 1, D), of their steps, with what was open before.
            joined: of them.
            axial: (B, n, 3), their positions if the model asks.
        """
        rows = torch.arange(self.batch, device=tokens.device)
        self.sum = sums[rows, joined.number]
        if axial is not None:
            begin = joined.begins[rows, joined.number]
            self.axial = torch.where((begin >= 0)[:, None], axial[rows, begin.clamp(min=0)], self.axial)
        self.open = torch.where(joined.real[:, -1], ~joined.closes[:, -1], self.open)
        self.position += tokens.shape[1]
        if self.history:
            for name, new in (("tokens", tokens), ("slots", joined.slots), ("closes", joined.closes)):
                setattr(self, name, torch.cat((getattr(self, name), new), 1)[:, -self.history :])


def joint_step(model: Network, inputs: Inputs, cache: JointCache, last_only: bool) -> Tensor:
    """Do what `Transformer.step` does; the cache has room for the tokens."""
    assert model.codebooks is not None
    joined = cache.lay_out(inputs)
    tokens = model.embedded(inputs.ids)
    sums = joined.sums(tokens)
    sums[:, 0] += cache.sum
    numbers = joined.number.tolist()
    before, hidden = cache.last, sums.new_zeros(cache.batch, joined.places, sums.shape[-1])
    if any(numbers):
        hidden = _places(model, inputs, cache, joined, sums, numbers)
    states = joined.spread(hidden, before)
    cache.last = states[:, -1]
    known = (states, tokens, joined.slots, joined.closes)
    if cache.history:
        # Those of the step that goes on; all that came after its first one has the state of the same place.
        old = before[:, None].expand(-1, cache.tokens.shape[1], -1)
        later = cache.closes.flip(1).long().cumsum(1).flip(1) - cache.closes.long()
        slots = torch.where(later == 0, cache.slots, 0)
        kept = (old, cache.tokens, slots, cache.closes)
        known = tuple(torch.cat(pair, 1) for pair in zip(kept, known, strict=True))  # type: ignore[assignment]
    wanted = 1 if last_only else tokens.shape[1]
    if last_only:
        known = tuple(part[:, -1 - cache.history :] for part in known)  # type: ignore[assignment]
    cache.keep(tokens, sums, joined, inputs.axial)
    made = model.codebooks(*known)[:, -wanted:]
    if wanted == 1 and cache.places.packed is not None:
        return decode.logits_of(made[:, 0], cache.places.packed, model.config)[:, None]
    return model.head(made)


def _places(
    model: Network, inputs: Inputs, cache: JointCache, joined: Joined, sums: Tensor, numbers: list[int]
) -> Tensor:
    """Return the states (B, P, D) of the new places, and store their keys and values.

    Args:
        model: whose blocks run.
        inputs: of the tokens.
        cache: of the rows.
        joined: where the tokens go.
        sums: (B, P + 1, D), what is embedded of each place.
        numbers: how many places each row has.
    """
    places, device = cache.places, sums.device
    starts, count = cache.counts, joined.places
    cache.counts = [start + number for start, number in zip(starts, numbers, strict=True)]
    if places.weights is not None and max(numbers) == min(numbers) == 1:
        if places.packed is None:
            places.packed = decode.PackedWeights.of(places.weights)
        where = decode.Place.of_rows(starts, model.config.window, device)
        return decode.through(places.weights, places.packed, model.config, sums[:, 0], where, places.layers)[:, None]
    known = joined.inputs(inputs)
    if known.axial is not None:
        # The first place of a row may have begun before.
        old = (joined.begins[:, 0] < 0)[:, None]
        known.axial[:, 0] = torch.where(old, cache.axial, known.axial[:, 0])
    chosen = [row for row, number in enumerate(numbers) if number]
    # Conditions are encoded of all rows, in the first step.
    encodes = model.encoder is not None and places.memory is None
    rows = None if encodes or len(chosen) == len(numbers) else torch.tensor(chosen, device=device)
    if rows is not None:
        starts = [starts[row] for row in chosen]
        known = known.rows(rows)
    x = sums[:, :count] if rows is None else sums[rows, :count]
    stop = max(starts) + count
    given = None
    first = torch.tensor(starts, device=device)
    at = first[:, None] + torch.arange(count, device=device)
    if places.given is not None:
        own = torch.arange(cache.batch, device=device) if rows is None else rows
        places.given[own[:, None], at] = known.of("given")
        given = places.given[own, :stop]
    if rows is None and max(starts) == min(starts):
        span = Span(starts[0], stop, device, None, None, given)
        layers: list[LayerCache | RowsCache] = [LayerCache(layer, starts[0]) for layer in places.layers]
    else:
        span = Span(0, stop, device, None, None, given, None, first, count)
        layers = [RowsCache(layer, rows, at, stop) for layer in places.layers]
    made = model.extend(x, known, at.clamp(max=model.config.context - 1), span, places, layers, rows)
    if rows is None:
        return made
    return made.new_zeros(cache.batch, count, made.shape[-1]).index_copy(0, rows, made)
