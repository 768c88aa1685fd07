"""``train audio``: from sounds to a tokenizer folder. The work is that of `data`, `task` and `trainers.loop`.

The module loads no torch until it is called, so that a command line can show its options at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.autoencoder.audio.options import TrainAudioOptions
from trainers.autoencoder.runs import DATA, HELD_OUT, claimed, identity_of, split, spread, trained

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.tokenizers.learned.audio.config import CodecNetworkConfig
    from tokenize_kit.tokenizers.learned.audio.model import Codec
    from trainers.autoencoder.audio.config import AudioRecipe
    from trainers.autoencoder.audio.data import Sounds
    from trainers.autoencoder.audio.task import CodecTask
    from trainers.runtime import Runtime

_IDENTITY = (
    *("data", "crop_seconds", "silence_db", "batch_size", "validation_fraction", "validation_data"),
    *("validation_sounds", "validation_seconds", "media_field", "init_from"),
)
"""The options that determine the result, besides those of the loop."""


@dataclass(frozen=True)
class TrainAudioResult:
    """What a training made."""

    out: str
    """The tokenizer's folder."""
    fingerprint: str
    """The tokenizer's fingerprint."""
    parameters: int
    """Trainable parameters of encoder, quantizer and decoder."""
    sample_rate: int
    """Samples a second of the sounds that it codes."""
    hop: int
    """Samples that one step of the ids covers."""
    vocab_size: list[int]
    """Codes of each codebook."""
    bits_per_second: float
    """What the ids of a second of sound need when every code is stored alike."""
    sounds: int
    """Sounds that were trained on."""
    hours: float
    """How long they are."""
    validation_sounds: int
    """Sounds that were held out and measured."""
    steps: int
    """Steps made in all."""
    epochs: float
    """How often all of the sound was heard."""
    resumed_from: int
    """The step from which this call continued; the last one if it had nothing to do."""
    best_step: int
    """The step of the weights that were kept."""
    metrics: dict[str, float]
    """The validation at that step; empty if nothing is held out."""


def train_audio(options: TrainAudioOptions, progress: Progress | None = None) -> TrainAudioResult:
    """Train a neural audio codec on sounds, or continue the run that ``options.out`` holds.

    Raises:
        FileNotFoundError: there are no sounds.
        ValueError: the options do not fit together, the sounds, or the run in ``options.out``; or training broke down.
        TooManyFailuresError: more than ``options.max_failures`` sounds cannot be read.
    """
    import math

    from tokenize_kit.tokenizers.learned.audio.tokenizer import CodecTokenizer
    from trainers.autoencoder.audio.config import audio_recipe
    from trainers.runtime import start

    chosen = audio_recipe(
        options.preset,
        options.size,
        sample_rate=options.sample_rate,
        channels=options.channels,
        network=options.network.given(),
        quantizer=options.quantizer.given(),
        loss=options.loss.given(),
        optimizer=options.optimizer.given(),
    )
    network, out = chosen.model.network, Path(options.out)
    runtime = start(options)
    parts = {**chosen.model.to_dict(), "loss": asdict(chosen.loss), "optimizer": asdict(chosen.optimizer)}
    identity = identity_of("train audio", options, _IDENTITY, parts)
    task = claimed(out, identity, runtime, lambda: _task(options, chosen, runtime, progress))
    model, data = task.model, task.data
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    sizes = list(model.quantizer.codebook_sizes)
    bits, hours = network.rate * sum(map(math.log2, sizes)), data.samples / network.sample_rate / 3600
    if progress is not None and runtime.rank == 0:
        codes = f"{len(sizes)} x {sizes[0]:,} codes" if len(sizes) > 1 else f"{sizes[0]:,} codes"
        progress.note(
            f"{parameters:,} parameters, {codes} {network.rate:.4g} times a second: {bits / 1000:.2f} kbit/s; pieces of "
            f"{data.cropping.length / network.sample_rate:.3g} s from {len(data.chosen):,} sounds ({hours:.2f} hours), "
            f"{len(task.held_out):,} held out, {runtime.device.type} {runtime.precision}"
        )
    result, tokenizer = trained(task, model, options, runtime, out, lambda: CodecTokenizer(model), progress)
    return TrainAudioResult(
        str(out),
        tokenizer.fingerprint,
        parameters,
        network.sample_rate,
        network.hop,
        sizes,
        bits,
        len(data.chosen),
        hours,
        len(task.held_out),
        result.step,
        data.epoch(result.step * options.accumulate),
        result.resumed_from,
        result.best_step,
        result.best_metrics,
    )


def _task(options: TrainAudioOptions, chosen: AudioRecipe, runtime: Runtime, progress: Progress | None) -> CodecTask:
    """Decode the sounds, build the networks, and put them together."""
    import torch

    from tokenize_kit.tokenizers.learned.audio.model import Codec
    from trainers.autoencoder.audio.data import Cropping, SoundBatches
    from trainers.autoencoder.audio.task import CodecTask
    from trainers.autoencoder.base import Plan

    network = chosen.model.network
    sounds = source = _sounds(options, network, options.data, DATA, runtime, progress)
    elsewhere = bool(options.validation_data)
    trained_on, validation = split(
        sounds.fractions, options.validation_fraction, elsewhere, options.validation_sounds, "sounds"
    )
    if elsewhere:
        source = _sounds(options, network, options.validation_data, HELD_OUT, runtime, progress)
        validation = spread(range(len(source)), options.validation_sounds)
    most = round(options.validation_seconds * network.sample_rate)
    held_out = [torch.from_numpy(source.part(number, 0, most)) for number in validation]
    cropping = Cropping(max(1, round(options.crop_seconds * network.rate)) * network.hop, options.silence_db)
    data = SoundBatches(sounds, trained_on, cropping, options.batch_size, options.seed, runtime.rank, runtime.world)
    with torch.random.fork_rng([]):
        torch.manual_seed(options.seed)
        model = Codec(chosen.model)
        if options.init_from is not None:
            _begin_with(model, options.init_from)
        plan = Plan(options.steps, Path(options.out), options.usage_floor, options.on_collapse == "stop")
        return CodecTask(model, chosen, data, held_out, plan)


def _sounds(
    options: TrainAudioOptions,
    network: CodecNetworkConfig,
    data: tuple[str, ...],
    name: str,
    runtime: Runtime,
    progress: Progress | None,
) -> Sounds:
    from tokenize_kit.shards import ShardSet
    from tokenize_kit.tokenizers.audio.pcm import PCMTokenizer
    from trainers.autoencoder.audio.data import Sounds, prepare

    folder = Path(options.sounds or options.out) / name
    if runtime.rank == 0:
        prepare(options, data, folder, PCMTokenizer(network.sample_rate, network.channels), progress)
    runtime.fabric.barrier()
    return Sounds(ShardSet.open(folder))


def _begin_with(model: Codec, folder: str) -> None:
    from tokenize_kit.tokenizers.learned.audio.model import load_folded
    from tokenize_kit.tokenizers.learned.audio.tokenizer import CodecTokenizer

    other = CodecTokenizer.load(folder)
    try:
        load_folded(model, other.model)
    except ValueError:
        raise ValueError(
            f"--init-from {folder} has another configuration than this run; give the same options"
        ) from None
