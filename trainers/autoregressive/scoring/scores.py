"""How probable a trained model finds documents: one number for each, for each predicted part, and for each place.

    from trainers.autoregressive.scoring.scores import score_documents

    for score in score_documents(loaded, data.documents, chosen):
        print(score.nats, score.bits_per_token, score.rates)

`Model.score` and ``tokenize-kit score`` are both this. Documents lie in rows of their own, so a number depends on no other
document. One that is longer than the model's context and may be cut is scored in pieces, as it is trained on: text every
``context`` tokens from its beginning, the sounds of a codec between two time steps; each piece is predicted from nothing but
itself. Of a template with an arrow what is right of it counts, given what is left.

How a model gives a probability is in `Reader` alone: from its logits if it is causal; from a method
``document_log_probabilities(inputs, labels) -> (B,)`` if it has one, as an average over several orders; and of a model of hidden
tokens a bound on it, from several readings in which some of them are hidden (`trainers.autoregressive.any_order`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.sequences.documents import Documents
from tokenize_kit.sequences.packing import IGNORED, Ints, fill_places
from tokenize_kit.sequences.plans import Plan
from trainers.autoregressive.any_order import hidden_log_probabilities
from trainers.autoregressive.batches import VALIDATION_EPOCH, drawn_seeds, rows_of_plan
from trainers.autoregressive.likelihood import bits_per
from trainers.autoregressive.model_folder import LoadedModel
from trainers.autoregressive.models import as_joint, device_of
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.objectives.next_token import NextToken
from trainers.autoregressive.units import Units

LOGITS = 1 << 26
"""The most logits that are held at once; rows are scored one after the other where a batch would have more."""

READINGS = 32
"""Of each document by a model of hidden tokens."""

_BATCHES = 16
"""Batches of documents that are sorted by length together, so that short ones do not wait for long ones."""


class Score(NamedTuple):
    """How probable a model finds what is predicted of a sample, given the rest of it."""

    nats: float
    """Natural logarithm of the probability of all that is predicted; structure that the grammar forces is not counted."""
    streams: dict[str, float]
    """The same for each predicted part of the template; they add up to `nats`. Empty where a template predicts several parts
    and the model only knows the probability of all of them together."""
    tokens: dict[str, int]
    """Tokens of each of them, ends and shapes included."""
    units: dict[str, int]
    """How many bytes or dimensions each of them stands for."""
    rates: dict[str, float]
    """Bits a byte or a dimension, and of sounds the kbit a second, of each of them, named as training's validation does:
    ``image/bits_per_dimension``."""
    pieces: int = 1
    """In how many pieces a document was scored that is longer than the model's context."""

    @property
    def bits_per_token(self) -> float:
        """Bits that a token takes in the mean."""
        return bits_per(-self.nats, sum(self.tokens.values()))


class Reader:
    """Asks a model how probable ids are.

    Args:
        loaded: the model.
        readings: of each document, where scores are estimates of a bound.

    Raises:
        ValueError: the model sees all tokens and has no id that hides one.
    """

    def __init__(self, loaded: LoadedModel, readings: int = READINGS) -> None:
        self.model, self.mask, self.readings = loaded.model, loaded.vocabulary.size, readings
        self.joint = as_joint(loaded.model)
        self.bound = not loaded.model.causal and self.joint is None
        """Whether scores are estimates of a bound on the likelihood, as the model predicts hidden tokens."""
        self.ahead = 0 if self.bound else 1
        """How many places after the one that predicts a token it stands."""
        if self.bound and loaded.model.config.vocab_size <= self.mask:
            raise ValueError(
                "the model sees all tokens and has no id that hides one, so it gives no probability of a sample; take a causal "
                "one, or train with --objective any-order"
            )

    @torch.inference_mode()
    def log_probabilities(self, inputs: Inputs, labels: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return how probable labels are, in nats: (B, T) of each label, 0 where it is -100; or (B, 1) where a model knows
        only the probability of all of a row.

        Args:
            inputs: rows that hold one document each, or a piece of one.
            labels: int64 (B, T), -100 where there is nothing to predict; `ahead` of the ids.
            seeds: (B,), of what is hidden.
        """
        if self.joint is not None:
            return self.joint.document_log_probabilities(inputs, labels)[:, None]
        if self.bound:
            return hidden_log_probabilities(self.model, inputs, labels, self.mask, self.readings, seeds)
        logits = self.model.logits(inputs).float()
        each = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0] - logits.logsumexp(-1)
        return each.masked_fill(labels == IGNORED, 0.0)


def score_documents(
    loaded: LoadedModel,
    documents: Documents,
    chosen: Ints,
    *,
    seeds: Ints | None = None,
    batch_size: int = 16,
    readings: int = READINGS,
) -> Iterator[Score]:
    """Yield the score of each document, in the order of ``chosen``; no more than some batches are held at once.

    Args:
        loaded: the model, its template being that of the documents.
        documents: whose vocabulary is the model's.
        chosen: (n,), which of them.
        seeds: (documents,), of orders that are drawn; those of training's validation if None.
        batch_size: documents that are scored side by side; the scores do not depend on it beyond rounding.
        readings: of each document by a model of hidden tokens, whose scores are estimates of a bound.

    Raises:
        ValueError: the model gives no probability of a sample (`Reader`), or a document must not be cut and is longer than its
            context; before the first is scored.
    """
    reader = Reader(loaded, readings)
    check_lengths(documents, chosen, loaded.model.config.context)
    template = documents.template
    by_place = reader.joint is None
    units = {name: Units(loaded.tokenizers[template.stream_of(name)]) for name in template.target}
    for start in range(0, len(chosen), _BATCHES * batch_size):
        some = chosen[start : start + _BATCHES * batch_size]
        nats = np.zeros((len(some), len(template.names)))
        tokens = np.zeros((len(some), len(template.names)), np.int64)
        pieces = np.zeros(len(some), np.int64)
        whole = np.zeros(len(some))
        for rows in _rows(reader, documents, some, seeds, batch_size):
            np.add.at(pieces, rows.owners, 1)
            np.add.at(whole, rows.owners, rows.nats.sum(1))
            row, place = np.nonzero(rows.counted)
            np.add.at(tokens, (rows.owners[row], rows.parts[row, place]), 1)
            if by_place:
                np.add.at(nats, (rows.owners[row], rows.parts[row, place]), rows.nats[row, place])
        alone = not by_place and len(template.target) == 1
        if alone:
            nats[:, template.names.index(template.target[0])] = whole
        for number, document in enumerate(some.tolist()):
            grids = documents.grids(document)
            of = {name: template.names.index(name) for name in template.target}
            streams = {name: float(nats[number, part]) for name, part in of.items()} if by_place or alone else {}
            counts = {name: units[name].count(grids[name]) if name in grids else 0 for name in of}
            rates: dict[str, float] = {}
            for name, value in streams.items():
                rates |= units[name].rates(name, -value, counts[name])
            yield Score(
                float(whole[number]),
                streams,
                {name: int(tokens[number, part]) for name, part in of.items()},
                counts,
                rates,
                int(pieces[number]),
            )


def bits_of_grids(
    loaded: LoadedModel,
    documents: Documents,
    document: int,
    *,
    seeds: Ints | None = None,
    batch_size: int = 16,
    readings: int = READINGS,
) -> dict[str, NDArray[np.float64]]:
    """Return what each id of the predicted grids of a document takes, in bits, in the shape of the grid; by part.

    Ends and shapes are in no grid, so the sum is a little less than that of the whole document.

    Args:
        loaded: as in `score_documents`.
        documents: the same.
        document: which of them.
        seeds: the same.
        batch_size: pieces of a long document that are scored side by side.
        readings: as in `score_documents`.

    Raises:
        ValueError: as `score_documents`, or the model knows only the probability of a whole document.
    """
    reader = Reader(loaded, readings)
    if reader.joint is not None:
        raise ValueError(
            "the model gives one probability of a whole document, so there are no bits a place to be shown"
        )
    chosen = np.array([document])
    check_lengths(documents, chosen, loaded.model.config.context)
    flat: dict[str, NDArray[np.float64]] = {}
    for table in documents.segments:
        if not table.segment.condition and table.count[document] >= 0:
            flat[table.segment.name] = np.zeros(int(table.count[document]))
    for rows in _rows(reader, documents, chosen, seeds, batch_size):
        for row, piece in enumerate(rows.pieces.tolist()):
            for part, table in enumerate(rows.documents.segments):
                (places,) = np.nonzero(rows.counted[row] & (rows.parts[row] == part))
                known = (table.count[piece], table.shape[piece], 0 if rows.seeds is None else rows.seeds[piece])
                count, shape, seed = (np.full(len(places), value, np.int64) for value in known)
                inside = rows.first[row] + places + reader.ahead - table.begin[piece]
                special, found = table.segment.read(inside, count, shape, seed)
                own = special < 0
                shift = table.start[piece] - documents.segments[part].start[document]
                if own.any():
                    flat[table.segment.name][found[own] + shift] = rows.nats[row, places[own]]
    shapes = {name: grid.shape for name, grid in documents.grids(document).items()}
    return {name: -values.reshape(shapes[name]) / np.log(2) for name, values in flat.items()}


def check_lengths(documents: Documents, chosen: Ints, context: int, keys: Sequence[str] | None = None) -> None:
    """Refuse documents that are longer than the context and must not be cut.

    Raises:
        ValueError: there is one; names its key, if keys are given.
    """
    if documents.is_stream or documents.has_pieces or not len(chosen):
        return
    tokens = documents.tokens[chosen]
    if tokens.max() - 1 > context:
        key = f" {keys[chosen[int(tokens.argmax())]]!r}" if keys is not None else ""
        raise ValueError(
            f"the sample{key} has {tokens.max()} tokens, more than the {context + 1} that the model can score"
        )


@dataclass(frozen=True)
class _Rows:
    """Rows that were scored together: each is one document, or a piece of one."""

    documents: Documents
    """Of the rows: the documents, or where they are cut between time steps their pieces."""
    seeds: Ints | None
    owners: Ints
    """(rows,): which of the chosen documents it is of."""
    pieces: Ints
    """(rows,): which of ``documents`` it is, or is of."""
    first: Ints
    """(rows,): the place there at which it begins."""
    counted: NDArray[np.bool_]
    """(rows, places): where something is predicted."""
    parts: Ints
    """(rows, places): which part of the template that is of."""
    nats: NDArray[np.float64]
    """(rows, places), or (rows, 1); see `Reader.log_probabilities`."""


def _rows(reader: Reader, documents: Documents, some: Ints, seeds: Ints | None, batch_size: int) -> Iterator[_Rows]:
    """Score documents, the shortest first."""
    model, ahead = reader.model, reader.ahead
    context, target = model.config.context, documents.template.target
    only = documents.template.names.index(target[0]) if len(target) == 1 else None
    if seeds is None:
        seeds = drawn_seeds(documents, 0, VALIDATION_EPOCH)
    if documents.has_pieces:
        documents = documents.pieces(context, some)
        ended = documents.segments[0].ended.astype(np.int64)
        owners, pieces = np.cumsum(ended) - ended, np.arange(len(documents))
        seeds = None if seeds is None else seeds[some[owners]]
    else:
        owners, pieces = np.arange(len(some)), some
    plan, owners = _one_a_row(documents.tokens - ahead, pieces, owners, context)
    device = device_of(model)
    order = np.argsort(plan.length, kind="stable")
    start = 0
    while start < len(order):
        mine = order[start : start + batch_size]
        fitting = max(1, LOGITS // (int(plan.length[mine].max()) * model.config.vocab_size))
        mine = mine[:fitting]
        start += len(mine)
        longest = int(plan.length[mine].max())
        batch = rows_of_plan(documents, plan, mine, longest, NextToken(ahead), model.needs, seeds)
        moved = batch.to(device)
        # What is hidden follows from the document and from where in it the row begins.
        own = (some[owners[mine]] * (1 << 32) + plan.first[mine]).tolist()
        nats = reader.log_probabilities(moved.inputs, moved.labels, own).double().cpu().numpy()
        counted = (batch.labels != IGNORED).numpy()
        parts = np.full(counted.shape, -1 if only is None else only)
        if only is None:
            parts = fill_places(documents, plan, mine, longest, ahead, seeds).segments
        yield _Rows(documents, seeds, owners[mine], plan.document[mine], plan.first[mine], counted, parts, nats)


def _one_a_row(places: Ints, chosen: Ints, owners: Ints, context: int) -> tuple[Plan, Ints]:
    """Return a plan of a row for each document, or for each ``context`` places of it, and the owner of each row."""
    total = places[chosen]
    number = np.maximum(1, -(-total // context))
    document, owner, left = (np.repeat(values, number) for values in (chosen, owners, total))
    first = (np.arange(len(document)) - np.repeat(np.cumsum(number) - number, number)) * context
    length = np.minimum(context, left - first)
    return Plan(np.arange(len(document) + 1), document, first, length), owner
