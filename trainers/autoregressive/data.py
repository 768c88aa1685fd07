"""From shard sets to training batches: one declaration of what is read, a split that never moves, and an exact position.

`TokenData` opens the shards for a template. `PackedDataset.batch(n)` is a pure function of the seed, n, the rank and the
number of ranks, so the position in the data is the step itself and nothing else has to be remembered for a resume. Rows are
materialised some hundred at a time, which makes a batch a slice: reading costs next to nothing beside a training step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.files import canonical_json
from tokenize_kit.sequences.document import Role
from tokenize_kit.sequences.documents import Documents, FlatStream, vocabulary_of
from tokenize_kit.sequences.orders.random import mixed
from tokenize_kit.sequences.packing import IGNORED, Ints, Rows, fill_places, fill_rows
from tokenize_kit.sequences.plans import Plan, plan_stream, plan_whole
from tokenize_kit.sequences.segment import MISSING, NOWHERE
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from tokenize_kit.shards import ShardSet, StreamArray, StreamInfo
from tokenize_kit.shards.preparation import Preparation
from tokenize_kit.sources.heldout import KeyList, check_fraction, key_fractions
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.objectives import Objective
from trainers.autoregressive.objectives.next_token import NEXT_TOKEN

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

    @property
    def inputs(self) -> Inputs:
        """What a model is given."""
        return Inputs(self.ids, self.positions, self.documents, self.given, self.axial, self.following)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        parts: dict[str, Any] = self._asdict()
        moved = {name: part.to(device, non_blocking=True) for name, part in parts.items() if torch.is_tensor(part)}
        return Batch(**(parts | moved))


@dataclass(frozen=True)
class TokenData:
    """The samples of some shard sets, as documents of a template."""

    documents: Documents
    """Where the tokens of each document are."""
    keys: tuple[str, ...]
    """The key of each document."""
    infos: dict[str, StreamInfo]
    """For each stream of the template, whose ids it holds."""
    folders: tuple[Path, ...]
    """The local folders of the shard sets."""
    digest: str
    """sha256 over the hashes of all shard files: the same data wherever it lies."""
    preparation: Preparation
    """How the samples of all shard sets were prepared, as far as it is the same."""
    sample_keys: tuple[str, ...]
    """The key of each sample; where a document is made of several, of so many for each document, and perhaps some more."""
    sets: Ints
    """(documents,): the shard set that the document's first sample is of."""

    @classmethod
    def open(
        cls,
        shards: Sequence[str],
        template: str,
        vocabulary: Vocabulary | None = None,
        trust: bool = False,
        note: Callable[[str], None] | None = None,
        dropped: bool = False,
    ) -> TokenData:
        """Open shard sets for a template such as ``text -> image``.

        Args:
            shards: folders or URLs of shard sets; each must have all streams of the template but those that are optional.
            template: see `SequenceTemplate.parse`.
            vocabulary: the id space to use; made from the data if None.
            trust: see `ShardSet.open`.
            note: the same.
            dropped: whether conditions may be dropped (`dropped_conditions`), so that the vocabulary needs a null for them.

        Raises:
            FileNotFoundError: a shard set is missing.
            ValueError: the template does not fit the shards, no sample lacks a condition that is optional, conditions shall be
                dropped and there are none, or two shard sets come from different tokenizers.
            VerificationError: a shard set is not what was written.
        """
        if not shards:
            raise ValueError("no shards given; use --shards DIR")
        sets = [ShardSet.open(url, trust, note) for url in shards]
        data = cls.of_sets(shards, sets, template, vocabulary, dropped)
        check_conditions([data], dropped)
        return data

    @classmethod
    def of_sets(
        cls,
        shards: Sequence[str],
        sets: Sequence[ShardSet],
        template: str,
        vocabulary: Vocabulary | None = None,
        dropped: bool = False,
        keys: Sequence[Sequence[str]] | None = None,
    ) -> TokenData:
        """Do the same with shard sets that are open already.

        Args:
            shards: their names, for messages.
            sets: see `open`.
            template: the same.
            vocabulary: the same.
            dropped: the same.
            keys: of the samples of each, where they are read already (`keys_of`).
        """
        # Of each stream the first shard set that has it says what it is.
        sources = {
            name: (url, info)
            for url, shard_set in reversed([*zip(shards, sets, strict=True)])
            for name, info in shard_set.streams.items()
        }
        parsed = SequenceTemplate.parse(template, known=list(sources))
        infos = {name: sources[name][1] for name in parsed.streams}
        for url, shard_set in zip(shards, sets, strict=True):
            for name, info in infos.items():
                if name not in shard_set.streams:
                    if name in parsed.optional_streams:
                        continue
                    raise ValueError(f"{url} has no stream {name!r}, which the template {template!r} needs")
                if shard_set.streams[name].fingerprint != info.fingerprint:
                    raise ValueError(
                        f"stream {name!r} of {url} was made by another tokenizer than that of {sources[name][0]} (fingerprints "
                        f"{shard_set.streams[name].fingerprint[:12]} and {info.fingerprint[:12]}); encode one of them again"
                    )
        arrays: dict[str, list[FlatStream]] = {
            name: [array for shard_set in sets for array in _arrays(shard_set, name, infos[name])]
            for name in parsed.streams
        }
        keys = keys_of(sets) if keys is None else keys
        every = tuple(keys[0]) if len(keys) == 1 else tuple(key for some in keys for key in some)
        # A document of several samples goes by the name of its first.
        first = slice(0, len(every) // parsed.samples * parsed.samples, parsed.samples)
        of_set = np.repeat(np.arange(len(sets)), [shard_set.num_rows for shard_set in sets])
        if vocabulary is None:
            vocabulary = vocabulary_of(parsed, {name: info.spec for name, info in infos.items()}, arrays, dropped)
        hashes = [[file.sha256 for file in shard_set.files] for shard_set in sets]
        digest = hashlib.sha256(canonical_json(hashes)).hexdigest()
        folders = tuple(shard_set.folder for shard_set in sets)
        prepared = Preparation.common([Preparation.of_options(shard_set.manifest.options) for shard_set in sets])
        documents = Documents(parsed, vocabulary, arrays)
        return cls(documents, every[first], infos, folders, digest, prepared, every, of_set[first])


def _arrays(shard_set: ShardSet, name: str, info: StreamInfo) -> Sequence[FlatStream]:
    """Return the flat arrays of a stream; empty grids if the shard set has no such stream."""
    if name in shard_set.streams:
        return shard_set.stream_arrays(name)
    nothing, axes = np.zeros(0, np.uint8), len(info.spec.axes)
    rows = [len(array) for array in shard_set.stream_arrays(next(iter(shard_set.streams)))]
    return [StreamArray(nothing, np.zeros(count + 1, np.int64), np.zeros((count, axes), np.int64)) for count in rows]


def check_conditions(parts: Sequence[TokenData], dropped: bool) -> None:
    """Refuse nulls of conditions that a training would never see.

    Args:
        parts: the documents of each template.
        dropped: whether conditions shall be dropped.

    Raises:
        ValueError: conditions shall be dropped and there are none, or no sample lacks one that is optional.
    """
    templates = [part.documents.template for part in parts]
    if dropped and not any(template.left for template in templates):
        one, has = ("the template", "has") if len(templates) == 1 else ("none of the templates", "has")
        raise ValueError(
            f"--condition-dropout: {one} {', '.join(repr(str(template)) for template in templates)} {has} "
            f"{'no' if len(templates) == 1 else 'a'} condition to drop; write one with '->', or leave --condition-dropout out"
        )
    for part, template in zip(parts, templates, strict=True):
        for table in part.documents.segments:
            optional = table.segment.condition and table.segment.optional
            if optional and not dropped and not (table.count == MISSING).any():
                raise ValueError(
                    f"the template {str(template)!r} has the condition {table.segment.name!r} as optional, but no sample lacks "
                    "it, so a model would never see what that means; leave the '?' out, or drop conditions with "
                    "--condition-dropout 0.1"
                )


def keys_of(sets: Sequence[ShardSet]) -> list[tuple[str, ...]]:
    """Return the keys of the samples of each shard set."""
    return [tuple(shard_set.column("key").to_pylist()) for shard_set in sets]


def split_documents(
    data: TokenData,
    validation_fraction: float,
    validation_tokens: int,
    listed: KeyList | None = None,
    *,
    whole: bool = False,
    hashes: NDArray[np.float64] | None = None,
) -> tuple[Ints, Ints]:
    """Return the documents for training and those for validation.

    A document is on the validation side if the hash of its key says so, which does not change when data is added, or if its key
    is listed. Of these, those with the smallest hashes are used until ``validation_tokens`` are reached (at least one document);
    the others stay unused, so that a longer validation later does not look at what was trained on.

    Args:
        data: all documents.
        validation_fraction: part of the documents that is held out.
        validation_tokens: about how many of their tokens are used.
        listed: the keys of those that are held out instead.
        whole: train only on documents none of whose samples is held out, so that another template may be measured on them. Else
            the first sample decides.
        hashes: `key_fractions` of the keys of all samples, where they are known already.

    Raises:
        ValueError: the fraction is outside [0, 1), nothing is left to train on, or no listed key is that of a document.
    """
    check_fraction(validation_fraction)
    samples = data.documents.template.samples
    every = slice(0, len(data.keys) * samples)
    fractions = key_fractions(data.keys) if hashes is None else hashes[every][::samples]
    held_out = fractions < validation_fraction if listed is None else listed.listed(data.keys)
    touched = held_out
    if whole and samples > 1:
        keys = data.sample_keys[every]
        of_samples = key_fractions(keys) if hashes is None else hashes[every]
        each = of_samples < validation_fraction if listed is None else listed.listed(keys)
        touched = np.logical_or.reduce(each.reshape(-1, samples), axis=1)
    training = np.flatnonzero(~touched)
    if not len(training) and listed is not None:
        raise ValueError(
            f"--validation-keys {listed.source} lists all {len(data.keys)} samples; nothing is left to train on"
        )
    if not len(training):
        raise ValueError(
            f"all {len(data.keys)} samples fall into the validation part; encode more samples (for text, --split paragraphs "
            "makes many of one file) or lower --validation-fraction"
        )
    validation = np.flatnonzero(held_out)
    validation = validation[np.argsort(fractions[validation], kind="stable")]
    running = np.cumsum(data.documents.tokens[validation] - 1)
    return training, np.sort(validation[: max(1, int(np.searchsorted(running, validation_tokens, side="right")))])


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
        rows = mine[start : start + batch_size]
        chunk = _filled(documents, plan, rows, context, objective, frozenset(needs), seeds, rows, 0)
        single = bool(chunk.single.all()) and "documents" not in needs
        yield _batch(chunk.rows, chunk.extra, single, int(chunk.weights.sum()))


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
    if "following" in needs:
        after = fill_places(documents, plan, rows, context, 1, seeds)
        extra["following"] = np.where(after.drawn[..., None], after.coordinates, NOWHERE)
    filled = objective.prepare(filled, documents.vocabulary, numbers, seed)
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
