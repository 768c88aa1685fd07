"""Weights of another model to begin with, also where its streams, its template or its size are others.

What two models share is taken over: matrices of one name and shape, the rows of special tokens of one name, and the rows of the
ids of tokenizers of one fingerprint, wherever they are in the two id spaces. All else begins as it does in a fresh model. So a
model of texts starts one of ``text -> image``, and one of pictures another of a further stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from tokenize_kit.sequences.vocabulary import StreamIds, Vocabulary
from tokenize_kit.weights import read_tensors
from trainers.autoregressive.model_folder import WEIGHTS_FILE, ModelConfigFile, read_model_config
from trainers.autoregressive.models import SequenceModel
from trainers.checkpoints import module_tensors


@dataclass(frozen=True)
class TakenOver:
    """What a model has from another one."""

    source: str
    """The other model's folder."""
    parameters: int
    """Parameters that were taken over."""
    of: int
    """Parameters of the model."""
    ids: dict[str, int]
    """For each stream how many ids were taken over, of those that were."""
    special: int
    """Special tokens that were."""
    new: tuple[str, ...]
    """Names of the tensors that begin as in a fresh model, and of the streams whose ids do."""

    def __str__(self) -> str:
        ids = ", ".join(f"{count:,} ids of {stream}" for stream, count in self.ids.items())
        taken = ", ".join(part for part in (ids, f"{self.special} special tokens") if part)
        text = f"{self.source} gives {self.parameters:,} of {self.of:,} parameters: {taken}, and all matrices that fit"
        if not self.new:
            return text
        more = f" and {len(self.new) - 5} more" if len(self.new) > 5 else ""
        return f"{text}; new are {', '.join(self.new[:5])}{more}"


def take_over(
    model: SequenceModel, vocabulary: Vocabulary, fingerprints: Mapping[str, str], family: str, folder: str
) -> TakenOver:
    """Put what another model shares with ``model`` into it.

    Args:
        model: freshly initialised.
        vocabulary: of its ids.
        fingerprints: of the tokenizer of each of its streams.
        family: its registered family.
        folder: the other model's folder.

    Raises:
        FileNotFoundError: there is no such folder, or it has no weights yet.
        ValueError: the other model is of another family, or shares no matrix with this one.
        VerificationError: it is damaged.
    """
    other, path = source_of(folder)
    if other.family != family:
        raise ValueError(
            f"{folder} is a model of the family {other.family!r}, this one is {family!r}; leave --init-from out"
        )
    given = read_tensors(path)
    shared = list(_shared_rows(vocabulary, fingerprints, other))
    rows = list(shared)
    if model.config.vocab_size > vocabulary.size and int(other.config.get("vocab_size", 0)) > other.vocabulary.size:
        # An id beyond the vocabulary is the mask of an objective.
        rows.append(Shared(vocabulary.size, other.vocabulary.size, 1, None))
    tables = {id(table) for table in model.token_tables()}
    own = _parameters(model)
    taken, new = 0, []
    with torch.no_grad():
        for name, value in own.items():
            there = given.get(name)
            if there is None or there.shape[1:] != value.shape[1:] or there.dtype != value.dtype:
                new.append(name)
            elif id(value) in tables:
                for row in rows:
                    value[row.first : row.first + row.length] = there[row.theirs : row.theirs + row.length]
                    taken += row.length * value[0].numel()
            elif there.shape == value.shape:
                value.copy_(there)
                taken += value.numel()
            elif name.startswith("positions."):
                # A learned table of places: those that both have.
                count = min(len(value), len(there))
                value[:count] = there[:count]
                taken += count * value[0].numel()
                if count < len(value):
                    new.append(f"{name} from place {count}")
            else:
                new.append(name)
    matrices = [name for name, value in own.items() if value.ndim > 1 and id(value) not in tables]
    if matrices and not any(name not in new for name in matrices):
        sizes = ", ".join(
            f"{name} {theirs} there and {ours} here"
            for name, theirs, ours in _differing(other.config, model.config.to_dict())
        )
        raise ValueError(
            f"{folder} shares no matrix with this model ({sizes}); give it the same sizes, or leave --init-from out"
        )
    ids: Counter[str] = Counter()
    for row in shared:
        if row.stream is not None:
            ids[row.stream] += row.length
    new += [f"the ids of {stream}" for stream in vocabulary.streams if stream not in ids]
    special = sum(row.stream is None for row in shared)
    return TakenOver(folder, taken, sum(value.numel() for value in own.values()), dict(ids), special, tuple(new))


def source_of(folder: str) -> tuple[ModelConfigFile, Path]:
    """Return what a model folder says, and where its weights are.

    Raises:
        FileNotFoundError: there is no such folder, or it has no weights yet.
        ValueError: it is no model folder.
        VerificationError: it is damaged.
    """
    config, path = read_model_config(folder), Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS_FILE} yet; its training has not reached the first validation"
        )
    return config, path


class Shared(NamedTuple):
    """Ids that two models share, and that follow each other in both."""

    first: int
    """Here."""
    theirs: int
    """There."""
    length: int
    stream: str | None
    """Whose ids they are; None for a special token."""


def _shared_rows(vocabulary: Vocabulary, fingerprints: Mapping[str, str], other: ModelConfigFile) -> Iterator[Shared]:
    """Yield the special tokens and the ids of streams that both have."""
    theirs = {name: index for index, name in enumerate(other.vocabulary.special_tokens)}
    for index, name in enumerate(vocabulary.special_tokens):
        if name in theirs:
            yield Shared(index, theirs[name], 1, None)
    for stream in vocabulary.streams.values():
        source = _source(stream, fingerprints[stream.name], other)
        if source is None:
            continue
        for codebook in range(min(len(stream.offsets), len(source.offsets))):
            low, high = stream.range_of(codebook)
            first, last = source.range_of(codebook)
            yield Shared(low, first, min(high - low, last - first), stream.name)


def _source(stream: StreamIds, fingerprint: str, other: ModelConfigFile) -> StreamIds | None:
    """Return a stream of the other model whose ids mean the same: that of the same name first."""
    streams = other.vocabulary.streams
    same = [name for name in streams if other.fingerprints.get(name) == fingerprint]
    if stream.name in same:
        return streams[stream.name]
    return streams[same[0]] if same else None


def _parameters(model: SequenceModel) -> dict[str, nn.Parameter]:
    """Return the weights by the names that they have in a file."""
    named = dict(model.named_parameters())
    known = module_tensors(cast("nn.Module", model))
    return {name: value for name, value in named.items() if name in known}


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return what two configurations do not share of what may decide the shapes of matrices."""
    free = ("vocab_size", "context", "dropout", "ordinal")
    names = [name for name in dict.fromkeys((*ours, *theirs)) if name not in free]
    return [(name, theirs.get(name), ours.get(name)) for name in names if theirs.get(name) != ours.get(name)]
