"""``train audio``: from sounds to a tokenizer folder. What is particular to sounds in `trainers.autoencoder.run`.

The module loads no torch until it is called, so that a command line can show its options at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenize_kit.tokenizers.learned.audio.config import CodecConfig, CodecNetworkConfig
from trainers.autoencoder.audio.config import AudioRecipe, audio_recipe
from trainers.autoencoder.audio.options import TrainAudioOptions
from trainers.autoencoder.run import TokenizerRun

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.progress import Progress
    from tokenize_kit.tokenizers.learned.audio.model import Codec
    from tokenize_kit.tokenizers.learned.audio.tokenizer import CodecTokenizer
    from trainers.autoencoder.audio.data import SoundBatches, Sounds
    from trainers.autoencoder.audio.task import CodecTask
    from trainers.autoencoder.data import Ints
    from trainers.autoencoder.task import Plan
    from trainers.runtime import Runtime


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
    run = AudioRun(options, progress)
    made = run.run()
    return TrainAudioResult(
        **made.told(),
        sample_rate=run.network.sample_rate,
        hop=run.network.hop,
        bits_per_second=run.bits_per_second(made.vocab_size),
        sounds=made.samples,
        hours=run.hours,
        validation_sounds=made.held_out,
    )


class AudioRun(TokenizerRun[TrainAudioOptions, CodecConfig, "Sounds", "SoundBatches"]):
    """Trains a neural audio codec on sounds."""

    command = "train audio"
    parts = (
        "tokenize_kit.tokenizers.learned.audio.config:CodecConfig",
        "tokenize_kit.tokenizers.learned.audio.model:Codec",
        "tokenize_kit.tokenizers.learned.audio.tokenizer:CodecTokenizer",
    )
    samples = "sounds"
    names = (
        *("data", "crop_seconds", "silence_db", "batch_size", "validation_fraction", "validation_data"),
        *("validation_sounds", "validation_seconds", "media_field", "init_from"),
    )
    hours = 0.0
    """How long the sounds are that are trained on; known when they are decoded."""

    @property
    def network(self) -> CodecNetworkConfig:
        """The codec's network."""
        return self.recipe.model.network

    @property
    def most(self) -> int:
        """The most held-out sounds that a validation takes."""
        return self.options.validation_sounds

    @property
    def shared(self) -> str | None:
        """Folder for the decoded sounds, if it is not that of the run."""
        return self.options.sounds

    def bits_per_second(self, sizes: Sequence[int]) -> float:
        """Return what the ids of a second of sound need when every code is stored alike."""
        return self.network.rate * sum(map(math.log2, sizes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a batch of pieces of sound, (B, C, N)."""
        options, network = self.options, self.network
        length = max(1, round(options.crop_seconds * network.rate)) * network.hop
        return options.batch_size, network.channels, length

    @property
    def burden(self) -> str:
        """What memory is needed for, and what to lower."""
        return (
            f"a batch is {self.options.batch_size:,} pieces of {self.options.crop_seconds:g} seconds; lower --batch-size "
            "(and raise --accumulate by as much), --crop-seconds, or the network (--size, --network.width)"
        )

    def chosen(self) -> AudioRecipe:
        """Return the preset with what the options change.

        Raises:
            ValueError: the options do not fit together.
        """
        options = self.options
        return audio_recipe(
            options.preset,
            options.size,
            sample_rate=options.sample_rate,
            channels=options.channels,
            network=options.network.given(),
            quantizer=options.quantizer.given(),
            loss=options.loss.given(),
            optimizer=options.optimizer.given(),
        )

    def decode(self, data: tuple[str, ...], folder: Path) -> None:
        """Decode sounds into a shard set in ``folder``."""
        from tokenize_kit.tokenizers.audio.pcm import PCMTokenizer
        from trainers.autoencoder.audio.data import prepare

        tokenizer = PCMTokenizer(self.network.sample_rate, self.network.channels)
        prepare(self.options, data, folder, tokenizer, self.progress)

    def opened(self, folder: Path, data: tuple[str, ...]) -> Sounds:  # noqa: ARG002
        """Return decoded sounds; all of them fit."""
        from tokenize_kit.shards import ShardSet
        from trainers.autoencoder.audio.data import Sounds

        return Sounds(ShardSet.open(folder, self.options.trust_shards))

    def held_out(self, source: Sounds, numbers: Sequence[int]) -> list[Tensor]:
        """Return the beginnings of sounds to measure on."""
        import torch

        most = round(self.options.validation_seconds * self.network.sample_rate)
        return [torch.from_numpy(source.part(number, 0, most)) for number in numbers]

    def batches(self, source: Sounds, chosen: Ints, runtime: Runtime) -> SoundBatches:
        """Return the training batches of this process."""
        from trainers.autoencoder.audio.data import Cropping, SoundBatches

        options, network = self.options, self.network
        cropping = Cropping(self.shape[2], options.silence_db)
        data = SoundBatches(source, chosen, cropping, options.batch_size, options.seed, runtime.rank, runtime.world)
        self.hours = data.samples / network.sample_rate / 3600
        return data

    def model(self) -> Codec:
        """Return a fresh codec."""
        from tokenize_kit.tokenizers.learned.audio.model import Codec

        return Codec(self.recipe.model)

    def begin_with(self, model: Codec, folder: str) -> None:
        """Give a codec the weights of a tokenizer folder.

        Raises:
            ValueError: that tokenizer has another configuration.
        """
        from tokenize_kit.protocol import load_tokenizer, read_config_of
        from tokenize_kit.tokenizers.learned.audio.model import load_folded
        from tokenize_kit.tokenizers.learned.audio.tokenizer import NAME, CodecTokenizer

        read_config_of(folder, NAME)
        other = load_tokenizer(folder)
        assert isinstance(other, CodecTokenizer)
        try:
            load_folded(model, other.model)
        except ValueError:
            raise ValueError(
                f"--init-from {folder} has another configuration than this run; give the same options"
            ) from None

    def task(self, model: Codec, data: SoundBatches, held_out: Sequence[Tensor], plan: Plan) -> CodecTask:
        """Return what the loop trains."""
        from trainers.autoencoder.audio.task import CodecTask

        return CodecTask(model, self.recipe, data, held_out, plan)

    def tokenizer(self, model: Codec) -> CodecTokenizer:
        """Return the tokenizer of a trained codec."""
        from tokenize_kit.tokenizers.learned.audio.tokenizer import CodecTokenizer

        return CodecTokenizer(model)

    def note(self, sizes: Sequence[int], data: SoundBatches) -> str:
        """Return how many codes there are how often, how long the crops are, and how many sounds."""
        network = self.network
        codes = f"{len(sizes)} x {sizes[0]:,} codes" if len(sizes) > 1 else f"{sizes[0]:,} codes"
        return (
            f"{codes} {network.rate:.4g} times a second: {self.bits_per_second(sizes) / 1000:.2f} kbit/s; pieces of "
            f"{data.cropping.length / network.sample_rate:.3g} s from {len(data.chosen):,} sounds ({self.hours:.2f} hours)"
        )
