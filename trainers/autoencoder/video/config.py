"""The losses of a video autoencoder in one flat place, and the recipes of the field as presets.

Only the standard library is imported, so that a command line can show every option at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig
from tokenize_kit.tokenizers.learned.video.config import VideoConfig, VideoNetworkConfig
from trainers.autoencoder.config import JudgedLossConfig, Recipe
from trainers.config import OptimizerConfig
from trainers.overrides import changed


@dataclass(frozen=True)
class VideoLossConfig(JudgedLossConfig):
    """What a video autoencoder is trained for. A weight of 0 leaves a term out."""

    l1_weight: float = 1.0
    """Weight of the absolute error of pixels in [-1, 1] (LeanVAE: 4, beside LPIPS 4)."""
    l2_weight: float = 1.0
    """Weight of their squared error, which gives the highest PSNR."""
    low_weight: float = 0.0
    """Weight of the absolute error of the low band of a Haar step, the first frame in space alone (LeanVAE: 0.05)."""
    high_weight: float = 0.0
    """Weight of the same of the high bands (LeanVAE: 0.1)."""
    difference_weight: float = 0.0
    """Weight of the absolute error of the differences of following frames, against flicker; pictures have none."""
    judges: Literal["clips", "frames", "both"] = "clips"
    """Whether the discriminator sees patches of clips, with their motion, of each frame by itself, or there are two of them."""

    choices = JudgedLossConfig.choices | {"judges": ("clips", "frames", "both")}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.l1_weight + self.l2_weight + self.low_weight > 0:
            raise ValueError("one of the loss l1_weight, l2_weight and low_weight must be above 0")


VideoRecipe: TypeAlias = Recipe[VideoConfig, VideoLossConfig]
"""All that a preset of videos says."""

_Parts = dict[str, dict[str, Any]]

NETWORKS: dict[str, dict[str, Any]] = {
    # In the line of LeanVAE (Cheng et al. 2025): all blocks at the resolution of the ids; 2.7 M parameters.
    "tiny": {"body": "latent", "width": 192, "encoder_blocks": 4, "decoder_blocks": 6},
    "small": {"body": "latent", "width": 384, "encoder_blocks": 6, "decoder_blocks": 10, "latent_channels": 128},
    # MAGVIT-v2 (Yu et al. 2024): 128 channels, times 1, 2, 2 and 4, four blocks a level, convolutions over time and space at
    # once, group norm; before the first frame stands the first frame, as in Cosmos.
    "base": {
        "body": "convolutional",
        "width": 128,
        "multipliers": (1, 2, 2, 4),
        "encoder_levels": (4, 4, 4, 4),
        "decoder_levels": (4, 4, 4, 4),
        "latent_channels": 256,
        "convolution": "full",
        "norm": "group",
    },
}
"""The network of each size, whatever the preset."""

_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "tiny": {
        "learning_rate": 2e-3,
        "weight_decay": 0.01,
        "warmup_steps": 50,
        "decay_fraction": 0.7,
    },
    "small": {
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "warmup_steps": 500,
        "decay_fraction": 0.5,
    },
    # Open-MAGVIT2 (Luo et al. 2024).
    "base": {
        "learning_rate": 1e-4,
        "beta1": 0.5,
        "beta2": 0.9,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "warmup_steps": 1000,
    },
}
"""The optimiser of each size."""

PRESETS: dict[str, _Parts] = {
    # Mentzer et al. 2023 (their 2^14, as Cosmos and VidTok have fsq): no loss but the pixels'.
    "fsq": {"quantizer": {"kind": "fsq", "levels": (8, 8, 8, 6, 5)}},
    # Yu et al. 2024 (MAGVIT-v2): the signs of channels, commitment 0.25; entropy 0.02, doubled at first, from MaskBit.
    "lfq": {
        "quantizer": {"kind": "lfq", "codebook_size": 2**14},
        "loss": {"entropy_weight": 0.02, "entropy_boost": 2.0},
    },
    # Zhao et al. 2024 (BSQ-ViT): the same on the sphere.
    "bsq": {"quantizer": {"kind": "bsq", "codebook_size": 2**14}, "loss": {"entropy_weight": 0.1}},
    # van den Oord et al. 2017 with moving averages and k-means start, as VideoGPT (Yan et al. 2021); codes below half of an
    # equal share are replaced, or a short run leaves most of them behind.
    "vq": {"quantizer": {"kind": "vq", "codebook_size": 4096, "codebook_dim": 8, "dead_code_threshold": 0.5}},
    # Several codebooks a place (Lee et al. 2022): ids that can be cut after the first codebooks.
    "rvq": {
        "quantizer": {
            "kind": "rvq",
            "codebooks": 4,
            "codebook_size": 1024,
            "codebook_dim": 8,
            "dead_code_threshold": 0.5,
        }
    },
    # Ge et al. 2022 (TATS): a vector quantizer, on the sphere as LlamaGen's, against a hinge discriminator of clips with feature
    # matching, late; LeCam as MAGVIT (Yu et al. 2023). Their LPIPS, to which their weights belong, needs a download, so the small
    # sizes have small weights; see benchmarks/video_discriminator.py.
    "vqgan": {
        "quantizer": {
            "kind": "vq",
            "codebook_size": 4096,
            "codebook_dim": 8,
            "l2_normalised": True,
            "dead_code_threshold": 0.5,
        },
        "loss": {
            "discriminator": "hinge",
            "discriminator_weight": 0.002,
            "feature_matching_weight": 0.01,
            "lecam_weight": 0.001,
        },
    },
}
"""What each preset changes in the defaults of the quantizer and of the losses."""

_BASE: dict[str, _Parts] = {
    "fsq": {"quantizer": {"levels": (8, 8, 8, 5, 5, 5)}},
    "lfq": {"quantizer": {"codebook_size": 2**18}, "loss": {"entropy_weight": 0.1, "entropy_boost": 1.0}},
    "bsq": {"quantizer": {"codebook_size": 2**18}},
    "vq": {"quantizer": {"codebook_size": 8192}},
    "rvq": {"quantizer": {"codebooks": 8}},
    "vqgan": {
        "quantizer": {"codebook_size": 16384},
        "loss": {
            "l1_weight": 4.0,
            "l2_weight": 0.0,
            "perceptual_weight": 4.0,
            "discriminator_weight": 0.2,
            "feature_matching_weight": 1.0,
            "judges": "both",
        },
    },
}
"""What the base size changes besides the network: the codebooks and the weights of the papers."""

SIZES = tuple(NETWORKS)


def video_recipe(
    preset: str,
    size: str = "tiny",
    *,
    frame_rate: float = 12.0,
    channels: int = 3,
    network: Mapping[str, Any] | None = None,
    quantizer: Mapping[str, Any] | None = None,
    loss: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Any] | None = None,
) -> VideoRecipe:
    """Return a preset with some of its values changed.

    Args:
        preset: a key of `PRESETS`.
        size: one of `SIZES`.
        frame_rate: of the clips, frames a second.
        channels: of the frames.
        network: fields of `VideoNetworkConfig` that shall differ; another ``body`` begins with that body's defaults.
        quantizer: fields of `QuantizerConfig` that shall differ; another ``kind`` begins with that kind's defaults.
        loss: fields of `VideoLossConfig` that shall differ.
        optimizer: fields of `OptimizerConfig` that shall differ.

    Raises:
        ValueError: a name is unknown or a value out of range.
    """
    if preset not in PRESETS or size not in SIZES:
        raise ValueError(
            f"no recipe {preset!r} of size {size!r}; presets: {', '.join(PRESETS)}; sizes: {', '.join(SIZES)}"
        )
    own, base = PRESETS[preset], _BASE[preset] if size == "base" else {}
    parts = {part: {**own.get(part, {}), **base.get(part, {})} for part in ("quantizer", "loss")}
    video = {"frame_rate": frame_rate, "channels": channels}
    model = VideoConfig(
        changed(VideoNetworkConfig, {**NETWORKS[size], **video}, network, dial="body", kept=_EVERY_BODY),
        changed(QuantizerConfig, parts["quantizer"], quantizer, dial="kind"),
    )
    losses = changed(VideoLossConfig, parts["loss"], loss)
    return Recipe(model, losses, changed(OptimizerConfig, _OPTIMIZERS[size], optimizer))


_EVERY_BODY = ("channels", "frame_rate", "temporal_factor", "spatial_factor")
"""The options of a network that do not depend on its body."""
