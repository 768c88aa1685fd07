"""``train image``: from pictures to a tokenizer folder. The work is that of `data`, `task` and `trainers.loop`.

The module loads no torch until it is called, so that a command line can show its options at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.autoencoder.image.options import TrainImageOptions, check_loss
from trainers.autoencoder.runs import DATA, HELD_OUT, claimed, identity_of, split, trained
from trainers.autoencoder.runs import spread as _spread

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.tokenizers.learned.image.model import Autoencoder
    from trainers.autoencoder.image.config import Recipe
    from trainers.autoencoder.image.data import Pictures
    from trainers.autoencoder.image.task import AutoencoderTask
    from trainers.runtime import Runtime

_IDENTITY = (
    *("data", "image_size", "channels", "crop", "max_scale", "flip", "batch_size", "validation_fraction"),
    *("validation_data", "validation_pictures", "media_field", "init_from"),
)
"""The options that determine the result, besides those of the loop."""


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
    from tokenize_kit.tokenizers.learned.image.tokenizer import AutoencoderTokenizer
    from trainers.autoencoder.image.config import recipe
    from trainers.autoencoder.image.data import check_image_size
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
    parts = {**chosen.model.to_dict(), "loss": asdict(chosen.loss), "optimizer": asdict(chosen.optimizer)}
    identity = identity_of("train image", options, _IDENTITY, parts)
    task = claimed(out, identity, runtime, lambda: _task(options, chosen, runtime, progress))
    model, data = task.model, task.data
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if progress is not None and runtime.rank == 0:
        codes = " x ".join(map(str, model.quantizer.codebook_sizes))
        progress.note(
            f"{parameters:,} parameters, {codes} codes for each {factor}x{factor} pixels; {len(data.chosen):,} pictures, "
            f"{len(task.held_out):,} held out, {runtime.device.type} {runtime.precision}"
        )
    result, tokenizer = trained(task, model, options, runtime, out, lambda: AutoencoderTokenizer(model), progress)
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

    from tokenize_kit.tokenizers.learned.image.model import Autoencoder
    from trainers.autoencoder.base import Plan
    from trainers.autoencoder.image.data import Cutting, PictureBatches
    from trainers.autoencoder.image.task import AutoencoderTask

    factor = chosen.model.network.downsample_factor
    pictures = _pictures(options, options.data, _folder(options, DATA), runtime, progress)
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
            Plan(options.steps, Path(options.out), options.usage_floor, options.on_collapse == "stop"),
        )


def _folder(options: TrainImageOptions, name: str) -> Path:
    return Path(options.pictures or options.out) / name


def _pictures(
    options: TrainImageOptions, data: tuple[str, ...], folder: Path, runtime: Runtime, progress: Progress | None
) -> Pictures:
    from tokenize_kit.shards import ShardSet
    from trainers.autoencoder.image.data import Pictures, prepare

    if runtime.rank == 0:
        prepare(options, data, folder, progress)
    runtime.fabric.barrier()
    return Pictures(ShardSet.open(folder))


def _split(options: TrainImageOptions, pictures: Pictures) -> tuple[Any, list[int]]:
    """Return the numbers of the pictures that are trained on, and of those that are measured.

    Raises:
        ValueError: nothing is left to train on.
    """
    elsewhere = bool(options.validation_data)
    return split(pictures.fractions, options.validation_fraction, elsewhere, options.validation_pictures, "pictures")


def _begin_with(model: Autoencoder, folder: str) -> None:
    from tokenize_kit.tokenizers.learned.image.tokenizer import AutoencoderTokenizer
    from tokenize_kit.weights import load_tensors

    other = AutoencoderTokenizer.load(folder)
    if other.config != model.config:
        raise ValueError(f"--init-from {folder} has another configuration than this run; give the same options")
    load_tensors(model.state_dict(), other.model.state_dict(), folder)
