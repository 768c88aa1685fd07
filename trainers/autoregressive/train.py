"""``train sequence``: from shard sets to a model folder. The work is that of `data`, `task` and `trainers.loop`.

The module loads no torch until it is called, so that a command line can show its options at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.progress import several
from trainers.autoregressive.options import (
    DEFAULT_PRESET,
    DEFAULT_STYLE,
    TRANSFORMER,
    TrainSequenceOptions,
    TrainTransformerOptions,
)

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.sources.heldout import KeyList
    from trainers.autoregressive.batches import PackedDataset
    from trainers.autoregressive.mixture import MixedData, MixedDataset, Source

# What does not change the weights, or is represented by what it contains.
_NOT_IDENTITY = {
    *(
        "shards",
        "out",
        "tokenizer",
        "init_from",
        "family_config",
        "set",
        "log_every",
        "track",
        "checkpoint_every",
        "device",
        "trust_shards",
    ),
}


@dataclass(frozen=True)
class TrainResult:
    """What a training made."""

    model: str
    """The model folder."""
    parameters: int
    """Trainable parameters."""
    vocabulary: int
    """Number of ids."""
    context: int
    """Tokens of a row."""
    documents: int
    """Documents that were trained on, those of all templates."""
    validation_documents: int
    """Documents that were held out and measured, those of all templates."""
    steps: int
    """Steps made in all."""
    epochs: float
    """How often each document was seen; of several templates or weighted shard sets, the rows seen for each row that there is."""
    resumed_from: int
    """The step from which this call continued; the last one if it had nothing to do."""
    best_step: int
    """The step of the weights in model.safetensors."""
    metrics: dict[str, float]
    """The validation at that step; empty if nothing is held out."""


def train_sequence(options: TrainSequenceOptions, progress: Progress | None = None) -> TrainResult:
    """Train a sequence model on shard sets, or continue the run that ``options.out`` holds.

    Raises:
        FileNotFoundError: a shard set, tokenizer or model folder is missing.
        ValueError: the options do not fit the family, the data or the run in ``options.out``, or training broke down.
    """
    with ExitStack() as stack:
        return _train(options, progress, stack)


def train_transformer(options: TrainTransformerOptions, progress: Progress | None = None) -> TrainResult:
    """Do the same for the transformer, if no other family is named.

    Raises:
        FileNotFoundError: as `train_sequence`.
        ValueError: the same.
    """
    return train_sequence(options, progress)


def _train(options: TrainSequenceOptions, progress: Progress | None, stack: ExitStack) -> TrainResult:
    import torch

    from tokenize_kit.claims import owned
    from tokenize_kit.sources.heldout import read_keys
    from trainers.autoregressive.memory import burden_of, kept_by_activations, least_memory, parameters_of
    from trainers.autoregressive.mixture import MixedData, mixed_dataset
    from trainers.autoregressive.model_folder import ModelConfigFile, write_model_folder
    from trainers.autoregressive.model_settings import check_model, default_context, model_config
    from trainers.autoregressive.models import build_model
    from trainers.autoregressive.models.fast.fused import fused_training
    from trainers.autoregressive.objectives import objective_named
    from trainers.autoregressive.task import SequenceTask, TemplateValidations, Validation, token_weights_of
    from trainers.autoregressive.transfer import take_over
    from trainers.checkpoints import claim_folder
    from trainers.loop import run
    from trainers.memory import refuse_what_cannot_fit, says_when_full
    from trainers.runtime import start

    note = progress.note if progress is not None else None
    dropped = options.condition_dropout > 0
    data = MixedData.open(options.shards, options.template, trust=options.trust_shards, note=note, dropped=dropped)
    token_weights = token_weights_of(options.loss_weights, data.templates, data.vocabulary)
    tokenizers = _find_tokenizers(data, options.tokenizer)
    listed = None if options.validation_keys is None else read_keys(options.validation_keys)
    unmatched = "" if listed is None else listed.unmatched(data.keys)
    halves = data.split(options.validation_fraction, options.validation_tokens, listed)
    chosen, held_out = [one for one, _ in halves], [other for _, other in halves]
    sources = data.sources(chosen, options.mix)
    context = options.context or max(default_context(part, options.preset) for part in data.parts)
    objective = objective_named(options.objective)
    loaded = {name: one for name, (_, one) in tokenizers.items()}
    config = model_config(options, data, objective, context, loaded)

    runtime = start(options)
    burden = burden_of(options, context)
    parameters = parameters_of(options.family, config)
    if parameters is not None:
        least = least_memory(options, parameters, context, config)
        refuse_what_cannot_fit(least, runtime.device.type, f"{parameters:,} parameters, {burden}")
    stack.enter_context(says_when_full(burden))
    with torch.random.fork_rng([]):
        torch.manual_seed(options.seed)
        model: Any = build_model(options.family, config)
    # With every default, so that the folder says what the model is also when defaults change.
    config = model.config.to_dict()
    check_model(options, data, objective, model)
    if options.family != TRANSFORMER and parameters is not None:
        least = least_memory(options, parameters, context, config) + kept_by_activations(model, options, context)
        refuse_what_cannot_fit(least, runtime.device.type, f"{parameters:,} parameters, {burden}")
    identity = _identity(options, data, context, config, listed)
    dataset = mixed_dataset(
        data,
        sources,
        context,
        options.batch_size,
        options.seed,
        runtime.rank,
        runtime.world,
        objective,
        model.needs,
        options.template_weights,
        options.mix,
        options.condition_dropout,
    )
    out = Path(options.out)
    if options.init_from is not None:
        fingerprints = {name: info.fingerprint for name, info in data.infos.items()}
        taken = take_over(model, data.vocabulary, fingerprints, options.family, options.init_from)
        if progress is not None and runtime.rank == 0:
            progress.note(str(taken))
    if runtime.rank == 0:
        claim_folder(out, identity, alone=stack.enter_context(owned(out)))
        folder_config = ModelConfigFile(
            options.family,
            config,
            data.templates[0],
            data.vocabulary,
            {name: info.fingerprint for name, info in data.infos.items()},
            options.objective,
            data.templates[1:],
        )
        folders = {name: folder for name, (folder, _) in tokenizers.items()}
        write_model_folder(out, folder_config, folders, data.preparation, data.preparations)
    runtime.fabric.barrier()
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    trained, measured = sum(map(len, chosen)), sum(map(len, held_out))
    if progress is not None and runtime.rank == 0:
        progress.note(
            f"{parameters:,} parameters, {several(trained, 'documents')} of {dataset.tokens_per_epoch:,} tokens in rows of "
            f"{context}, {several(measured, 'documents')} held out, {runtime.device.type} {runtime.precision}"
        )
        for text in _notes(options, data, dataset, sources, halves, context):
            progress.note(text)
        if unmatched:
            progress.note(unmatched)
        if unused := len(data.keys) - trained - measured if listed is not None else 0:
            progress.note(
                f"{unused:,} of the listed documents are neither trained on nor measured; a higher --validation-tokens "
                "measures more"
            )
        if not measured and options.validation_fraction:
            progress.note(
                f"none of the {trained:,} documents falls into the validation part: the last weights are kept instead of "
                "the best (for text, encode with --split paragraphs to get more documents)"
            )
    loaded = {name: tokenizer for name, (_, tokenizer) in tokenizers.items()}
    validations = [
        Validation(part.documents, some, context, options.batch_size, loaded, objective, model.needs)
        for part, some in zip(data.parts, held_out, strict=True)
    ]
    names = map(str, data.templates)
    validation = (
        validations[0] if len(validations) == 1 else TemplateValidations(dict(zip(names, validations, strict=True)))
    )
    task = SequenceTask(
        model, dataset, validation, options.optimizer, options.steps, options.z_loss, out, token_weights
    )
    with fused_training(model, options.compile):
        result = run(task, options, runtime, out, progress)
    return TrainResult(
        str(out),
        parameters,
        data.vocabulary.size,
        context,
        trained,
        measured,
        result.step,
        dataset.epoch(result.step * options.accumulate),
        result.resumed_from,
        result.best_step,
        result.best_metrics,
    )


def _notes(
    options: TrainSequenceOptions,
    data: MixedData,
    dataset: PackedDataset | MixedDataset,
    sources: Sequence[Source],
    halves: Sequence[tuple[Any, Any]],
    context: int,
) -> Iterator[str]:
    """Yield what is to be said of the templates and their data before the training begins."""
    from trainers.autoregressive.mixture import MixedDataset

    several_templates = len(data.parts) > 1
    for part, (chosen, held_out) in zip(data.parts, halves, strict=True):
        template = part.documents.template
        of = f"{str(template)!r}: " if several_templates else ""
        if cut := int((part.documents.tokens[chosen] > context).sum()) if part.documents.has_pieces else 0:
            yield (
                f"{of}{cut:,} documents are longer than a row of {context} and are cut into pieces of whole time steps; a longer "
                "--context cuts fewer"
            )
        if template.samples > 1:
            yield (
                f"{of}a document is made of {template.samples} samples that follow each other, as the template has a stream "
                f"{template.samples} times"
            )
        for name, lacking in part.documents.lacking(chosen).items():
            yield f"{of}{lacking:,} of {several(len(chosen), 'documents')} have no {name!r}"
        if several_templates and not len(held_out) and options.validation_fraction:
            yield f"{of}none of its {several(len(chosen), 'documents')} falls into the validation part; it is not measured"
    if isinstance(dataset, MixedDataset):
        rows = options.steps * options.accumulate * dataset.world * options.batch_size
        counts, period = dataset.interleaving.counts, dataset.interleaving.period
        for source, packed, count in zip(sources, dataset.sources, counts.tolist(), strict=True):
            where = "" if source.shard_set is None else f" from {data.shards[source.shard_set]}"
            yield (
                f"{str(data.templates[source.part])!r}{where}: {count / period:.1%} of the rows, "
                f"{several(len(source.chosen), 'documents')} in {several(packed.rows_per_epoch, 'rows')}, each "
                f"{rows * count / period / packed.rows_per_epoch:.3g} times in this run"
            )


def _find_tokenizers(data: MixedData, folders: tuple[str, ...]) -> dict[str, tuple[Path, Any]]:
    """Return the folder and the tokenizer of each stream, by fingerprint: those given first, then those in the shard sets."""
    from tokenize_kit.errors import VerificationError
    from tokenize_kit.protocol import load_tokenizer, tokenizer_name
    from tokenize_kit.shards.format import TOKENIZERS_FOLDER

    given = [(Path(folder), load_tokenizer(folder)) for folder in folders]
    found: dict[str, tuple[Path, Any]] = {}
    for name, info in data.infos.items():
        carried = [folder / TOKENIZERS_FOLDER / name for folder in data.folders]
        candidates = given + [(folder, load_tokenizer(folder)) for folder in carried if folder.is_dir()]
        for folder, tokenizer in candidates:
            if tokenizer.fingerprint == info.fingerprint:
                if differs := info.unlike(tokenizer_name(tokenizer), tokenizer.fingerprint, tokenizer.spec.to_dict()):
                    raise VerificationError(
                        f"the tokenizer in {folder} is not what the manifest of the shards says of it ({differs}); verify both"
                    )
                found[name] = (folder, tokenizer)
                break
        else:
            raise ValueError(
                f"the tokenizer of stream {name!r} (a {info.tokenizer} with fingerprint {info.fingerprint[:12]}) is needed for "
                f"the model folder; {'none of those given is it' if candidates else 'give it'} with --tokenizer DIR"
            )
    return found


def _identity(
    options: TrainSequenceOptions,
    data: MixedData,
    context: int,
    config: Mapping[str, Any],
    listed: KeyList | None,
) -> dict[str, Any]:
    """Return all that determines the weights; a folder that holds a run with another identity is refused."""
    from tokenize_kit.files import sha256_of_file
    from trainers.autoregressive.transfer import source_of

    values = {name: value for name, value in asdict(options).items() if name not in _NOT_IDENTITY}
    if options.family == TRANSFORMER:
        values["preset"], values["style"] = options.preset or DEFAULT_PRESET, options.style or DEFAULT_STYLE
    else:
        del values["preset"], values["style"]
    values["validate_every"] = options.steps_between_validations
    values["validation_keys"] = None if listed is None else listed.digest
    # Left out where they say nothing, so that runs from before there were these options are what they were.
    values = {
        name: value
        for name, value in values.items()
        if value is not None or name not in ("keep", "validation_keys", "form")
    }
    # Weights of one template, or of one shard set, say nothing either.
    for name, count in (("template_weights", len(options.template)), ("mix", len(options.shards)), ("loss_weights", 2)):
        if count < 2 or not values[name]:
            del values[name]
    if values["objective"] == "next-token":
        del values["objective"]
    if not values["condition_dropout"]:
        del values["condition_dropout"]
    values["context"] = context
    values["model"] = dict(config)
    templates = [str(template) for template in data.templates]
    values["template"] = templates if len(templates) > 1 else templates[0]
    values["shards"] = data.digest
    values["tokenizers"] = {name: info.fingerprint for name, info in data.infos.items()}
    if options.init_from is not None:
        values["init_from"] = sha256_of_file(source_of(options.init_from)[1])
    result: dict[str, Any] = json.loads(json.dumps(values))
    return result
