"""What the recipes of all kinds of data have in common: network and quantizer, losses, optimiser.

Only the standard library is imported, so that a command line can show every option at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

from trainers.config import OptimizerConfig

M = TypeVar("M")
L = TypeVar("L")


class ModelConfig(Protocol):
    """What every configuration of a model has."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary of the parts, ``network`` and ``quantizer``."""
        ...


class LossTerms(Protocol):
    """What every loss configuration has; `JudgedLossConfig` and `trainers.autoencoder.audio.config.AudioLossConfig` say more."""

    @property
    def commitment_weight(self) -> float:
        """Weight of the commitment loss."""

    @property
    def codebook_weight(self) -> float:
        """Weight of the codebook loss."""

    @property
    def entropy_weight(self) -> float:
        """Weight of the entropy loss."""

    @property
    def discriminator_start(self) -> float:
        """Part of the run after which the discriminator sets in."""

    @property
    def discriminator_ramp(self) -> float:
        """Part of the run over which the weight of the generator loss rises."""

    @property
    def discriminator_learning_rate(self) -> float:
        """Peak learning rate of the discriminator."""


@dataclass(frozen=True)
class JudgedLossConfig:
    """What pictures and clips are trained for alike: LPIPS, the quantizer's losses, and those of patch discriminators."""

    perceptual_weight: float = 0.0
    """Weight of LPIPS (Zhang et al. 2018) of pictures or single frames; torchvision fetches its weights, or ``perceptual_path``
    names them."""
    perceptual_path: str | None = None
    """File of the LPIPS weights."""
    commitment_weight: float = 0.25
    """Weight of the commitment loss, which holds the encoder near the codes (VQ-VAE: 0.25)."""
    codebook_weight: float = 1.0
    """Weight of the codebook loss, where codes learn by gradient."""
    entropy_weight: float = 0.1
    """Weight of the entropy loss of lfq, bsq and gumbel (Open-MAGVIT2 and wav2vec 2.0: 0.1)."""
    entropy_boost: float = 1.0
    """Factor of the entropy weight at the start (MaskBit: 2)."""
    entropy_boost_part: float = 0.1
    """Part of the run over which that factor falls to 1 in a straight line."""
    kl_weight: float = 0.0
    """Weight of the divergence of gumbel's assignments from equal use of all codes."""
    discriminator: Literal["none", "hinge", "non-saturating"] = "none"
    """Train against a patch discriminator with this loss."""
    discriminator_weight: float = 0.5
    """Weight of the generator loss (LlamaGen: 0.5)."""
    discriminator_start: float = 0.5
    """Part of the run after which the discriminator sets in: a late start leaves the reconstruction whole."""
    discriminator_ramp: float = 0.1
    """Part of the run over which the weight of the generator loss rises to its full value."""
    discriminator_learning_rate: float = 2e-4
    """Peak learning rate of the discriminator; its schedule is that of the autoencoder."""
    adaptive_weight: bool = False
    """Multiply the generator loss by the ratio of both losses' gradients at the last layer (VQGAN)."""
    lecam_weight: float = 0.0
    """Weight of LeCam's regularisation of the discriminator (MaskBit: 0.001)."""
    feature_matching_weight: float = 0.0
    """Weight of the distance between the discriminator's features of both sides; needs no download."""

    choices: ClassVar[dict[str, tuple[str, ...]]] = {"discriminator": ("none", "hinge", "non-saturating")}
    """The values of each field that has a few."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_weight") and not isinstance(value, bool) and value < 0:
                raise ValueError(f"loss {name} {value} must not be negative")
        for name, choices in self.choices.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"loss {name} {getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name in ("entropy_boost_part", "discriminator_start", "discriminator_ramp"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"loss {name} {getattr(self, name)} is a part of the run and must be in [0, 1]")
        if self.entropy_boost <= 0 or self.discriminator_learning_rate <= 0:
            raise ValueError("loss entropy_boost and discriminator_learning_rate must be positive")
        if self.discriminator == "none" and (self.feature_matching_weight or self.lecam_weight or self.adaptive_weight):
            raise ValueError(
                "loss feature_matching_weight, lecam_weight and adaptive_weight need a discriminator "
                "(--loss.discriminator hinge)"
            )

    def check_channels(self, channels: int, what: str) -> None:
        """Refuse losses that samples of so many channels cannot have.

        Raises:
            ValueError: LPIPS of what is transparent; ``what`` are such as pictures.
        """
        if self.perceptual_weight and channels == 4:
            raise ValueError(f"--loss.perceptual-weight is for grey and RGB {what}; leave it out with --channels 4")


class Recipe(NamedTuple, Generic[M, L]):
    """All that a preset says."""

    model: M
    """Network and quantizer."""
    loss: L
    """Weights and starts of the losses."""
    optimizer: OptimizerConfig
    """Optimiser and its schedule."""
