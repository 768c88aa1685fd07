"""The parts of the work for one tokenizer: shards, distortion, training for the time given, bits under the model, samples.

Each calls what the command of that name calls: encode, evaluate, train transformer, generate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenize_kit.files import write_text
from tokenize_kit.metrics.evaluate import evaluate
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import modality_of
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.sources.heldout import key_fraction, read_keys
from trainers.autoregressive.batches import every_row_once
from trainers.autoregressive.comparing.rank import caption_ranks
from trainers.autoregressive.comparing.timing import StepClock, steps_that_fit
from trainers.autoregressive.data import TokenData, split_documents
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.options import GenerateOptions, TrainTransformerOptions
from trainers.autoregressive.sample import generate_samples
from trainers.autoregressive.train import train_transformer
from trainers.runtime import resolve_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenize_kit.metrics.result import EvaluateResult
    from tokenize_kit.protocol import Tokenizer
    from trainers.autoregressive.comparing.contestant import Contestant
    from trainers.autoregressive.comparing.options import CompareOptions

EVERYTHING = 1 << 62
"""Tokens of a validation that leaves nothing out."""
ENTROPY = "entropy_"
"""Before the name of a rate at the entropy of the ids; what it stands before is the rate at a fixed length."""


def encode_data(options: CompareOptions, one: Contestant, progress: Progress) -> None:
    """Make the shards of a tokenizer, with the captions if there are some."""
    given = EncodeOptions(
        tokenizer=(one.source,) if options.captions is None else (options.captions, one.source),
        data=options.data,
        out=str(one.shards),
        workers=options.workers,
        split=options.split,
        field=() if options.field is None else (options.field,),
        media_field=options.media_field,
        image_size=options.image_size,
        pad=options.pad,
        fps=options.fps,
        clip_frames=options.clip_frames,
        clip_stride=options.clip_stride,
        clip_tail=options.clip_tail,
        codebooks=options.codebooks,
        allow_special=options.allow_special,
        max_failures=options.max_failures,
        limit=options.limit,
        device=options.device,
    )
    encode(given, progress, leave_out=(options.out,))


def hold_out(options: CompareOptions, contestants: Sequence[Contestant], path: Path) -> list[str]:
    """Write which samples are held out from all trainings, as ``train transformer`` reads it; return their keys.

    Of the samples that all tokenizers could read they are those of the smallest hashes.

    Raises:
        ValueError: there is none, or nothing is left to train on.
    """
    if path.is_file():
        return sorted(read_keys(str(path)).keys)
    keys = [set(ShardSet.open(one.shards).column("key").to_pylist()) for one in contestants]
    common = sorted(set.intersection(*keys), key=key_fraction)
    chosen = [key for key in common if key_fraction(key) < options.validation_fraction][: options.held_out]
    if not chosen or len(chosen) == len(common):
        raise ValueError(
            f"of {len(common):,} samples {len(chosen):,} are held out; give more of them (for text, --split paragraphs makes "
            "many of one file), or another --validation-fraction"
        )
    import json

    write_text(path, "".join(json.dumps({"key": key}) + "\n" for key in chosen))
    return sorted(chosen)


def evaluation_of(
    options: CompareOptions, one: Contestant, keys: Path, progress: Progress, limit: int | None = None
) -> EvaluateResult:
    """Measure a tokenizer on the samples that are held out, or on the first ``limit`` of them."""
    given = EvaluateOptions(
        tokenizer=one.source,
        data=options.data,
        limit=limit,
        image_size=options.image_size,
        pad=options.pad,
        fps=options.fps,
        clip_frames=options.clip_frames,
        clip_stride=options.clip_stride,
        clip_tail=options.clip_tail,
        codebooks=options.codebooks,
        split=options.split,
        field=options.field if options.captions is None else None,
        media_field=options.media_field,
        allow_special=options.allow_special,
        max_failures=options.max_failures,
        part="held-out",
        validation_keys=str(keys),
        examples=options.samples,
        device=options.device,
    )
    return evaluate(given, progress)


def evaluate_tokenizer(options: CompareOptions, one: Contestant, keys: Path, progress: Progress) -> dict[str, Any]:
    """Return what is kept of an evaluation: its numbers, the rate in its unit and the bits of all ids."""
    result = evaluation_of(options, one, keys, progress)
    rate = next(name for name in result.metrics if f"{ENTROPY}{name}" in result.metrics)
    fixed = sum(np.log2(book.vocab_size) * book.tokens for book in result.codebooks)
    packed = sum((book.vocab_size - 1).bit_length() * book.tokens for book in result.codebooks)
    in_unit = result.metrics[rate]
    assert in_unit is not None, "of samples that have values there is a rate"
    return {
        "samples": result.samples,
        "metrics": result.metrics,
        "loss": result.loss,
        "loss_name": result.loss_name,
        "rate": rate,
        "unit_bits": float(fixed / in_unit),
        "packed": float(packed * in_unit / fixed),
        "entropy": result.metrics[f"{ENTROPY}{rate}"],
        "protocol": result.protocol,
    }


def training_options(
    options: CompareOptions, one: Contestant, keys: Path, steps: int, context: int
) -> TrainTransformerOptions:
    """Return how the Transformer of a tokenizer is trained."""
    return TrainTransformerOptions(
        shards=(str(one.shards),),
        template=(template_of(options, one),),
        out=str(one.model),
        preset=options.preset,
        model=options.model,
        optimizer=options.optimizer,
        steps=steps,
        batch_size=max(1, round(options.batch_tokens / context)),
        context=context,
        validation_keys=str(keys),
        validation_tokens=EVERYTHING,
        # Once, at the end: it is no part of the time that is equal.
        validate_every=steps,
        checkpoint_every=max(1, steps // 5),
        seed=options.seed,
        device=options.device,
    )


def template_of(options: CompareOptions, one: Contestant) -> str:
    """Return the template of the models."""
    if options.captions is None:
        return one.stream
    from tokenize_kit.protocol import load_tokenizer

    return f"{load_tokenizer(options.captions).spec.modality} -> {one.stream}"


def plan_training(options: CompareOptions, one: Contestant, keys: Path) -> dict[str, Any]:
    """Return how many steps the Transformer of a tokenizer is trained, and how many tokens a row has."""
    from trainers.autoregressive.model_settings import default_context

    data = TokenData.open([str(one.shards)], template_of(options, one))
    context = options.context or default_context(data, options.preset)
    if one.steps is not None:
        return {"steps": one.steps, "context": context, "seconds_a_step": None}
    steps, each = steps_that_fit(training_options(options, one, keys, 1, context), 60 * options.minutes)
    return {"steps": steps, "context": context, "seconds_a_step": each}


def train_model(
    options: CompareOptions, one: Contestant, keys: Path, plan: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """Train the Transformer of a tokenizer; return what is to be known of it."""
    clock = StepClock(progress)
    result = train_transformer(training_options(options, one, keys, plan["steps"], plan["context"]), clock)
    data = TokenData.open([str(one.shards)], template_of(options, one))
    _, held_out = split_documents(data, options.validation_fraction, EVERYTHING, read_keys(str(keys)))
    tokens = sum(batch.weight for batch in every_row_once(data.documents, held_out, plan["context"], 64))
    return {
        "parameters": result.parameters,
        "vocabulary": result.vocabulary,
        "documents": result.documents,
        "epochs": result.epochs,
        "seconds_a_step": clock.seconds_a_step,
        "held_out": result.validation_documents,
        "bits": result.metrics["bits_per_token"] * tokens,
        "tokens": tokens,
    }


def rank_captions(options: CompareOptions, one: Contestant, keys: Path) -> dict[str, Any]:
    """Return the rank of the true caption of held-out samples among those of all of them; empty where there are none."""
    if options.captions is None:
        return {}
    loaded = load_model(one.model, resolve_device(options.device))
    listed = read_keys(str(keys))
    records = [record.grids for record in ShardSet.open(one.shards).records() if record.key in listed]
    ranks = caption_ranks(loaded, records[: options.rank_samples])
    return {
        "samples": len(ranks),
        "median": float(np.median(ranks)),
        "mean": float(np.mean(ranks)),
        "first": float(np.mean(ranks == 1)),
    }


def draw_samples(options: CompareOptions, one: Contestant, keys: Path, progress: Progress) -> dict[str, Any]:
    """Draw samples from the model, with captions those of held-out samples; return their files, and what was given."""
    prompts: list[str] = []
    if options.captions is not None:
        loaded = load_model(one.model)
        condition = loaded.template.condition[0]
        listed = read_keys(str(keys))
        for record in ShardSet.open(one.shards).records():
            if record.key in listed and len(prompts) < options.samples:
                prompts.append(str(_decoded(loaded.tokenizers[condition], record.grids[condition])))
        import json

        write_text(one.folder / "prompts.jsonl", "".join(json.dumps(text) + "\n" for text in prompts))
    given = GenerateOptions(
        model=str(one.model),
        out=str(one.samples),
        count=1 if prompts else options.samples,
        prompts=str(one.folder / "prompts.jsonl") if prompts else None,
        seed=options.seed,
        device=options.device,
    )
    result = generate_samples(given, progress)
    return {"files": [str(Path(file).relative_to(one.folder)) for file in result.files], "prompts": prompts}


def drawn_samples(one: Contestant, drawn: Mapping[str, Any]) -> list[Any]:
    """Read what was drawn."""
    kind, spec = modality_of(one.tokenizer.spec), one.tokenizer.spec
    paths = [one.folder / name for name in drawn["files"]]
    return [kind.read(kind.self_describing(path.name, path.read_bytes()), spec) for path in paths]


def _decoded(tokenizer: Tokenizer, grid: Any) -> Any:
    import torch

    return tokenizer.decode(torch.from_numpy(grid.astype(np.int64)))
