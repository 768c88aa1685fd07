"""Bayes nets: a sparse directed graph over the places of a document, with a table of conditional probabilities at each place.

Each place has a few parents among the places before it, and its token is distributed by what they are alone (Pearl 1988). The
graph is given, or learned (`dependence`); the tables are smoothed counts. It is for few variables of few values: columns of
labels, pixels of small pictures of few colours. All documents must be of one length.

It is fitted by counting. `loss` in training mode keeps the documents, up to ``samples`` of them, as they are what graph and
tables follow from; both are made anew when the model is evaluated. What a training step tells as its loss is what its documents
cost by the tables of the last evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from trainers.autoregressive.models.dependence import learned_parents
from trainers.autoregressive.models.family import FamilyConfig
from trainers.autoregressive.models.losses import SequenceLoss
from trainers.autoregressive.models.processes import gathered
from trainers.autoregressive.models.rereading import FixedLengthModel, Whole, every_place


@dataclass(frozen=True)
class BayesConfig(FamilyConfig):
    """How the graph comes about, and what the tables are."""

    parents: int = 1
    """The most parents of a place."""
    edges: tuple[tuple[int, int], ...] | None = None
    """The graph: pairs of places, parent and child, counted from the first token of a document, <bos>, as 0. None learns it: with
    one parent the Chow-Liu tree whose edges lead forward, with more the greedy search K2."""
    smoothing: float = 1.0
    """Added to the count of every id in every row of a table, so that none is impossible."""
    samples: int = 10_000
    """The most documents that are learned from: the first ones that come."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "parents", "samples")
        if not self.smoothing > 0:
            raise ValueError(f"smoothing {self.smoothing} must be above 0, or ids that never came would be impossible")
        if (self.context + 1) * self.vocab_size ** (self.parents + 1) >= 2**63:
            raise ValueError(
                f"parents {self.parents}: tables of {self.vocab_size} ids at {self.context} places are too large; take "
                "fewer parents"
            )
        if self.edges is None:
            return
        edges = tuple(sorted({(int(parent), int(child)) for parent, child in self.edges}))
        for parent, child in edges:
            if not 0 <= parent < child <= self.context:
                raise ValueError(
                    f"edges: {parent} -> {child} must lead from a place to a later one, up to {self.context}"
                )
            if (count := sum(child == other for _, other in edges)) > self.parents:
                raise ValueError(f"edges: place {child} has {count} parents, more than parents {self.parents} allows")
        object.__setattr__(self, "edges", edges)


class Bayes(FixedLengthModel):
    """A Bayes net over places; see `trainers.autoregressive.models.SequenceModel` for the shapes of the methods."""

    configuration = BayesConfig
    kept: Tensor
    kept_count: Tensor
    graph: Tensor
    fitted: Tensor

    def __init__(self, config: BayesConfig) -> None:
        super().__init__(config)
        places = config.context + 1
        # The documents, -1 where there is nothing, and how many they are; the parents of each place, -1 for none, and of how many
        # documents they and the tables are.
        self.register_buffer("kept", torch.full((config.samples, places), -1, dtype=torch.int32))
        self.register_buffer("kept_count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("graph", torch.full((places, config.parents), -1, dtype=torch.int64))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.int64))
        parents: dict[int, list[int]] = {}
        for parent, child in config.edges or ():
            parents.setdefault(child, []).append(parent)
            self.graph[child, len(parents[child]) - 1] = parent
        self._tables: tuple[tuple[int, ...], Tables] | None = None

    def train(self, mode: bool = True) -> Self:
        """Set the mode; to evaluate is to have graph and tables of all documents that came."""
        super().train(mode)
        if not mode and int(self.fitted) != int(self.kept_count):
            self._fit()
        return self

    def after(self, ids: Tensor, places: Tensor) -> Tensor:
        """See `RereadingModel.after`: log-probabilities, given the parents."""
        keys = self._keys(ids, places)
        every = torch.arange(self.config.vocab_size, device=ids.device)
        return self._log(keys[..., None], every)

    def document_loss(self, whole: Whole, z_loss: float) -> SequenceLoss:  # noqa: ARG002 (its partition is 1)
        """See `RereadingModel.document_loss`.

        Raises:
            ValueError: the documents are not of one length.
        """
        self.settled_length(whole.weights)
        labels = whole.labels.clamp(0, self.config.vocab_size - 1)
        each = -self._log(self._keys(whole.ids[:, :-1], every_place(labels)), labels)
        nll = (whole.weights * each).sum()
        return SequenceLoss(nll, nll, whole.weights.sum())

    @torch.no_grad()
    def count(self, documents: Sequence[Whole]) -> None:
        """See `RereadingModel.count`: add the documents to those that are learned from, as far as there is room."""
        last = int(self.length) + 1
        rows = gathered(torch.cat([whole.ids[(whole.weights > 0).any(1), :last] for whole in documents]))
        first = int(self.kept_count)
        rows = rows[: self.config.samples - first]
        self.kept[first : first + len(rows), : rows.shape[1]] = rows.to(torch.int32)
        self.kept_count += len(rows)

    @torch.no_grad()
    def _fit(self) -> None:
        config, end = self.config, int(self.length)
        if config.edges is None:
            rows = self.kept[: int(self.kept_count), : end + 1]
            self.graph.fill_(-1)
            self.graph[: end + 1] = learned_parents(rows, config.parents, config.vocab_size, config.smoothing)
        self.fitted.copy_(self.kept_count)

    def _keys(self, ids: Tensor, places: Tensor) -> Tensor:
        """Return the row of the tables of the tokens after ``places`` (R, P), int64 (R, P): of the place and its parents."""
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        key = places + 1
        for parents in self.graph.unbind(1):
            parent = parents[places + 1]
            key = key * self.config.vocab_size + torch.where(parent < 0, 0, ids[rows, parent.clamp(min=0)])
        return key

    def _log(self, keys: Tensor, ids: Tensor) -> Tensor:
        """Return the log-probabilities of ids in rows of the tables, float32; both broadcast."""
        size, smoothing = self.config.vocab_size, self.config.smoothing
        tables = self._current()
        pairs = _found(tables.pairs, tables.pair_counts, keys * size + ids)
        totals = _found(tables.rows, tables.row_counts, keys)
        logs: Tensor = ((pairs + smoothing) / (totals + smoothing * size)).log().float()
        return logs

    @torch.no_grad()
    def _current(self) -> Tables:
        state = (self.kept._version, self.graph._version, self.fitted._version, int(self.fitted))
        if self._tables is None or self._tables[0] != state or self._tables[1].rows.device != self.kept.device:
            rows = self.kept[: int(self.fitted)].long()
            filled = rows[:, 1:] >= 0
            places = every_place(rows[:, 1:])
            keys = self._keys(rows.clamp(min=0), places)
            self._tables = state, Tables.of(keys[filled], rows[:, 1:][filled], self.config.vocab_size)
        return self._tables[1]


class Tables(NamedTuple):
    """Counts of what occurred, sorted by number: of rows of the tables, and of ids in them."""

    rows: Tensor
    row_counts: Tensor
    pairs: Tensor
    pair_counts: Tensor

    @classmethod
    def of(cls, keys: Tensor, ids: Tensor, vocab_size: int) -> Self:
        """Count rows ``keys`` and ids in them, both (N,)."""
        rows, row_counts = torch.unique(keys, return_counts=True)
        pairs, pair_counts = torch.unique(keys * vocab_size + ids, return_counts=True)
        return cls(rows, row_counts, pairs, pair_counts)


def _found(known: Tensor, counts: Tensor, asked: Tensor) -> Tensor:
    """Return the counts of numbers that are asked for, float64; 0 of those that are not known."""
    if not len(known):
        return torch.zeros(asked.shape, dtype=torch.float64, device=asked.device)
    at = torch.searchsorted(known, asked).clamp(max=len(known) - 1)
    return torch.where(known[at] == asked, counts[at], 0).double()
