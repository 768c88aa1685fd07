"""What ``probe`` reads: the documents of a model's template, what each sample is labelled, and which samples are held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.errors import VerificationError
from tokenize_kit.sequences.documents import Documents
from tokenize_kit.sequences.packing import Ints
from tokenize_kit.sequences.segment import MISSING
from tokenize_kit.shards import ShardSet
from tokenize_kit.sources.heldout import KeyList, check_fraction, key_fractions
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.model_folder import LoadedModel

if TYPE_CHECKING:
    from tokenize_kit.protocol import Tokenizer

MOST_CLASSES = 1000
"""More than this are no classes, but texts or numbers."""


@dataclass(frozen=True)
class Probed:
    """Labelled samples in two parts."""

    documents: Documents
    """Of the model's template."""
    context: int
    """The most tokens that the model reads of a sample."""
    beginning: Ints
    """(samples,): the document of each; where samples are cut into pieces, the first piece."""
    segment: int
    """Which part of the template is probed."""
    name: str
    """Its name."""
    tokenizer: Tokenizer
    """That of the part."""
    classes: tuple[str, ...]
    """What the labels of the training part are."""
    labels: Ints
    """(samples,): the class of each; the number of classes for one that the training part does not have."""
    training: Ints
    """Samples to learn from, ascending."""
    held_out: Ints
    """Samples to be right about, ascending."""
    unlabelled: int
    """Samples that were left out because they have no label, or nothing of the part."""

    @property
    def chance(self) -> float:
        """The accuracy of always saying what is most frequent in the training part."""
        most = np.bincount(self.labels[self.training]).argmax()
        return float((self.labels[self.held_out] == most).mean())

    @property
    def sizes(self) -> Ints:
        """(samples,): tokens of the document of each."""
        return self.documents.tokens[self.beginning]

    def grid(self, sample: int) -> NDArray[np.integer[Any]]:
        """Return the ids of a sample, or as many of them as the model reads, in the shape of their grid."""
        grid: NDArray[np.integer[Any]] = self.documents.grids(int(self.beginning[sample]))[self.name]
        if self.documents.is_stream:
            table = self.documents.segments[self.segment]
            grid = grid[: self.context - 1 - table.segment.header]
        return grid

    def few(self, count: int, seed: int) -> Ints:
        """Return ``count`` samples of the training part of each class, or all of a class that has no more.

        Fewer of one seed are among more of it.
        """
        order = np.random.default_rng([seed, 1]).permutation(self.training)
        found = [order[self.labels[order] == one][:count] for one in range(len(self.classes))]
        return np.sort(np.concatenate(found))


def open_probed(
    loaded: LoadedModel,
    shards: Sequence[str],
    label: str,
    stream: str | None,
    fraction: float,
    listed: KeyList | None,
    limit: int | None,
    seed: int,
    *,
    trust: bool = False,
    note: Callable[[str], None] | None = None,
) -> Probed:
    """Open shard sets for a model whose states shall tell a label.

    Args:
        loaded: the model.
        shards: folders or URLs.
        label: a column, or a stream of one id a sample.
        stream: which part of the template is probed; None means the first that is predicted.
        fraction: part of the samples that is held out by the hash of their keys.
        listed: the keys of those that are held out instead.
        limit: the most samples of each part, chosen by the seed.
        seed: decides which.
        trust: see `ShardSet.open`.
        note: the same.

    Raises:
        FileNotFoundError: a shard set is missing.
        ValueError: the label is told by the template, is in no column, or is none; the stream is no part of the template; the
            shards are of other tokenizers; or a part has no sample.
    """
    check_fraction(fraction)
    template = loaded.template
    if label in template.streams:
        raise ValueError(
            f"the template {str(template)!r} tells the model what --label {label} asks for; probe a model or a --template "
            f"without {label!r}"
        )
    if template.samples > 1:
        raise ValueError(
            f"the template {str(template)!r} makes one document of several samples, which have a label each"
        )
    name = template.target[0] if stream is None else stream
    if name not in template.names:
        raise ValueError(f"--stream {name}: the template {str(template)!r} has {', '.join(template.names)}")
    sets = [ShardSet.open(url, trust, note) for url in shards]
    data = TokenData.of_sets(shards, sets, str(template), loaded.vocabulary)
    for one, info in data.infos.items():
        if info.fingerprint != loaded.tokenizers[one].fingerprint:
            raise VerificationError(
                f"the stream {one!r} of the shards was made by another tokenizer than that of the model; encode the samples with "
                "the one in the model folder"
            )
    values = [value for url, one in zip(shards, sets, strict=True) for value in _labels_of(url, one, label)]
    there = np.array([value is not None for value in values])
    # A sample without the part has nothing to be told from.
    segment = template.names.index(name)
    there[data.documents.segments[segment].count == MISSING] = False
    if listed is None:
        apart = key_fractions(data.keys) < fraction
    else:
        listed.unmatched(data.keys)
        apart = listed.listed(data.keys)
    training, held_out = np.flatnonzero(there & ~apart), np.flatnonzero(there & apart)
    for part, what in ((training, "to learn from"), (held_out, "held out")):
        if not len(part):
            raise ValueError(
                f"no sample with a {label!r} is {what}; give more samples, or another --validation-fraction or --validation-keys"
            )
    if limit is not None:
        generator = np.random.default_rng([seed, 0])
        training, held_out = (np.sort(generator.permutation(part)[:limit]) for part in (training, held_out))
    classes = sorted({str(values[one]) for one in training.tolist()})
    _check_classes(label, classes, len(training))
    number = {one: index for index, one in enumerate(classes)}
    labels = np.array([number.get(str(value), len(classes)) for value in values])
    context = loaded.model.config.context
    documents, beginning = _beginnings(data.documents, context, loaded.model.causal)
    return Probed(
        documents,
        context,
        beginning,
        segment,
        name,
        loaded.tokenizers[template.stream_of(name)],
        tuple(classes),
        labels,
        training,
        held_out,
        int((~there).sum()),
    )


def _check_classes(label: str, classes: Sequence[str], samples: int) -> None:
    if len(classes) < 2:
        raise ValueError(f"{label!r} is {classes[0]!r} for all samples; a probe needs at least 2 classes")
    if len(classes) > min(MOST_CLASSES, samples // 2):
        raise ValueError(
            f"{label!r} has {len(classes):,} values in {samples:,} samples; a label has at most {MOST_CLASSES:,}, and two "
            "samples of each in the mean"
        )


def _labels_of(url: str, shard_set: ShardSet, label: str) -> list[Any]:
    """Return the label of each sample; None where it has none.

    Raises:
        ValueError: there is no such column, and no stream of that name with one id a sample.
    """
    if label in shard_set.columns:
        return [None if value == "" else value for value in shard_set.column(label).to_pylist()]
    if label not in shard_set.streams:
        streams = [name for name, info in shard_set.streams.items() if not info.spec.is_open]
        known = ", ".join((*shard_set.columns, *streams)) or "none"
        raise ValueError(f"{url} has no column {label!r} (there is {known}); encode with --columns {label}")
    found: list[Any] = []
    for array in shard_set.stream_arrays(label):
        counts: NDArray[np.int64] = np.diff(array.offsets)
        if (counts > 1).any():
            raise ValueError(
                f"the stream {label!r} of {url} has up to {int(counts.max())} ids a sample; a label is one id"
            )
        found += [
            int(array.values[start]) if count else None
            for start, count in zip(array.offsets[:-1].tolist(), counts.tolist(), strict=True)
        ]
    return found


def _beginnings(documents: Documents, context: int, causal: bool) -> tuple[Documents, Ints]:
    """Return documents that the model can read as they are, or cut behind the context, and that of each sample.

    Raises:
        ValueError: one is longer than the context and must not be cut.
    """
    if documents.has_pieces:
        pieces = documents.pieces(context)
        ended = pieces.segments[0].ended
        return pieces, np.flatnonzero(np.concatenate(([True], ended[:-1])))
    longest = int(documents.tokens.max()) - causal
    if not documents.is_stream and longest > context:
        raise ValueError(
            f"the longest sample has {longest} tokens, more than the model's context of {context}; encode smaller samples"
        )
    return documents, np.arange(len(documents))
