"""Options of ``train audio``, as plain data that a command line can read without loading torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tokenize_kit.tokenizers.learned.audio.config import CodecNetworkConfig
from trainers.autoencoder.audio.config import AudioLossConfig
from trainers.autoencoder.options import RunOptions, SourceOptions
from trainers.overrides import Overrides


class CodecNetworkOverrides(Overrides, of=CodecNetworkConfig, without=("sample_rate", "channels")):
    """Parts of the network; see `CodecNetworkConfig`. None keeps the preset's value, or
    with another body than the preset's the default of that body.
    """


class AudioLossOverrides(Overrides, of=AudioLossConfig):
    """Weights and starts of the losses; see `trainers.autoencoder.audio.config.AudioLossConfig`. None keeps the preset's."""


@dataclass(frozen=True, kw_only=True)
class SoundOptions(SourceOptions):
    """Which sounds a codec learns from, and which codec it is."""

    data: tuple[str, ...]
    """What to read: files, folders, globs or fsspec URLs of sounds (wav, flac, ogg, mp3, m4a, g722, sound tracks of videos), tar
    and parquet."""
    preset: Literal["soundstream", "encodec", "dac"] = "dac"
    """Recipe of a paper: soundstream and encodec are causal and can code a sound while it goes on, dac looks ahead."""
    size: Literal["tiny", "base"] = "tiny"
    """tiny learns in minutes on a CPU, base is the paper's network."""
    sample_rate: int | None = None
    """Samples a second; sounds of another rate are converted. None takes the preset's: tiny 16000; base 24000, dac 44100."""
    channels: Literal[1, 2] = 1
    """1 mono, 2 stereo; sounds of other channels are converted."""
    crop_seconds: float = 0.5
    """Seconds of the pieces that are trained on, rounded to whole steps of the ids (DAC: 0.38)."""
    silence_db: float | None = -60.0
    """Pieces below this loudness (root mean square, dB of full scale) are drawn again, up to three times; None takes all."""
    network: CodecNetworkOverrides = field(default_factory=CodecNetworkOverrides)
    """Parts of the network that shall differ from the preset."""
    loss: AudioLossOverrides = field(default_factory=AudioLossOverrides)
    """Losses that shall differ from the preset."""
    batch_size: int = 24
    """Pieces of a batch on each device."""
    validation_sounds: int = 32
    """The most held-out sounds that a validation listens to."""
    validation_seconds: float = 10.0
    """How much of each, from its beginning."""
    sounds: str | None = None
    """Folder for the decoded sounds, which runs on the same data may share; by default one inside out."""


@dataclass(frozen=True, kw_only=True)
class TrainAudioOptions(RunOptions, SoundOptions):
    """Train a neural audio codec on sounds: a tokenizer. The same command continues a run that was stopped."""

    summary: ClassVar[str] = "train a neural audio codec (SoundStream, EnCodec, DAC) on sounds"
    examples: ClassVar[tuple[str, ...]] = (
        "train audio --data recordings --out tokenizers/speech",
        "train audio --data recordings --preset encodec --crop-seconds 2 --steps 5000 --out tokenizers/streaming",
        "train audio --data music --preset dac --size base --channels 2 --device cuda --out tokenizers/music",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_learned("batch_size", "validation_sounds")
        for name in ("crop_seconds", "validation_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be a number above 0")
        if self.silence_db is not None and not self.silence_db < 0:
            raise ValueError(f"--silence-db {self.silence_db} must be below 0 (full scale), or None")
