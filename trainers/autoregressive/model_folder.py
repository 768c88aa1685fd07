"""The model folder: all that is needed to generate, in one place.

model_config.json     family, configuration, template, vocabulary, fingerprints of the tokenizers, a digest of itself
model.safetensors     the best weights so far; the step, its metrics and a sum of the file are in its metadata
tokenizers/STREAM/    the tokenizer of each stream
recipe.json           how the samples of the shards were prepared, so that prompts are, too; not there if they were not
train_log.jsonl  tensorboard/  checkpoints/  run.json     the training's own
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tokenize_kit.errors import VerificationError, did_you_mean
from tokenize_kit.files import copy_folder, is_signed, read_signed, signed, write_json
from tokenize_kit.protocol import Tokenizer, load_tokenizer
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from tokenize_kit.shards.preparation import Preparation
from tokenize_kit.weights import check_seal, read_tensors, read_training, write_sealed
from trainers.autoregressive.models import SequenceModel, build_model
from trainers.autoregressive.objectives import objective_named
from trainers.checkpoints import (
    CHECKPOINTS,
    is_checkpoint,
    last_checkpoint,
    load_module,
    load_weights,
    module_tensors,
    run_position,
)

FORMAT_VERSION = 1
CONFIG_FILE = "model_config.json"
WEIGHTS_FILE = "model.safetensors"
RECIPE_FILE = "recipe.json"
TOKENIZERS = "tokenizers"
NETWORK = "model"
"""The name of the network in a checkpoint, and of its part that is the model."""


NEXT_TOKEN = "next-token"
"""The objective of folders that name none."""


@dataclass(frozen=True)
class ModelConfigFile:
    """What ``model_config.json`` says."""

    family: str
    """Registered name of the model family."""
    config: dict[str, Any]
    """The plain form of its configuration."""
    template: SequenceTemplate
    """What a sequence is made of."""
    vocabulary: Vocabulary
    """The id space."""
    fingerprints: dict[str, str]
    """The fingerprint of each stream's tokenizer."""
    objective: str = NEXT_TOKEN
    """Registered name of what it was trained to predict."""
    others: tuple[SequenceTemplate, ...] = ()
    """What a sequence may be made of besides, where there are several templates."""

    @property
    def templates(self) -> tuple[SequenceTemplate, ...]:
        """All templates, in their order."""
        return (self.template, *self.others)

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams of all templates, each once."""
        return tuple(dict.fromkeys(name for template in self.templates for name in template.streams))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        several = {"templates": [str(template) for template in self.templates]}
        return {
            "format_version": FORMAT_VERSION,
            "kind": "autoregressive",
            "family": self.family,
            "config": self.config,
            **(several if self.others else {"template": str(self.template)}),
            "vocabulary": self.vocabulary.to_dict(),
            "fingerprints": self.fingerprints,
            # As folders were before there was another one.
            **({} if self.objective == NEXT_TOKEN else {"objective": self.objective}),
        }


@dataclass(frozen=True)
class LoadedModel:
    """A trained model with everything around it."""

    model: SequenceModel
    """In evaluation mode, float32, on the device that was asked for."""
    template: SequenceTemplate
    """What a sequence is made of; of a model with several templates the one that is used, see `using`."""
    vocabulary: Vocabulary
    """The id space."""
    tokenizers: dict[str, Tokenizer]
    """The tokenizer of each stream."""
    step: int
    """The training step of these weights."""
    metrics: dict[str, float]
    """The validation at that step."""
    preparation: Preparation = field(default_factory=Preparation)
    """How the samples were prepared that it was trained on."""
    note: str = ""
    """What is to be said of where the weights come from, if that is no finished training."""
    templates: tuple[SequenceTemplate, ...] = ()
    """All templates that it was trained on; empty means that there is one."""
    preparations: dict[str, Preparation] = field(default_factory=dict)
    """How the samples of those streams were prepared of which more is known than of all."""

    def using(self, template: str | None) -> LoadedModel:
        """Return the same model with another of its templates; None keeps the one that it has.

        Raises:
            ValueError: it was not trained on that one; the message suggests the closest.
        """
        if template is None:
            return self
        known = {str(one): one for one in self.templates or (self.template,)}
        name = str(SequenceTemplate.parse(template))
        if name not in known:
            raise ValueError(
                f"the model was not trained on the template {name!r} (it knows: {', '.join(map(repr, known))})"
                f"{did_you_mean(name, known)}"
            )
        return replace(self, template=known[name])

    def prepared(self, stream: str) -> Preparation:
        """Return how the samples of a stream were prepared."""
        return self.preparations.get(stream, self.preparation)


def write_model_folder(
    folder: Path,
    config: ModelConfigFile,
    tokenizers: Mapping[str, Path],
    preparation: Preparation | None = None,
    preparations: Mapping[str, Preparation] | None = None,
) -> None:
    """Write everything but the weights: the configuration last, so that a folder that has it is complete.

    Args:
        folder: the model folder.
        config: what the model is.
        tokenizers: the folder of each stream's tokenizer, to copy.
        preparation: how the samples were prepared.
        preparations: the same for those streams of which more is known.
    """
    for stream, source in tokenizers.items():
        goal = folder / TOKENIZERS / stream
        if goal.exists():
            continue
        copy_folder(source, goal)
    recipe = {} if preparation is None else preparation.to_dict()
    if preparations:
        recipe["streams"] = {name: one.to_dict() for name, one in preparations.items()}
    if recipe:
        write_json(folder / RECIPE_FILE, signed({"format_version": FORMAT_VERSION, **recipe}))
    write_json(folder / CONFIG_FILE, signed(config.to_dict()))


def write_weights(folder: Path, model: nn.Module, step: int, metrics: Mapping[str, float]) -> None:
    """Write ``model.safetensors``, whole or not at all."""
    write_sealed(folder / WEIGHTS_FILE, module_tensors(model), {"step": step, "metrics": dict(metrics)})


def read_model_config(folder: str | os.PathLike[str]) -> ModelConfigFile:
    """Read and check ``model_config.json``.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no model, or one of another format version.
        VerificationError: the file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no model folder at {folder}; train one with 'tokenize-kit train transformer'")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not a model folder: it has no {CONFIG_FILE}")
    values = read_signed(path)
    if values.get("format_version") != FORMAT_VERSION or values.get("kind") != "autoregressive":
        raise ValueError(
            f"{path} is {values.get('kind')!r} with format version {values.get('format_version')!r}, this tokenize-kit reads "
            f"'autoregressive' {FORMAT_VERSION}"
        )
    try:
        texts = values["templates"] if "templates" in values else [values["template"]]
        first, *others = (SequenceTemplate.parse(text) for text in texts)
        return ModelConfigFile(
            values["family"],
            values["config"],
            first,
            Vocabulary.from_dict(values["vocabulary"]),
            values["fingerprints"],
            values.get("objective", NEXT_TOKEN),
            tuple(others),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationError(f"{path} is damaged: {error!r}; restore it from a copy") from None


def load_model(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> LoadedModel:
    """Load a model folder: the best weights, the template, the vocabulary and the tokenizers.

    A checkpoint (``MODEL/checkpoints/step_00000200``) gives the weights of its step, or their averages where the run keeps them.
    A folder whose training has not reached its first validation gives those of its last checkpoint.

    Raises:
        FileNotFoundError: there is no such folder, or it has no weights yet.
        ValueError: a part does not fit the others.
        VerificationError: a part is not what was written.
    """
    folder = Path(folder)
    checkpoint = None
    if is_checkpoint(folder):
        checkpoint, folder = folder, folder.absolute().parent.parent
        if not (folder / CONFIG_FILE).is_file():
            raise ValueError(f"{checkpoint} is not inside a model folder: {folder} has no {CONFIG_FILE}")
    config = read_model_config(folder)
    tokenizers = {stream: _stream_tokenizer(folder, config, stream) for stream in config.streams}
    model = build_model(config.family, config.config)
    network = cast("nn.Module", model)
    metrics: dict[str, float] = {}
    if checkpoint is not None:
        step = read_checkpoint(checkpoint, network)
    elif not (folder / WEIGHTS_FILE).is_file() and last_checkpoint(folder / CHECKPOINTS) is not None:
        checkpoint, step = _read_last_checkpoint(folder, network)
    else:
        step, metrics = read_weights(folder, network)
    known = config.vocabulary.size + objective_named(config.objective).extra_ids
    if model.config.vocab_size != known:
        raise ValueError(f"{folder} is damaged: the model has {model.config.vocab_size} ids, its vocabulary {known}")
    network.to(device)
    model.eval()
    return LoadedModel(
        model,
        config.template,
        config.vocabulary,
        tokenizers,
        step,
        metrics,
        read_preparation(folder),
        _note_of(folder, step, checkpoint),
        config.templates,
        read_preparations(folder),
    )


def read_preparation(folder: Path) -> Preparation:
    """Return how the samples were prepared that a model was trained on; the default for folders from before it was kept.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return Preparation()
    values = read_signed(path)
    try:
        return Preparation.of_options(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_preparations(folder: Path) -> dict[str, Preparation]:
    """Return the same for the streams of which more is known.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return {}
    try:
        return {name: Preparation.of_options(one) for name, one in read_signed(path).get("streams", {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_checkpoint(checkpoint: Path, model: nn.Module) -> int:
    """Put the weights of a checkpoint into ``model``; return their step.

    Raises:
        ValueError: it is damaged, or of a model of another configuration.
    """
    tensors, state = load_weights(checkpoint, NETWORK)
    prefix = f"{NETWORK}."
    load_module(model, {name.removeprefix(prefix): value for name, value in tensors.items()}, checkpoint)
    return int(state["step"])


def _read_last_checkpoint(folder: Path, model: nn.Module) -> tuple[Path, int]:
    """Read the last checkpoint of a run that may be going on: it puts a new one in the place of the one that is being read."""
    while True:
        checkpoint = last_checkpoint(folder / CHECKPOINTS)
        assert checkpoint is not None, "a run that has a checkpoint always has one"
        try:
            return checkpoint, read_checkpoint(checkpoint, model)
        except (ValueError, OSError):
            if checkpoint.exists():
                raise


def _note_of(folder: Path, step: int, checkpoint: Path | None) -> str:
    """Return what is to be said of weights that are not the result of a finished training."""
    made, steps = run_position(folder)
    if checkpoint is not None:
        return f"the weights are those of step {step:,} of {steps:,}, from {checkpoint}" if steps else ""
    if made < steps:
        return f"the training in {folder} is not finished (step {made:,} of {steps:,}); these are its weights of step {step:,}"
    return ""


def read_weights(folder: Path, model: nn.Module) -> tuple[int, dict[str, float]]:
    """Put the weights of a model folder into ``model``; return their step and metrics.

    Raises:
        FileNotFoundError: training has not reached its first validation.
        ValueError: the file is of a model of another configuration.
        VerificationError: it is damaged.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS_FILE} yet; its training has not reached the first validation"
        )
    load_module(model, read_tensors(path), path)
    training = read_training(path)
    try:
        return int(training["step"]), dict(training["metrics"])
    except (KeyError, ValueError, TypeError) as error:
        raise VerificationError(f"{path} is damaged: its metadata lacks the step and metrics ({error})") from None


def check_model_folder(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Check that a model folder is what was written, without building the model.

    Returns:
        What was checked and what was found, by file or folder; and what could not be checked, because it is from before there
        were sums.

    Raises:
        FileNotFoundError, ValueError, VerificationError: as `load_model`.
    """
    config = read_model_config(folder)
    found = {CONFIG_FILE: f"{config.family}, {', '.join(map(str, config.templates))}"}
    before = "carries no digest of itself: it is from before such files did"
    notes = [] if is_signed(folder / CONFIG_FILE) else [f"{folder / CONFIG_FILE} {before}"]
    for stream in config.streams:
        found[f"{TOKENIZERS}/{stream}"] = _stream_tokenizer(folder, config, stream).fingerprint
    if (folder / RECIPE_FILE).is_file():
        prepared = [*read_preparation(folder).to_dict().items()]
        for stream, one in read_preparations(folder).items():
            prepared += [(f"{stream}: {name}", value) for name, value in one.to_dict().items()]
        found[RECIPE_FILE] = ", ".join(f"{name} {value}" for name, value in prepared)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        notes.append(f"{folder} has no {WEIGHTS_FILE} yet: its training has not reached the first validation")
    else:
        if not check_seal(path):
            notes.append(f"{path} {before}")
        found[WEIGHTS_FILE] = f"step {read_training(path).get('step')}"
    return found, notes


def _stream_tokenizer(folder: Path, config: ModelConfigFile, stream: str) -> Tokenizer:
    path = folder / TOKENIZERS / stream
    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint != config.fingerprints.get(stream):
        raise VerificationError(f"{path} is not the tokenizer that the model was trained with; restore it from a copy")
    return tokenizer
