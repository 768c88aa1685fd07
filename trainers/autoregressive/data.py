"""From shard sets to documents: one declaration of what is read, and a split that never moves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.files import canonical_json
from tokenize_kit.sequences.documents import Documents, FlatStream, vocabulary_of
from tokenize_kit.sequences.packing import Ints
from tokenize_kit.sequences.segment import MISSING
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from tokenize_kit.shards import ShardSet, StreamArray, StreamInfo
from tokenize_kit.shards.preparation import Preparation
from tokenize_kit.sources.heldout import KeyList, check_fraction, key_fractions


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
