"""From shard sets to training batches: one declaration of what is read, a split that never moves, and an exact position.

`TokenData` opens the shards for a template. `PackedDataset.batch(n)` is a pure function of the seed, n, the rank and the
number of ranks, so the position in the data is the step itself and nothing else has to be remembered for a resume. Rows are
materialised some hundred at a time, which makes a batch a slice: reading costs next to nothing beside a training step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.files import canonical_json
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from tokenize_kit.shards import ShardSet, StreamInfo
from tokenize_kit.shards.preparation import Preparation
from tokenize_kit.sources.heldout import KeyList, check_fraction, key_fractions
from trainers.autoregressive.packing import (
    IGNORED,
    Documents,
    FlatStream,
    Ints,
    Plan,
    Rows,
    fill_rows,
    plan_stream,
    plan_whole,
    vocabulary_of,
)

CHUNK_TOKENS = 1 << 18
"""Tokens that are materialised at once: enough to make the cost of numpy calls vanish, few enough for the CPU's cache."""


class Batch(NamedTuple):
    """Packed rows as tensors, int64 of shape (rows, context)."""

    ids: Tensor
    """Input tokens."""
    labels: Tensor
    """The next tokens, -100 where there is no loss."""
    positions: Tensor | None
    """Place of each token in its document; None if every row is one document, so that it is the place in the row."""
    documents: Tensor | None
    """Number of the document in its row, -1 for padding; None if every row is one document (padding then comes last)."""
    weight: int
    """Number of labels that count."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        moved = [None if tensor is None else tensor.to(device, non_blocking=True) for tensor in self[:4]]
        ids, labels, positions, documents = moved
        assert ids is not None
        assert labels is not None
        return Batch(ids, labels, positions, documents, self.weight)


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

    @classmethod
    def open(
        cls,
        shards: Sequence[str],
        template: str,
        vocabulary: Vocabulary | None = None,
        trust: bool = False,
        note: Callable[[str], None] | None = None,
    ) -> TokenData:
        """Open shard sets for a template such as ``text -> image``.

        Args:
            shards: folders or URLs of shard sets; each must have all streams of the template.
            template: see `SequenceTemplate.parse`.
            vocabulary: the id space to use; made from the data if None.
            trust: see `ShardSet.open`.
            note: the same.

        Raises:
            FileNotFoundError: a shard set is missing.
            ValueError: the template does not fit the shards, or two shard sets come from different tokenizers.
            VerificationError: a shard set is not what was written.
        """
        if not shards:
            raise ValueError("no shards given; use --shards DIR")
        sets = [ShardSet.open(url, trust, note) for url in shards]
        parsed = SequenceTemplate.parse(template, known=list(sets[0].streams))
        infos = {name: sets[0].streams[name] for name in parsed.streams}
        for url, shard_set in zip(shards[1:], sets[1:], strict=True):
            for name, info in infos.items():
                if name not in shard_set.streams:
                    raise ValueError(f"{url} has no stream {name!r}, which the template {template!r} needs")
                if shard_set.streams[name].fingerprint != info.fingerprint:
                    raise ValueError(
                        f"stream {name!r} of {url} was made by another tokenizer than that of {shards[0]} (fingerprints "
                        f"{shard_set.streams[name].fingerprint[:12]} and {info.fingerprint[:12]}); encode one of them again"
                    )
        arrays: dict[str, list[FlatStream]] = {
            name: [array for shard_set in sets for array in shard_set.stream_arrays(name)] for name in parsed.streams
        }
        keys = tuple(key for shard_set in sets for key in shard_set.column("key").to_pylist())
        if vocabulary is None:
            vocabulary = vocabulary_of(parsed, {name: info.spec for name, info in infos.items()}, arrays)
        hashes = [[file.sha256 for file in shard_set.files] for shard_set in sets]
        digest = hashlib.sha256(canonical_json(hashes)).hexdigest()
        folders = tuple(shard_set.folder for shard_set in sets)
        prepared = Preparation.common([Preparation.of_options(shard_set.manifest.options) for shard_set in sets])
        return cls(Documents(parsed, vocabulary, arrays), keys, infos, folders, digest, prepared)


def split_documents(
    data: TokenData, validation_fraction: float, validation_tokens: int, listed: KeyList | None = None
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

    Raises:
        ValueError: the fraction is outside [0, 1), nothing is left to train on, or no listed key is that of a document.
    """
    check_fraction(validation_fraction)
    fractions = key_fractions(data.keys)
    held_out = fractions < validation_fraction if listed is None else listed.listed(data.keys)
    training = np.flatnonzero(~held_out)
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
    running = np.cumsum(data.documents.pairs[validation])
    return training, np.sort(validation[: max(1, int(np.searchsorted(running, validation_tokens, side="right")))])


class PackedDataset:
    """Endless training batches over some documents, each row once an epoch, in an order that the seed and epoch decide.

    The rows of all epochs form one line. Micro-batch n takes the next ``world * batch_size`` rows of it, rank r the r-th
    part of them; a batch may hold the last rows of one epoch and the first of the next, so that none is left out.

    Args:
        documents: the documents.
        chosen: which of them to use.
        context: tokens of a row.
        batch_size: rows of a batch on this rank.
        seed: decides the order.
        rank: this process.
        world: number of processes.

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
    ) -> None:
        if not len(chosen):
            raise ValueError("there is no document to pack")
        assert 0 <= rank < world
        if documents.has_pieces:
            documents = documents.pieces(context, chosen)
            chosen = np.arange(len(documents))
        self.documents, self.chosen, self.context, self.batch_size = documents, chosen, context, batch_size
        self.seed, self.rank, self.world = seed, rank, world
        self._whole = None if documents.is_stream else plan_whole(documents.pairs, context, chosen)
        total = int(documents.pairs[chosen].sum())
        self.rows_per_epoch = -(-total // context) if self._whole is None else self._whole.rows
        """Rows of one epoch; the same in every epoch."""
        self.tokens_per_epoch = total
        """Tokens of one epoch, without padding."""
        # A chunk of a small data set spans an epoch at most, or each chunk would pack many epochs to use them once.
        self._chunk = max(1, min(CHUNK_TOKENS // context, self.rows_per_epoch // world) // batch_size)
        self._cached: tuple[int, Rows, NDArray[np.bool_], Ints] | None = None
        self._plans: dict[int, tuple[Plan, Ints]] = {}

    def batch(self, index: int) -> Batch:
        """Return micro-batch ``index`` (from 0, counted from the start of the training) of this rank."""
        number, place = divmod(index, self._chunk)
        if self._cached is None or self._cached[0] != number:
            self._cached = (number, *self._materialise(number))
        _, rows, single, weights = self._cached
        part = slice(place * self.batch_size, (place + 1) * self.batch_size)
        return _batch(Rows(*(array[part] for array in rows)), bool(single[part].all()), int(weights[part].sum()))

    def epoch(self, index: int) -> float:
        """Return how many epochs have been read before micro-batch ``index``."""
        return index * self.world * self.batch_size / self.rows_per_epoch

    def _materialise(self, number: int) -> tuple[Rows, NDArray[np.bool_], Ints]:
        batches = np.arange(number * self._chunk, (number + 1) * self._chunk)[:, None]
        line = ((batches * self.world + self.rank) * self.batch_size + np.arange(self.batch_size)).reshape(-1)
        parts, singles = [], []
        epochs = line // self.rows_per_epoch
        for epoch in np.unique(epochs).tolist():
            plan, order = self._plan(epoch)
            rows = order[line[epochs == epoch] % self.rows_per_epoch]
            parts.append(fill_rows(self.documents, plan, rows, self.context))
            singles.append(plan.offsets[rows + 1] - plan.offsets[rows] == 1)
        rows = parts[0] if len(parts) == 1 else Rows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        return rows, np.concatenate(singles), (rows.labels != IGNORED).sum(1)

    def _plan(self, epoch: int) -> tuple[Plan, Ints]:
        """Return the plan of an epoch and the order of its rows."""
        if epoch not in self._plans:
            generator = np.random.default_rng([self.seed, epoch])
            plan = self._whole
            if plan is None:
                order = self.chosen[generator.permutation(len(self.chosen))]
                plan = plan_stream(self.documents.pairs, self.context, order)
            # Two epochs at most are needed at a time: a chunk may lie across the border.
            self._plans = {old: value for old, value in self._plans.items() if old == epoch - 1}
            self._plans[epoch] = (plan, generator.permutation(plan.rows))
        return self._plans[epoch]


def every_row_once(
    documents: Documents, chosen: Ints, context: int, batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Yield this rank's part of all rows in a fixed order; over the ranks each row comes exactly once, none is repeated.

    Raises:
        ValueError: as `PackedDataset`.
    """
    if documents.has_pieces:
        documents = documents.pieces(context, chosen)
        chosen = np.arange(len(documents))
    planner = plan_stream if documents.is_stream else plan_whole
    plan = planner(documents.pairs, context, chosen)
    mine = np.arange(rank, plan.rows, world)
    for start in range(0, len(mine), batch_size):
        rows = mine[start : start + batch_size]
        filled = fill_rows(documents, plan, rows, context)
        single = bool((plan.offsets[rows + 1] - plan.offsets[rows] == 1).all())
        yield _batch(filled, single, int((filled.labels != IGNORED).sum()))


def _batch(rows: Rows, single: bool, weight: int) -> Batch:
    return Batch(
        torch.from_numpy(rows.ids),
        torch.from_numpy(rows.labels),
        None if single else torch.from_numpy(rows.positions),
        None if single else torch.from_numpy(rows.documents),
        weight,
    )
