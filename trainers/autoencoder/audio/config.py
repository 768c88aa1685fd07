"""The losses of a neural audio codec in one flat place, and the recipes of the field as presets.

Only the standard library is imported, so that a command line can show every option at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tokenize_kit.tokenizers.learned.audio.config import CodecConfig, CodecNetworkConfig
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig
from trainers.autoencoder.config import Recipe
from trainers.config import OptimizerConfig
from trainers.overrides import changed


@dataclass(frozen=True)
class AudioLossConfig:
    """What a codec is trained for. A weight of 0 leaves a term out."""

    mel_weight: float = 15.0
    """Weight of the mel distance over seven scales (DAC: 15)."""
    waveform: Literal["l1", "l2"] = "l1"
    """Absolute or squared error of the samples."""
    waveform_weight: float = 0.0
    """Weight of that error (EnCodec: 0.1, balanced)."""
    stft_weight: float = 0.0
    """Weight of the multi-resolution STFT distance."""
    commitment_weight: float = 0.25
    """Weight of the commitment loss, which holds the encoder near the codes (DAC: 0.25)."""
    codebook_weight: float = 1.0
    """Weight of the codebook loss, where codes learn by gradient."""
    entropy_weight: float = 0.1
    """Weight of the entropy loss of lfq, bsq and gumbel."""
    discriminator: Literal["none", "least-squares", "hinge"] = "none"
    """Train against discriminators of periods and of spectra with this loss."""
    discriminator_weight: float = 1.0
    """Weight of the generator loss (DAC: 1; EnCodec: 4, balanced)."""
    feature_matching_weight: float = 0.0
    """Weight of the distance between the discriminators' features (DAC: 2; EnCodec: 4, balanced)."""
    feature_matching: Literal["absolute", "relative"] = "absolute"
    """That distance as it is, summed over all layers (HiFi-GAN, DAC), or relative to the size of the features (EnCodec)."""
    discriminator_start: float = 0.0
    """Part of the run after which the discriminators set in."""
    discriminator_ramp: float = 0.0
    """Part of the run over which the weights of the generator loss and of the features rise to their full values."""
    discriminator_learning_rate: float = 2e-4
    """Peak learning rate of the discriminators; its schedule is that of the codec."""
    discriminator_network: Literal["dac", "encodec", "tiny"] = "dac"
    """Which discriminators: dac has five periods and three windows in five bands, encodec five windows; tiny is dac for CPUs."""
    discriminator_width: int | None = None
    """Channels of the discriminators' first layers, their one dial for the size; None: 32, tiny 4."""
    balancer: bool = False
    """Scale the gradients of all terms on the sound to one size, so that a weight is a term's part of the whole (EnCodec)."""
    quantizer_start: float = 0.0
    """Part of the run before which the decoder sees the latents as they are; the codebooks then begin with latents that mean
    something."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_weight") and value < 0:
                raise ValueError(f"loss {name} {value} must not be negative")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"loss {name} {getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name in ("discriminator_start", "discriminator_ramp", "quantizer_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"loss {name} {getattr(self, name)} is a part of the run and must be in [0, 1]")
        if self.quantizer_start == 1:
            raise ValueError("loss quantizer_start 1.0 would never train the codebooks; it must be below 1")
        if self.discriminator_learning_rate <= 0:
            raise ValueError(f"loss discriminator_learning_rate {self.discriminator_learning_rate} must be positive")
        if self.discriminator_width is not None and self.discriminator_width < 1:
            raise ValueError(f"loss discriminator_width {self.discriminator_width} must be at least 1")
        if not self.mel_weight + self.waveform_weight + self.stft_weight > 0:
            raise ValueError("one of the loss mel_weight, waveform_weight and stft_weight must be above 0")
        if self.discriminator == "none" and self.feature_matching_weight:
            raise ValueError(
                f"loss feature_matching_weight {self.feature_matching_weight} needs a discriminator "
                "(--loss.discriminator least-squares)"
            )
        if self.discriminator != "none" and not self.discriminator_weight + self.feature_matching_weight > 0:
            raise ValueError(
                "a discriminator teaches nothing with a loss discriminator_weight and feature_matching_weight of 0; leave it out "
                "with --loss.discriminator none"
            )


_CHOICES = {
    "waveform": ("l1", "l2"),
    "discriminator": ("none", "least-squares", "hinge"),
    "discriminator_network": ("dac", "encodec", "tiny"),
    "feature_matching": ("absolute", "relative"),
}


AudioRecipe: TypeAlias = Recipe[CodecConfig, AudioLossConfig]
"""All that a preset of sounds says."""

_Parts = dict[str, dict[str, Any]]

_TINY: _Parts = {
    # 16 kHz, 50 steps of the ids a second, 12 codebooks of 10 bits: 6 kbit/s.
    "network": {"body": "frames", "sample_rate": 16_000, "window": 640, "frame_hop": 160, "factor": 2},
    # Lookup on the sphere; codes below half of an equal share are replaced, or a short run leaves most of them behind.
    "quantizer": {
        "kind": "rvq",
        "codebooks": 12,
        "codebook_size": 1024,
        "codebook_dim": 8,
        "l2_normalised": True,
        "dead_code_threshold": 0.5,
        "quantizer_dropout": 0.2,
    },
    # The waveform's weight buys phases (SI-SDR) early at no cost in mel distance.
    "loss": {"mel_weight": 1.0, "waveform_weight": 4.0, "discriminator_network": "tiny"},
    "optimizer": {
        "optimizer": "muon",
        "learning_rate": 1.6e-2,
        "weight_decay": 0.01,
        "warmup_steps": 50,
        "decay_fraction": 0.7,
    },
}
"""What all presets have in common in the tiny size: a network at the rate of frames, which learns in minutes on a CPU."""

_TINY_PRESETS: dict[str, _Parts] = {
    "soundstream": {"network": {"causal": True}},
    "encodec": {"network": {"causal": True}},
    "dac": {"network": {"causal": False}},
}

_BASE_PRESETS: dict[str, _Parts] = {
    # Zeghidour et al. 2021: 24 kHz, 75 steps a second, 8 codebooks of 1024 in moving averages: 6 kbit/s; quantizer dropout; hinge
    # loss. Its weights of features (100) and spectra (1) belong to sums where ours are means, so those are DAC's.
    "soundstream": {
        "network": {
            "body": "strided",
            "sample_rate": 24_000,
            "causal": True,
            "width": 32,
            "strides": (2, 4, 5, 8),
            "latent_channels": 512,
            "latent_kernel": 3,
            "residual_kernel": 7,
            "dilations": (1, 3, 9),
            "compression": 1,
            "lstm_layers": 0,
        },
        "quantizer": {"kind": "rvq", "codebooks": 8, "codebook_size": 1024, "quantizer_dropout": 0.5},
        "loss": {
            "discriminator": "hinge",
            "discriminator_weight": 1.0,
            "feature_matching_weight": 2.0,
            "mel_weight": 15.0,
        },
        "optimizer": {"learning_rate": 1e-4, "beta1": 0.5, "beta2": 0.9, "weight_decay": 0.0, "schedule": "cosine"},
    },
    # Defossez et al. 2022: 24 kHz, 75 steps a second, 8 codebooks of 1024 at 6 kbit/s; adversarial 4, features 4, waveform 0.1,
    # mel 2, balanced, the commitment beside them; Adam at 3e-4 with (0.5, 0.9).
    "encodec": {
        "network": {
            "body": "strided",
            "sample_rate": 24_000,
            "causal": True,
            "weight_norm": True,
            "width": 32,
            "strides": (2, 4, 5, 8),
            "latent_channels": 128,
            "lstm_layers": 2,
        },
        "quantizer": {"kind": "rvq", "codebooks": 8, "codebook_size": 1024, "quantizer_dropout": 0.5},
        "loss": {
            "balancer": True,
            "mel_weight": 2.0,
            "waveform": "l1",
            "waveform_weight": 0.1,
            "discriminator": "hinge",
            "discriminator_weight": 4.0,
            "feature_matching_weight": 4.0,
            "feature_matching": "relative",
            "discriminator_network": "encodec",
            "discriminator_learning_rate": 3e-4,
            "commitment_weight": 1.0,
        },
        "optimizer": {"learning_rate": 3e-4, "beta1": 0.5, "beta2": 0.9, "weight_decay": 0.0, "schedule": "cosine"},
    },
    # Kumar et al. 2023: 44.1 kHz, 86 steps a second, 9 codebooks of 1024, looked up in 8 dimensions on the sphere: 8 kbit/s;
    # dropout 0.5; mel 15, features 2, adversarial 1, commitment 0.25, codebook 1; AdamW (0.8, 0.99) at 1e-4, falling to a fifth.
    "dac": {
        "network": {
            "body": "strided",
            "sample_rate": 44_100,
            "causal": False,
            "weight_norm": True,
            "width": 64,
            "decoder_width": 96,
            "strides": (2, 4, 8, 8),
            "latent_channels": 1024,
            "latent_kernel": 3,
            "residual_kernel": 7,
            "dilations": (1, 3, 9),
            "compression": 1,
            "activation": "snake",
            "lstm_layers": 0,
        },
        "quantizer": {
            "kind": "rvq",
            "codebooks": 9,
            "codebook_size": 1024,
            "codebook_dim": 8,
            "l2_normalised": True,
            "codebook_update": "gradient",
            "quantizer_dropout": 0.5,
        },
        "loss": {
            "mel_weight": 15.0,
            "discriminator": "least-squares",
            "discriminator_weight": 1.0,
            "feature_matching_weight": 2.0,
            "discriminator_learning_rate": 1e-4,
        },
        "optimizer": {
            "learning_rate": 1e-4,
            "beta1": 0.8,
            "beta2": 0.99,
            "weight_decay": 0.01,
            "schedule": "cosine",
            "final_fraction": 0.2,
        },
    },
}
"""The papers' values."""

PRESETS = tuple(_BASE_PRESETS)
SIZES = ("tiny", "base")


def audio_recipe(
    preset: str,
    size: str = "tiny",
    *,
    sample_rate: int | None = None,
    channels: int = 1,
    network: Mapping[str, Any] | None = None,
    quantizer: Mapping[str, Any] | None = None,
    loss: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Any] | None = None,
) -> AudioRecipe:
    """Return a preset with some of its values changed.

    Args:
        preset: one of `PRESETS`.
        size: ``tiny`` or ``base``.
        sample_rate: of the sounds, in Hz; None keeps the preset's.
        channels: of the sounds.
        network: fields of `CodecNetworkConfig` that shall differ; another ``body`` begins with that body's defaults.
        quantizer: fields of `QuantizerConfig` that shall differ; another ``kind`` begins with that kind's defaults.
        loss: fields of `AudioLossConfig` that shall differ.
        optimizer: fields of `OptimizerConfig` that shall differ.

    Raises:
        ValueError: a name is unknown or a value out of range.
    """
    if preset not in PRESETS or size not in SIZES:
        raise ValueError(
            f"no recipe {preset!r} of size {size!r}; presets: {', '.join(PRESETS)}; sizes: {', '.join(SIZES)}"
        )
    layers = (_TINY, _TINY_PRESETS[preset]) if size == "tiny" else (_BASE_PRESETS[preset],)
    parts = {part: {name: value for layer in layers for name, value in layer.get(part, {}).items()} for part in _TINY}
    sound = {"channels": channels, **({} if sample_rate is None else {"sample_rate": sample_rate})}
    model = CodecConfig(
        changed(CodecNetworkConfig, {**parts["network"], **sound}, network, dial="body", kept=_EVERY_BODY),
        changed(QuantizerConfig, parts["quantizer"], quantizer, dial="kind"),
    )
    losses = changed(AudioLossConfig, parts["loss"], loss)
    return Recipe(model, losses, changed(OptimizerConfig, parts["optimizer"], optimizer))


_EVERY_BODY = ("sample_rate", "channels", "causal", "weight_norm")
"""The options of a network that do not depend on its body."""
