"""The losses of an autoencoder in one flat place, and the recipes of the field as presets.

Only the standard library is imported, so that a command line can show every option at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tokenize_kit.tokenizers.learned.image.config import AutoencoderConfig, NetworkConfig
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig
from trainers.autoencoder.config import JudgedLossConfig, Recipe
from trainers.config import OptimizerConfig
from trainers.overrides import changed


@dataclass(frozen=True)
class LossConfig(JudgedLossConfig):
    """What an autoencoder is trained for. A weight of 0 leaves a term out."""

    pixel: Literal["l1", "l2"] = "l2"
    """Absolute or squared error of pixels in [-1, 1]; the squared one gives the highest PSNR."""
    pixel_weight: float = 1.0
    """Weight of the pixel loss."""

    choices = JudgedLossConfig.choices | {"pixel": ("l1", "l2")}


ImageRecipe: TypeAlias = Recipe[AutoencoderConfig, LossConfig]
"""All that a preset of pictures says."""

NETWORKS: dict[str, dict[str, Any]] = {
    # Chosen by benchmarks/autoencoder_fashion.py: squares of 2x2 pixels as the stem, few blocks, most of them in the decoder.
    "tiny": {"width": 32, "multipliers": (1, 3), "encoder_blocks": (0, 1), "decoder_blocks": (1, 2), "patch": 2},
    # VQGAN f16 (Esser et al. 2021, configs/imagenet_vqgan.yaml): 128 channels, 2 blocks a level and 3 in the decoder.
    "base": {
        "width": 128,
        "multipliers": (1, 1, 2, 2, 4),
        "encoder_blocks": (2, 2, 2, 2, 2),
        "decoder_blocks": (3, 3, 3, 3, 3),
        "patch": 1,
        "attention": True,
        "norm": "group",
        "latent_channels": 256,
    },
}
"""The network of each size, whatever the preset."""

_SHORT = {"optimizer": "muon", "learning_rate": 3e-3, "weight_decay": 0.01, "warmup_steps": 50, "decay_fraction": 0.7}
_LONG = {"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.05, "warmup_steps": 1000}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # van den Oord et al. 2017: squared error, commitment 0.25; moving averages and k-means start instead of the codebook
    # loss (their appendix; SoundStream), dead codes replaced.
    "vqvae": {"quantizer": {"kind": "vq", "codebook_size": 1024}, "loss": {"pixel": "l2"}},
    # LlamaGen's tokenizer, the safest default of VQGAN's line: lookup in 8 dimensions on the sphere, squared error, hinge loss
    # that sets in late. Its LPIPS, to which its weight of 0.5 belongs, needs a download; beside the squared error alone, which is
    # some hundred times smaller, that weight ruins the pictures, so the tiny size has a small one, with feature matching.
    "vqgan": {
        "quantizer": {"kind": "vq", "codebook_size": 1024, "codebook_dim": 8, "l2_normalised": True},
        "loss": {
            "pixel": "l2",
            "discriminator": "hinge",
            "discriminator_weight": 0.002,
            "feature_matching_weight": 0.003,
            "lecam_weight": 0.001,
        },
    },
    # Ramesh et al. 2021 (DALL-E): gumbel-softmax annealed from 1 to 1/16, divergence from equal use. Their run is of millions of
    # steps; in a short one wav2vec 2.0's diversity loss (weight 0.1) keeps the codes in use.
    "dvae": {
        "quantizer": {"kind": "gumbel", "codebook_size": 1024},
        "loss": {"pixel": "l2", "kl_weight": 0.0001, "entropy_weight": 0.1},
    },
    # Mentzer et al. 2023: 2^10 codes, no loss but the pixels'.
    "fsq": {"quantizer": {"kind": "fsq", "levels": (8, 5, 5, 5)}, "loss": {"pixel": "l2"}},
    # Yu et al. 2024 (MAGVIT-v2): signs of 10 channels, commitment 0.25; entropy 0.02, doubled at first, from MaskBit.
    "lfq": {
        "quantizer": {"kind": "lfq", "codebook_size": 1024},
        "loss": {"pixel": "l2", "entropy_weight": 0.02, "entropy_boost": 2.0},
    },
}
"""What each preset changes in the defaults of the quantizer and of the losses."""

_BASE: dict[str, dict[str, dict[str, Any]]] = {
    "vqvae": {"quantizer": {"codebook_size": 8192}},
    "vqgan": {"quantizer": {"codebook_size": 16384}, "loss": {"discriminator_weight": 0.5, "perceptual_weight": 1.0}},
    "dvae": {"quantizer": {"codebook_size": 8192}},
    "fsq": {"quantizer": {"levels": (8, 8, 8, 6, 5)}},
    "lfq": {"quantizer": {"codebook_size": 2**18}},
}
"""What the base size changes besides the network: the codebooks of the papers."""


def recipe(
    preset: str,
    size: str = "tiny",
    *,
    channels: int = 3,
    network: Mapping[str, Any] | None = None,
    quantizer: Mapping[str, Any] | None = None,
    loss: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Any] | None = None,
) -> ImageRecipe:
    """Return a preset with some of its values changed.

    Args:
        preset: a key of `PRESETS`.
        size: ``tiny`` or ``base``.
        channels: of the pictures.
        network: fields of `NetworkConfig` that shall differ.
        quantizer: fields of `QuantizerConfig` that shall differ; another ``kind`` begins with that kind's defaults.
        loss: fields of `LossConfig` that shall differ.
        optimizer: fields of `OptimizerConfig` that shall differ.

    Raises:
        ValueError: a name is unknown or a value out of range.
    """
    if preset not in PRESETS or size not in NETWORKS:
        raise ValueError(
            f"no recipe {preset!r} of size {size!r}; presets: {', '.join(PRESETS)}; sizes: {', '.join(NETWORKS)}"
        )
    base = _BASE[preset] if size == "base" else {}
    own = PRESETS[preset]
    model = AutoencoderConfig(
        changed(NetworkConfig, {**NETWORKS[size], "channels": channels}, network),
        changed(QuantizerConfig, {**own["quantizer"], **base.get("quantizer", {})}, quantizer, dial="kind"),
    )
    losses = changed(LossConfig, {**own["loss"], **base.get("loss", {})}, loss)
    return Recipe(model, losses, changed(OptimizerConfig, _SHORT if size == "tiny" else _LONG, optimizer))
