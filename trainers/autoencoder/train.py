"""``train image``: from pictures to a tokenizer folder. The work is that of `data`, `task` and `trainers.loop`.

The module loads no torch until it is called, so that a command line can show its options at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.errors import MissingWeightsError
from trainers.autoencoder.options import TrainImageOptions, check_loss

if TYPE_CHECKING:
    from tokenize_kit.autoencoder.model import Autoencoder
    from tokenize_kit.progress import Progress
    from trainers.autoencoder.config import Recipe
    from trainers.autoencoder.data import Pictures
    from trainers.autoencoder.task import AutoencoderTask
    from trainers.runtime import Runtime

PICTURES = "data"
"""Where the decoded pictures are inside the folder of a run."""
HELD_OUT = "validation_data"
"""The same of ``validation_data``."""


@dataclass(frozen=True)
class TrainImageResult:
    """What a training made."""

    out: str
    """The tokenizer's folder."""
    fingerprint: str
    """The tokenizer's fingerprint."""
    parameters: int
    """Trainable parameters of encoder, quantizer and decoder."""
    downsample_factor: int
    """Pixels that one id covers along each side."""
    vocab_size: list[int]
    """Codes of each codebook."""
    pictures: int
    """Pictures that were trained on."""
    validation_pictures: int
    """Pictures that were held out and measured."""
    steps: int
    """Steps made in all."""
    epochs: float
    """How often each picture was seen."""
    resumed_from: int
    """The step from which this call continued; the last one if it had nothing to do."""
    best_step: int
    """The step of the weights that were kept."""
    metrics: dict[str, float]
    """The validation at that step; empty if nothing is held out."""


def train_image(options: TrainImageOptions, progress: Progress | None = None) -> TrainImageResult:
    """Train a discrete autoencoder on pictures, or continue the run that ``options.out`` holds.

    Raises:
        FileNotFoundError: there are no pictures.
        ValueError: the options do not fit together, the pictures, or the run in ``options.out``; or training broke down.
        TooManyFailuresError: more than ``options.max_failures`` pictures cannot be read.
    """
    from tokenize_kit.autoencoder.image import AutoencoderTokenizer
    from tokenize_kit.weights import load_tensors, read_tensors
    from trainers.autoencoder.config import recipe
    from trainers.autoencoder.data import check_image_size
    from trainers.autoencoder.task import BEST_FILE
    from trainers.checkpoints import RUN_FILE, claim_folder
    from trainers.loop import run
    from trainers.runtime import start

    chosen = recipe(
        options.preset,
        options.size,
        channels=options.channels,
        network=options.network.given(),
        quantizer=options.quantizer.given(),
        loss=options.loss.given(),
        optimizer=options.optimizer.given(),
    )
    check_loss(chosen.loss, options.channels)
    out = Path(options.out)
    factor = chosen.model.network.downsample_factor
    if options.image_size is not None:
        check_image_size(options.image_size, factor)
    runtime = start(options)
    fresh = not (out / RUN_FILE).exists()
    if runtime.rank == 0:
        # Before anything is read: a folder of another run must not be filled with pictures.
        claim_folder(out, _identity(options, asdict(chosen.model), asdict(chosen.loss), asdict(chosen.optimizer)))
    runtime.fabric.barrier()
    try:
        task = _task(options, chosen, runtime, progress)
    except (ValueError, FileNotFoundError, MissingWeightsError):
        # Nothing has been trained: the corrected command shall not be refused for the options of this one.
        if fresh and runtime.rank == 0:
            _give_up(out)
        raise
    model, data = task.model, task.data
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if progress is not None and runtime.rank == 0:
        codes = " x ".join(map(str, model.quantizer.codebook_sizes))
        progress.note(
            f"{parameters:,} parameters, {codes} codes for each {factor}x{factor} pixels; {len(data.chosen):,} pictures, "
            f"{len(task.held_out):,} held out, {runtime.device.type} {runtime.precision}"
        )
    result = run(task, options, runtime, out, progress)
    load_tensors(model.state_dict(), read_tensors(out / BEST_FILE), out / BEST_FILE)
    tokenizer = AutoencoderTokenizer(model.to("cpu"))
    if runtime.rank == 0:
        tokenizer.save(out)
    runtime.fabric.barrier()
    return TrainImageResult(
        str(out),
        tokenizer.fingerprint,
        parameters,
        factor,
        list(model.quantizer.codebook_sizes),
        len(data.chosen),
        len(task.held_out),
        result.step,
        data.epoch(result.step * options.accumulate),
        result.resumed_from,
        result.best_step,
        result.best_metrics,
    )


def _task(options: TrainImageOptions, chosen: Recipe, runtime: Runtime, progress: Progress | None) -> AutoencoderTask:
    """Decode the pictures, build the networks, and put them together."""
    import torch

    from tokenize_kit.autoencoder.model import Autoencoder
    from trainers.autoencoder.data import Cutting, PictureBatches
    from trainers.autoencoder.task import AutoencoderTask

    factor = chosen.model.network.downsample_factor
    pictures = _pictures(options, options.data, _folder(options, PICTURES), runtime, progress)
    pictures.check_sizes(options.image_size, factor, ", ".join(options.data))
    cutting = Cutting(options.image_size, options.crop, options.max_scale > 1, options.flip)
    trained_on, validation = _split(options, pictures)
    source = pictures
    if options.validation_data:
        source = _pictures(options, options.validation_data, _folder(options, HELD_OUT), runtime, progress)
        source.check_sizes(options.image_size, factor, ", ".join(options.validation_data))
        validation = _spread(range(len(source)), options.validation_pictures)
    held_out = [source.cut(number, cutting, None) for number in validation]
    data = PictureBatches(pictures, trained_on, cutting, options.batch_size, options.seed, runtime.rank, runtime.world)
    with torch.random.fork_rng([]):
        torch.manual_seed(options.seed)
        model = Autoencoder(chosen.model)
        if options.init_from is not None:
            _begin_with(model, options.init_from)
        return AutoencoderTask(
            model,
            chosen,
            data,
            held_out,
            options.steps,
            Path(options.out),
            usage_floor=options.usage_floor,
            stop_on_collapse=options.on_collapse == "stop",
        )


def _give_up(out: Path) -> None:
    """Remove what a run has put into its folder before its first step."""
    import shutil

    from trainers.checkpoints import RUN_FILE

    for name in (PICTURES, HELD_OUT):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / RUN_FILE).unlink(missing_ok=True)


def _folder(options: TrainImageOptions, name: str) -> Path:
    return Path(options.pictures or options.out) / name


def _pictures(
    options: TrainImageOptions, data: tuple[str, ...], folder: Path, runtime: Runtime, progress: Progress | None
) -> Pictures:
    from tokenize_kit.shards import ShardSet
    from trainers.autoencoder.data import Pictures, prepare

    if runtime.rank == 0:
        prepare(options, data, folder, progress)
    runtime.fabric.barrier()
    return Pictures(ShardSet.open(folder))


def _split(options: TrainImageOptions, pictures: Pictures) -> tuple[Any, list[int]]:
    """Return the numbers of the pictures that are trained on, and of those that are measured.

    Raises:
        ValueError: nothing is left to train on.
    """
    import numpy as np

    held = pictures.fractions < options.validation_fraction
    if options.validation_data:
        held[:] = False
    if held.all():
        raise ValueError(
            f"all {len(pictures)} pictures fall into the held-out part; lower --validation-fraction "
            f"{options.validation_fraction}, or name more --data"
        )
    return np.flatnonzero(~held), _spread(np.flatnonzero(held).tolist(), options.validation_pictures)


def _spread(numbers: Any, most: int) -> list[int]:
    """Return at most ``most`` of the numbers, evenly spread."""
    count = len(numbers)
    return [numbers[place * count // most] for place in range(most)] if count > most else list(numbers)


def _begin_with(model: Autoencoder, folder: str) -> None:
    from tokenize_kit.autoencoder.image import AutoencoderTokenizer
    from tokenize_kit.weights import load_tensors

    other = AutoencoderTokenizer.load(folder)
    if other.config != model.config:
        raise ValueError(f"--init-from {folder} has another configuration than this run; give the same options")
    load_tensors(model.state_dict(), other.model.state_dict(), folder)


def _identity(
    options: TrainImageOptions, model: Mapping[str, Any], loss: Mapping[str, Any], optimizer: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what determines the result, by names that the user knows; the pictures prove themselves by their plan."""
    import json

    names = (
        "data",
        "image_size",
        "channels",
        "crop",
        "max_scale",
        "flip",
        "batch_size",
        "validation_fraction",
        "validation_data",
        "validation_pictures",
        "media_field",
        "init_from",
        "steps",
        "accumulate",
        "clip",
        "seed",
        "validate_every",
        "devices",
        "precision",
        "ema",
        "deterministic",
    )
    values = asdict(options)
    chosen = {name: values[name] for name in names}
    # As JSON gives it back: lists instead of tuples.
    identity = {"command": "train image", **chosen, "network": model["network"], "quantizer": model["quantizer"]}
    return dict(json.loads(json.dumps({**identity, "loss": dict(loss), "optimizer": dict(optimizer)})))
