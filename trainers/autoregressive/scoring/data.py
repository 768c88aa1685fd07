"""What a trained model is to score, as documents of its template: shard sets, or files, which are encoded as its data were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from tokenize_kit.progress import Progress, several
from tokenize_kit.protocol import SpecialTokens, modality_of
from tokenize_kit.protocol.views import AT
from tokenize_kit.sequences.packing import Ints
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.format import MANIFEST_FILE
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.shards.preparation import Preparation
from tokenize_kit.sources.heldout import in_part, read_keys
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.model_folder import LoadedModel
from trainers.autoregressive.scoring.options import ScoreOptions


def are_shards(paths: Sequence[str]) -> bool:
    """Whether all of these are folders of shard sets."""
    return all((Path(path) / MANIFEST_FILE).is_file() for path in paths)


def open_shards(
    loaded: LoadedModel, shards: Sequence[str], trust: bool = False, note: Callable[[str], None] | None = None
) -> TokenData:
    """Open shard sets as documents in the vocabulary of a model.

    Args:
        loaded: the model with the template that is followed.
        shards: folders or URLs.
        trust: see `ShardSet.open`.
        note: the same.

    Raises:
        FileNotFoundError: a shard set is missing.
        ValueError: it lacks a stream, one was made by another tokenizer, or a grid has a shape that the model does not know.
        VerificationError: a shard set is not what was written.
    """
    sets = [ShardSet.open(url, trust, note) for url in shards]
    for url, shard_set in zip(shards, sets, strict=True):
        for stream in loaded.template.streams:
            info, wanted = shard_set.streams.get(stream), loaded.tokenizers[stream].fingerprint
            if info is not None and info.fingerprint != wanted:
                raise ValueError(
                    f"stream {stream!r} of {url} was made by another tokenizer than the model's (fingerprints "
                    f"{info.fingerprint[:12]} and {wanted[:12]}); give the files with --data, which are encoded with the model's"
                )
    return TokenData.of_sets(shards, sets, str(loaded.template), loaded.vocabulary)


def encode_as_trained(
    loaded: LoadedModel, data: Sequence[str], out: Path, options: ScoreOptions, progress: Progress
) -> str:
    """Encode files as the data of a model were; returns the shard set. A run that was stopped is continued.

    Raises:
        FileNotFoundError: there is no such input.
        ValueError: the streams of the template were prepared in ways that one run cannot have, the input holds no samples, or
            ``out`` holds other shards.
        TooManyFailuresError, OSError: as `tokenize_kit.shards.encode.encode`.
    """
    prepared, views = _prepared(loaded)
    tokenizers = {stream: loaded.tokenizers[stream] for stream in loaded.template.streams}
    for view in views:
        # What a view is made of is encoded too, as encode reads it from nowhere else.
        tokenizers.setdefault(view.rpartition(AT)[0], tokenizers[view])
    samples = loaded.template.samples
    asked = EncodeOptions(
        tokenizer=tuple(f"{stream}={stream}" for stream in tokenizers),
        data=tuple(data),
        out=str(out),
        split=options.split,
        field=options.field,
        media_field=options.media_field,
        view=tuple(f"{name}={operations}" for name, operations in views.items()),
        limit=options.limit * samples if options.limit is not None and options.part == "all" else None,
        device=options.device,
        **prepared,
    )
    result = encode(asked, progress, loaded=tokenizers)
    if result.failures:
        progress.note(
            f"{several(result.failures, 'samples')} could not be read and {'is' if result.failures == 1 else 'are'} not scored; "
            f"failures.jsonl in {out} says why"
        )
    return str(out)


def _prepared(loaded: LoadedModel) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options of `encode` that the streams of the template ask for, and their views.

    Raises:
        ValueError: two streams were prepared in two ways.
    """
    found: dict[str, Any] = {}
    views: dict[str, str] = {}
    for stream in loaded.template.streams:
        of, tokenizer = loaded.prepared(stream), loaded.tokenizers[stream]
        kind = modality_of(tokenizer.spec)
        if stream in of.views:
            views[stream] = of.views[stream]
        concerned = {
            **dict.fromkeys(("image_size", "crop", "pad"), kind.resizable),
            "codebooks": tokenizer.spec.axes[-1] == "codebook",
            "allow_special": isinstance(tokenizer, SpecialTokens),
            **dict.fromkeys(("fps", "clip_frames"), kind.timed),
        }
        for one in fields(Preparation):
            if concerned.get(one.name) and found.setdefault(one.name, getattr(of, one.name)) != getattr(of, one.name):
                raise ValueError(
                    f"the streams of {str(loaded.template)!r} were encoded with several --{one.name.replace('_', '-')} "
                    f"({found[one.name]} and {getattr(of, one.name)}), which one run cannot have; encode the files and give "
                    "them with --shards"
                )
    return found, views


def chosen_of(data: TokenData, options: ScoreOptions, progress: Progress) -> Ints:
    """Return which documents are scored: those of the part that is asked for, the first of them.

    Raises:
        FileNotFoundError: there is no file of keys.
        ValueError: there is no such document.
    """
    if options.validation_keys is not None:
        listed = read_keys(options.validation_keys)
        if unmatched := listed.unmatched(data.keys):
            progress.note(unmatched)
        held_out = listed.listed(data.keys)
        chosen = np.flatnonzero(held_out if options.part == "held-out" else ~held_out)
    else:
        mine = (in_part(key, options.part, options.validation_fraction) for key in data.keys)
        chosen = np.flatnonzero(np.fromiter(mine, bool, len(data.keys)))
    if not len(chosen):
        raise ValueError(
            f"none of the {len(data.keys):,} samples is in --part {options.part}; choose another part, or give more samples"
        )
    return chosen[: options.limit]
