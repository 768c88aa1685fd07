"""Options of ``train audio``, as plain data that a command line can read without loading torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from trainers.autoencoder.image.options import LearnedOptions, Overrides
from trainers.config import LoopConfig


@dataclass(frozen=True)
class CodecNetworkOverrides(Overrides):
    """Parts of the network; see `CodecNetworkConfig`. None keeps the preset's value, or
    with another body than the preset's the default of that body.
    """

    body: Literal["strided", "frames"] | None = None
    """strided: convolutions on the waveform; frames: windows of the Fourier transform, much less work."""
    causal: bool | None = None
    """No convolution sees what comes later."""
    weight_norm: bool | None = None
    """Train length and direction of the weights apart."""
    width: int | None = None
    """The one dial for the size."""
    latent_channels: int | None = None
    """Channels on both sides of the quantizer."""
    decoder_width: int | None = None
    """The same as width in the decoder; strided."""
    strides: tuple[int, ...] | None = None
    """How much slower each level is than the one before; strided."""
    kernel: int | None = None
    """Places that the first and the last convolution see; strided."""
    latent_kernel: int | None = None
    """Places that the convolution into the latent sees; strided."""
    residual_kernel: int | None = None
    """Places that a residual unit sees; strided."""
    dilations: tuple[int, ...] | None = None
    """Distances between those places, one residual unit each; strided."""
    compression: int | None = None
    """How many times fewer channels there are inside a residual unit; strided."""
    activation: Literal["elu", "snake"] | None = None
    """The nonlinearity; strided."""
    lstm_layers: int | None = None
    """Layers of an LSTM at the rate of the ids; strided."""
    window: int | None = None
    """Samples of a window; frames."""
    frame_hop: int | None = None
    """Samples from one window to the next; frames."""
    factor: int | None = None
    """Windows for each id; frames."""
    encoder_blocks: tuple[int, int] | None = None
    """Blocks of the encoder at the rate of the windows and at that of the ids; frames."""
    decoder_blocks: tuple[int, int] | None = None
    """Blocks of the decoder at the rate of the ids and at that of the windows; frames."""
    block: Literal["convolution", "convnext"] | None = None
    """A convolution of all channels, or one of each channel by itself; frames."""
    block_kernel: int | None = None
    """Places that a block sees; frames."""
    expansion: int | None = None
    """How many times more channels there are inside a block; frames."""


@dataclass(frozen=True)
class AudioLossOverrides(Overrides):
    """Weights and starts of the losses; see `trainers.autoencoder.audio.config.AudioLossConfig`. None keeps the preset's."""

    mel_weight: float | None = None
    """Weight of the mel distance."""
    waveform: Literal["l1", "l2"] | None = None
    """Absolute or squared error of the samples."""
    waveform_weight: float | None = None
    """Weight of that error."""
    stft_weight: float | None = None
    """Weight of the multi-resolution STFT distance."""
    commitment_weight: float | None = None
    """Weight of the commitment loss."""
    codebook_weight: float | None = None
    """Weight of the codebook loss."""
    entropy_weight: float | None = None
    """Weight of the entropy loss."""
    discriminator: Literal["none", "least-squares", "hinge"] | None = None
    """Train against discriminators of periods and of spectra with this loss."""
    discriminator_weight: float | None = None
    """Weight of the generator loss."""
    feature_matching_weight: float | None = None
    """Weight of the distance between the discriminators' features."""
    feature_matching: Literal["absolute", "relative"] | None = None
    """That distance as it is, or relative to the size of the features."""
    discriminator_start: float | None = None
    """Part of the run after which the discriminators set in."""
    discriminator_ramp: float | None = None
    """Part of the run over which their weights rise."""
    discriminator_learning_rate: float | None = None
    """Their peak learning rate."""
    discriminator_network: Literal["dac", "encodec", "tiny"] | None = None
    """Which they are; tiny is dac for CPUs."""
    discriminator_width: int | None = None
    """Channels of their first layers."""
    balancer: bool | None = None
    """Scale the gradients of all terms on the sound to one size (EnCodec)."""
    quantizer_start: float | None = None
    """Part of the run before which the decoder sees the latents as they are."""


@dataclass(frozen=True, kw_only=True)
class SoundOptions:
    """Which sounds a codec learns from, and which codec it is."""

    data: tuple[str, ...]
    """What to read: files, folders, globs or fsspec URLs of sounds (wav, flac, ogg, mp3, m4a, g722, sound tracks of videos), tar
    and parquet."""
    out: str
    """Folder of the run; when it is finished it is the tokenizer."""
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
class TrainAudioOptions(LoopConfig, LearnedOptions, SoundOptions):
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
