"""What the recipes of all kinds of data have in common: network and quantizer, losses, optimiser.

Only the standard library is imported, so that a command line can show every option at once.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from trainers.config import OptimizerConfig

M = TypeVar("M")
L = TypeVar("L")


class ModelConfig(Protocol):
    """What every configuration of a model has."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary of the parts, ``network`` and ``quantizer``."""
        ...


class LossTerms(Protocol):
    """What every loss configuration has; see `trainers.autoencoder.image.config.LossConfig`."""

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


class Recipe(NamedTuple, Generic[M, L]):
    """All that a preset says."""

    model: M
    """Network and quantizer."""
    loss: L
    """Weights and starts of the losses."""
    optimizer: OptimizerConfig
    """Optimiser and its schedule."""
