"""Classifier-free guidance: how much what is drawn follows its condition.

A model that was trained on dropped conditions knows what is likely with a condition and without one. Guidance goes on from the
one to the other (Ho and Salimans 2022, arXiv 2207.12598):

    logits = without + scale * (with - without)

With two conditions and a scale for each (InstructPix2Pix, Brooks et al. 2023, arXiv 2211.09800, and in the same way with more)

    logits = none + scale1 * (first - none) + scale2 * (both - first)

Each of these logits comes from a *reading* of the sequence, with the first 0, 1, .. of its conditions. Readings that count for
nothing are not computed: at scale 1 there is the conditional one alone, and at scale 0 the unconditional one. The module knows
no model; `generation` reads and `sample` lays the prompts out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.sequences.template import SequenceTemplate
    from tokenize_kit.sequences.vocabulary import Vocabulary
    from trainers.autoregressive.sampling_options import SamplingOptions

    Grids = Mapping[str, NDArray[Any]]

RISES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,  # noqa: ARG005
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
}
"""For each schedule how much of the way from 1 to its full scale is made, by how much of a grid is drawn; both in [0, 1]."""


class WithProgress(Protocol):
    """What a schedule asks of a grammar."""

    def progress(self, state: Any) -> float:
        """Return how much of a grid is drawn, in [0, 1]."""
        ...


@dataclass(frozen=True)
class Guidance:
    """The scales of the conditions, in their order, or one for all of them together, and their schedule."""

    scales: tuple[float, ...]
    schedule: str = "constant"

    @property
    def last(self) -> int:
        """The number of the reading with all conditions; it is also that of scales."""
        return len(self.scales)

    @property
    def readings(self) -> tuple[int, ...]:
        """The numbers of the readings that count."""
        # Weights are linear in the rise: one that is zero at both ends is always.
        ends = [self._weights(1.0)] if self.schedule == "constant" else [self._weights(0.0), self._weights(1.0)]
        return tuple(number for number in range(self.last + 1) if any(weights[number] for weights in ends))

    def weights(self, progress: float) -> list[float]:
        """Return how much each of `readings` counts; they add up to 1."""
        weights = self._weights(RISES[self.schedule](progress))
        return [weights[number] for number in self.readings]

    def _weights(self, rise: float) -> list[float]:
        scales = [1 + (scale - 1) * rise for scale in self.scales]
        return [one - two for one, two in zip([1.0, *scales], [*scales, 0.0], strict=True)]

    def kept(self, conditions: Sequence[str], reading: int) -> tuple[str, ...]:
        """Return which of the conditions a reading has."""
        return tuple(conditions[:reading] if self.last == len(conditions) else conditions if reading else ())


def guided(logits: Tensor, weights: Sequence[Sequence[float]]) -> Tensor:
    """Return the logits of sequences of which each has several readings, float32 (N, V).

    Args:
        logits: (N * R, V), the R readings of a sequence behind each other.
        weights: (N, R), from `Guidance.weights`.
    """
    import torch

    factors = torch.tensor(weights, dtype=torch.float32, device=logits.device)
    result: Tensor = (logits.float().reshape(*factors.shape, -1) * factors[..., None]).sum(1)
    return result


def guidance_of(template: SequenceTemplate, vocabulary: Vocabulary, options: SamplingOptions) -> Guidance | None:
    """Return the guidance that is asked for; None if it is that of the conditions as they are.

    Raises:
        ValueError: the template has no condition, or another number of them than scales; or the model has never seen one dropped.
    """
    if options.guidance is None:
        return None
    shown = f"--guidance {' '.join(f'{scale:g}' for scale in options.guidance)}"
    conditions = template.condition
    if not conditions:
        raise ValueError(
            f"{shown}: the template {str(template)!r} has no condition to strengthen; leave --guidance out"
        )
    if len(options.guidance) not in (1, len(conditions)):
        each = f", or {len(conditions)}, one for each" if len(conditions) > 1 else ""
        raise ValueError(
            f"{shown}: the template {str(template)!r} has {', '.join(conditions)} as condition; give one scale{each}"
        )
    guidance = Guidance(options.guidance, options.guidance_schedule)
    if guidance.readings == (guidance.last,):
        return None
    for name in conditions:
        if vocabulary.stream(template.stream_of(name)).null is None:
            raise ValueError(
                f"{shown}: the model has never seen a sequence without {name!r}; train one with --condition-dropout 0.1, or "
                "leave --guidance out"
            )
    return guidance


def check_prompt(guidance: Guidance | None, template: SequenceTemplate, grids: Grids) -> None:
    """See that there is a condition to strengthen.

    Raises:
        ValueError: there is none.
    """
    if guidance is not None and len(guidance.readings) > 1 and not set(template.condition) & {*template.given(grids)}:
        raise ValueError(
            "--guidance strengthens a condition, but the prompt gives none; give one with --prompt or --prompt-file, or leave "
            "--guidance out"
        )


def less(guidance: Guidance, template: SequenceTemplate, grids: Grids, reading: int) -> dict[str, NDArray[Any]]:
    """Return the grids of a prompt with the conditions that a reading has."""
    kept = guidance.kept(template.condition, reading)
    return {name: grid for name, grid in grids.items() if name in kept or name not in template.condition}
