"""Packed batches from the documents of one template: a pure function of a number, so that a training can go on anywhere.

`PackedDataset.batch(n)` follows from the seed, n, the rank and the number of ranks, so the position in the data is the step
itself and nothing else has to be remembered for a resume. Rows are materialised some hundred at a time, which makes a batch a
slice: reading costs next to nothing beside a training step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.sequences.document import Role
from tokenize_kit.sequences.documents import Documents
from tokenize_kit.sequences.orders.random import mixed
from tokenize_kit.sequences.packing import IGNORED, Ints, Places, Rows, fill_places, fill_rows
from tokenize_kit.sequences.plans import Plan, plan_stream, plan_whole
from tokenize_kit.sequences.segment import NOWHERE
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.objectives import Objective
from trainers.autoregressive.objectives.next_token import NEXT_TOKEN, NextToken

CHUNK_TOKENS = 1 << 18
"""Tokens that are materialised at once: enough to make the cost of numpy calls vanish, few enough for the CPU's cache."""


class Batch(NamedTuple):
    """Packed rows as tensors, int64 of shape (rows, context)."""

    ids: Tensor
    """Input tokens."""
    labels: Tensor
    """For each the token that is to be predicted there, -100 where there is no loss."""
    positions: Tensor | None
    """Place of each token in its document; None if every row is one document, so that it is the place in the row."""
    documents: Tensor | None
    """Number of the document in its row, -1 for padding; None if every row is one document (padding then comes last)."""
    weight: int
    """Number of labels that count."""
    given: Tensor | None = None
    """bool: which tokens are a condition (`tokenize_kit.sequences.document.Role`); only for a model that asks."""
    axial: Tensor | None = None
    """(rows, context, 3): positions along several axes, see `tokenize_kit.sequences.packing.Places`; only if a model asks."""
    following: Tensor | None = None
    """(rows, context, 3): where in its grid the id after each token is, if its order is drawn, else -1; only if a model asks."""
    steps: Tensor | None = None
    """(rows, context, 2): which tokens end a joint step, and the codebook of the token after each; only if a model asks."""
    cells: Tensor | None = None
    """(rows, context, 8): the `tokenize_kit.sequences.segment.CELL` of the token after each; only if a model asks."""
    label_weights: Tensor | None = None
    """(rows, context), float32: how much each label counts; None means 1 (`objectives.Prepared`)."""

    def weights(self, counted: Tensor | None = None) -> Tensor:
        """Return how much each place counts, float32 (rows, context): of the ``counted`` labels, or of all but -100."""
        weights = (self.labels != IGNORED if counted is None else counted).float()
        return weights if self.label_weights is None else weights * self.label_weights

    @property
    def inputs(self) -> Inputs:
        """What a model is given."""
        known = (self.given, self.axial, self.following, self.steps, self.cells)
        return Inputs(self.ids, self.positions, self.documents, *known)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        parts: dict[str, Any] = self._asdict()
        moved = {name: part.to(device, non_blocking=True) for name, part in parts.items() if torch.is_tensor(part)}
        return Batch(**(parts | moved))


class RowBatches:
    """Endless batches from one line of rows.

    Micro-batch n takes the next ``world * batch_size`` rows of the line, rank r the r-th part of them. A class that inherits
    from it says what the rows are (`fill`).

    Args:
        batch_size: rows of a batch on this rank.
        rank: this process.
        world: number of processes.
        needs: what a model asks for, see `SequenceModel.needs`.
        most: the most rows that are materialised at once, if a batch is not more.
    """

    rows_per_epoch: int
    """Rows of one epoch; the same in every epoch."""
    tokens_per_epoch: int
    """Tokens of one epoch, without padding."""

    def __init__(self, batch_size: int, rank: int, world: int, needs: Collection[str], most: int) -> None:
        assert 0 <= rank < world
        self.batch_size, self.rank, self.world, self.needs = batch_size, rank, world, frozenset(needs)
        self._chunk = max(1, most // batch_size)
        self._cached: tuple[int, Chunk] | None = None

    def fill(self, line: Ints, numbers: Ints) -> Chunk:
        """Return rows of the line.

        Args:
            line: (n,), which ones, ascending.
            numbers: (n,), a number for each that no other row of the training has.
        """
        raise NotImplementedError

    def batch(self, index: int) -> Batch:
        """Return micro-batch ``index`` (from 0, counted from the start of the training) of this rank."""
        number, place = divmod(index, self._chunk)
        if self._cached is None or self._cached[0] != number:
            self._cached = (number, self._materialise(number))
        chunk = self._cached[1]
        part = slice(place * self.batch_size, (place + 1) * self.batch_size)
        rows = Rows(*(array[part] for array in chunk.rows))
        extra = {name: array[part] for name, array in chunk.extra.items()}
        single = bool(chunk.single[part].all()) and "documents" not in self.needs
        return _batch(rows, extra, single, int(chunk.weights[part].sum()))

    def epoch(self, index: int) -> float:
        """Return how many epochs have been read before micro-batch ``index``."""
        return index * self.world * self.batch_size / self.rows_per_epoch

    def _materialise(self, number: int) -> Chunk:
        batches = np.arange(number * self._chunk, (number + 1) * self._chunk)[:, None]
        line = ((batches * self.world + self.rank) * self.batch_size + np.arange(self.batch_size)).reshape(-1)
        return self.fill(line, line)


class PackedDataset(RowBatches):
    """Endless training batches over some documents, each row once an epoch, in an order that the seed and epoch decide.

    The rows of all epochs form one line; a batch may hold the last rows of one epoch and the first of the next, so that none is
    left out.

    Args:
        documents: the documents.
        chosen: which of them to use.
        context: tokens of a row.
        batch_size: rows of a batch on this rank.
        seed: decides the order.
        rank: this process.
        world: number of processes.
        objective: what is predicted where.
        needs: what a model asks for, see `SequenceModel.needs`.
        salt: numbers that make the order another one than that of other documents with the same seed.
        condition_dropout: how probable it is that conditions are dropped, see `dropped_conditions`. A row has the same documents
            in every epoch: where a condition is dropped, the row ends with more padding.

    Raises:
        ValueError: there is no document, one that must not be cut is longer than ``context``, or not even a single time step
            of one that may be cut fits into it.
    """

    def __init__(
        self,
        documents: Documents,
        chosen: Ints,
        context: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        objective: Objective = NEXT_TOKEN,
        needs: Collection[str] = (),
        salt: Sequence[int] = (),
        condition_dropout: float = 0.0,
    ) -> None:
        if not len(chosen):
            raise ValueError("there is no document to pack")
        assert not condition_dropout or documents.template.left
        if documents.has_pieces:
            documents = documents.pieces(context, chosen)
            chosen = np.arange(len(documents))
        self.documents, self.chosen, self.context, self.objective = documents, chosen, context, objective
        self.seed, self.salt, self.condition_dropout = seed, tuple(salt), condition_dropout
        self._places = objective.places(documents.tokens)
        self._whole = None if documents.is_stream else plan_whole(self._places, context, chosen, objective.ahead)
        total = int(self._places[chosen].sum())
        self.rows_per_epoch = -(-total // context) if self._whole is None else self._whole.rows
        self.tokens_per_epoch = total
        # A chunk of a small data set spans an epoch at most, or each chunk would pack many epochs to use them once.
        most = min(CHUNK_TOKENS // context, self.rows_per_epoch // world)
        super().__init__(batch_size, rank, world, needs, most)
        self._plans: dict[int, tuple[Documents, Plan, Ints]] = {}

    def fill(self, line: Ints, numbers: Ints) -> Chunk:
        """See `RowBatches.fill`."""
        parts = []
        epochs = line // self.rows_per_epoch
        for epoch in np.unique(epochs).tolist():
            documents, plan, order = self._plan(epoch)
            mine = epochs == epoch
            rows = order[line[mine] % self.rows_per_epoch]
            seeds = drawn_seeds(self.documents, self.seed, epoch, self.salt)
            parts.append(
                _filled(
                    documents,
                    plan,
                    rows,
                    self.context,
                    self.objective,
                    self.needs,
                    seeds,
                    numbers[mine],
                    self.seed,
                )
            )
        return parts[0] if len(parts) == 1 else Chunk.joined(parts)

    def _plan(self, epoch: int) -> tuple[Documents, Plan, Ints]:
        """Return the documents of an epoch, their plan and the order of its rows."""
        if epoch not in self._plans:
            generator = np.random.default_rng([self.seed, epoch, *self.salt])
            plan = self._whole
            if plan is None:
                order = self.chosen[generator.permutation(len(self.chosen))]
                plan = plan_stream(self._places, self.context, order)
            documents = self.documents
            if self.condition_dropout:
                dropped = dropped_conditions(documents, self.condition_dropout, self.seed, epoch, self.salt)
                documents = documents.without(dropped)
                # Whole documents in the rows that they have anyway, which are then shorter.
                plan = plan._replace(length=self.objective.places(documents.tokens)[plan.document])
            # Two epochs at most are needed at a time: a chunk may lie across the border.
            self._plans = {old: value for old, value in self._plans.items() if old == epoch - 1}
            self._plans[epoch] = (documents, plan, generator.permutation(plan.rows))
        return self._plans[epoch]


class Chunk(NamedTuple):
    """Rows that are materialised together."""

    rows: Rows
    extra: dict[str, NDArray[Any]]
    """Further parts of the batches, by name."""
    single: NDArray[np.bool_]
    """(rows,): whether a row is a single document."""
    weights: Ints
    """(rows,): labels that count."""

    @classmethod
    def joined(cls, parts: Sequence[Chunk]) -> Chunk:
        """Return the rows of all parts, one part after the other."""
        rows = Rows(*(np.concatenate(arrays) for arrays in zip(*(part.rows for part in parts), strict=True)))
        extra = {name: np.concatenate([part.extra[name] for part in parts]) for name in parts[0].extra}
        single, weights = (np.concatenate([part[index] for part in parts]) for index in (2, 3))
        return cls(rows, extra, single, weights)

    def taken(self, which: Ints) -> Chunk:
        """Return the rows ``which``, in that order."""
        rows = Rows(*(array[which] for array in self.rows))
        extra = {name: array[which] for name, array in self.extra.items()}
        return Chunk(rows, extra, self.single[which], self.weights[which])


def drawn_seeds(documents: Documents, seed: int, epoch: int, salt: Sequence[int] = ()) -> Ints | None:
    """Return the seed of each document for orders that are drawn, in an epoch; None if no order is."""
    if not documents.has_drawn_orders:
        return None
    start = mixed(np.array([seed], np.uint64), np.array([epoch], np.int64).astype(np.uint64))
    for number in salt:
        start = mixed(start, np.array([number], np.uint64))
    return (mixed(start, np.arange(len(documents), dtype=np.uint64)) >> np.uint64(1)).astype(np.int64)


_DROPOUT = 0x636F6E646974696F
"""Sets the bits that decide on conditions apart from those of drawn orders."""


def dropped_conditions(
    documents: Documents, probability: float, seed: int, epoch: int, salt: Sequence[int] = ()
) -> NDArray[np.bool_]:
    """Return which conditions of each document are dropped in an epoch, bool (documents, conditions).

    Of each document all conditions are dropped together with ``probability``, so that a model learns what is likely without them
    (Ho and Salimans 2022, arXiv 2207.12598). Where there are several, each is also dropped by itself with ``probability``, so
    that each can be strengthened on its own (Brooks et al. 2023, arXiv 2211.09800). It is a function of the arguments alone.

    Args:
        documents: all documents.
        probability: in [0, 1).
        seed: of the training.
        epoch: its number.
        salt: see `PackedDataset`.
    """
    conditions = len(documents.template.left)
    draws = 1 if conditions == 1 else 1 + conditions
    start = mixed(np.array([seed], np.uint64), np.array([epoch], np.uint64)) ^ np.uint64(_DROPOUT)
    for number in salt:
        start = mixed(start, np.array([number], np.uint64))
    bits = mixed(start, np.arange(len(documents) * draws, dtype=np.uint64)).reshape(-1, draws)
    hit = (bits >> np.uint64(11)) * 2.0**-53 < probability
    return np.repeat(hit, conditions, 1) if draws == 1 else hit[:, :1] | hit[:, 1:]


VALIDATION_EPOCH = -1
"""The epoch that the orders of held-out documents are drawn for: they are always the same."""


def every_row_once(
    documents: Documents,
    chosen: Ints,
    context: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    objective: Objective = NEXT_TOKEN,
    needs: Collection[str] = (),
) -> Iterator[Batch]:
    """Yield this rank's part of all rows in a fixed order; over the ranks each row comes exactly once, none is repeated.

    Args: see `PackedDataset`.

    Raises:
        ValueError: as `PackedDataset`.
    """
    if documents.has_pieces:
        documents = documents.pieces(context, chosen)
        chosen = np.arange(len(documents))
    places = objective.places(documents.tokens)
    line = documents.is_stream
    plan = plan_stream(places, context, chosen) if line else plan_whole(places, context, chosen, objective.ahead)
    mine = np.arange(rank, plan.rows, world)
    seeds = drawn_seeds(documents, 0, VALIDATION_EPOCH)
    for start in range(0, len(mine), batch_size):
        yield rows_of_plan(documents, plan, mine[start : start + batch_size], context, objective, needs, seeds)


def rows_of_plan(
    documents: Documents,
    plan: Plan,
    rows: Ints,
    context: int,
    objective: Objective = NEXT_TOKEN,
    needs: Collection[str] = (),
    seeds: Ints | None = None,
) -> Batch:
    """Return some rows of a plan as a batch.

    Args:
        documents: what the plan is about.
        plan: of them.
        rows: (n,), row numbers of the plan.
        context: places of a row.
        objective: what is predicted where.
        needs: what the model asks for.
        seeds: from `drawn_seeds`.
    """
    chunk = _filled(documents, plan, rows, context, objective, frozenset(needs), seeds, rows, 0)
    single = bool(chunk.single.all()) and "documents" not in needs
    return _batch(chunk.rows, chunk.extra, single, int(chunk.weights.sum()))


def single_rows(
    documents: Documents, chosen: Ints, context: int, ahead: int, needs: Collection[str] = ()
) -> tuple[Batch, Places]:
    """Return documents, each in a row of its own, as a model reads them where it is to say something about them.

    Nothing is hidden, and orders that are drawn are those of the validation.

    Args:
        documents: all documents.
        chosen: (n,), which ones, one a row. Of one that is longer than the context, its beginning.
        context: the most tokens of a row; the longest of the documents decides how many there are.
        ahead: how many tokens at the end of a document are not read: 1 for a model that predicts the next one.
        needs: see `PackedDataset`.

    Returns:
        The rows, and what the tokens in them are.
    """
    length = np.minimum(documents.tokens[chosen] - ahead, context)
    plan = Plan(np.arange(len(chosen) + 1), chosen, np.zeros(len(chosen), np.int64), length)
    rows, width = np.arange(len(chosen)), int(length.max())
    seeds = drawn_seeds(documents, 0, VALIDATION_EPOCH)
    chunk = _filled(documents, plan, rows, width, NextToken(ahead), frozenset(needs), seeds, rows, 0)
    batch = _batch(chunk.rows, chunk.extra, "documents" not in needs, int(chunk.weights.sum()))
    return batch, fill_places(documents, plan, rows, width, 0, seeds)


def _filled(
    documents: Documents,
    plan: Plan,
    rows: Ints,
    context: int,
    objective: Objective,
    needs: frozenset[str],
    seeds: Ints | None,
    numbers: Ints,
    seed: int,
) -> Chunk:
    """Return rows of a plan as an objective wants them.

    Args:
        documents: see `PackedDataset`.
        plan: of them.
        rows: (n,), row numbers of the plan.
        context: tokens of a row.
        objective: what is predicted where.
        needs: see `PackedDataset`.
        seeds: from `drawn_seeds`.
        numbers: (n,), a number for each row that no other row of the training has.
        seed: of the training.
    """
    filled = fill_rows(documents, plan, rows, context, objective.ahead, seeds)
    extra: dict[str, NDArray[Any]] = {}
    if needs & {"given", "axial"}:
        places = fill_places(documents, plan, rows, context, 0, seeds)
        every = {"given": places.roles == Role.CONDITION, "axial": places.axial}
        extra = {name: part for name, part in every.items() if name in needs}
    if needs & {"following", "steps", "cells"}:
        after = fill_places(documents, plan, rows, context, 1, seeds)
        every = {
            "following": np.where(after.drawn[..., None], after.coordinates, NOWHERE),
            # A token ends its step where the one after it begins another.
            "steps": np.stack([after.opens.astype(np.int64), after.slots], -1),
            "cells": after.cells,
        }
        extra |= {name: part for name, part in every.items() if name in needs}
    filled, weights = objective.prepare(filled, documents.vocabulary, numbers, seed)
    if weights is not None:
        extra["label_weights"] = weights
    single = plan.offsets[rows + 1] - plan.offsets[rows] == 1
    return Chunk(filled, extra, single, (filled.labels != IGNORED).sum(1))


def _batch(rows: Rows, extra: Mapping[str, NDArray[Any]], single: bool, weight: int) -> Batch:
    return Batch(
        torch.from_numpy(rows.ids),
        torch.from_numpy(rows.labels),
        None if single else torch.from_numpy(rows.positions),
        None if single else torch.from_numpy(rows.documents),
        weight,
        **{name: torch.from_numpy(array) for name, array in extra.items()},
    )
