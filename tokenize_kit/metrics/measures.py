"""What is measured on samples of one kind: given originals and reconstructions, the numbers over all of them.

Every ratio is a sum over a sum: no mean of means over unequal parts. Each `Modality` names its measure; here is what all
have in common. `sample_measure` is for the kinds of data that name none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

from tokenize_kit.metrics.options import SPECIAL_OPTIONS, EvaluateOptions
from tokenize_kit.metrics.speed import SpeedRow
from tokenize_kit.protocol import TokenSpec, modality_of, resolved

Metrics: TypeAlias = dict[str, float | int | None]


class Judgement(NamedTuple):
    """What was measured on one sample."""

    note: str
    """For the report."""
    loss: float
    """How bad it is, to find the worst; 0 if nothing was lost."""


class Totals(NamedTuple):
    """What the run knows of all samples together."""

    tokens: int
    """How many ids there are."""
    fixed_bits: float
    """Bits of all ids at a fixed length each."""
    entropy_bits: float
    """Bits of all ids at the entropy of the ids on their own."""
    encoding: float
    """Seconds."""
    decoding: float
    """Seconds."""


class Measure(ABC):
    """What is measured on samples of one kind; built with the tokenizer's spec and the options of the evaluation."""

    special: ClassVar[tuple[str, ...]] = ()
    """Which of the options that not every measure has (`SPECIAL_OPTIONS`) this one takes; `measure_of` refuses the others."""
    loss_name: ClassVar[str] = "part of the samples that is not equal"
    """What the mean of `Judgement.loss` over samples is."""

    @abstractmethod
    def add(self, samples: Sequence[Any], reconstructions: Sequence[Any]) -> list[Judgement]:
        """Measure a batch of samples; tensors of a batch have one shape."""

    @abstractmethod
    def summary(self, totals: Totals) -> Metrics:
        """Return the numbers over all samples."""

    @abstractmethod
    def protocol(self) -> str:
        """Return how the numbers were taken, after the last `add`; one line a subject."""

    def timed(self, samples: Sequence[Any], encoding: float, decoding: float) -> None:  # noqa: B027
        """Take note of how many seconds a batch took, for `speed_by_size`."""

    def speed_by_size(self) -> Sequence[SpeedRow]:
        """Return the speed for each size, where it depends on it; by default that is not measured."""
        return []


def measure_of(spec: TokenSpec, options: EvaluateOptions) -> Measure:
    """Return the measure that a tokenizer's kind of data declares, or the one for all kinds.

    Raises:
        ValueError: samples of this spec cannot be measured, or an option does not suit them.
        MissingWeightsError: LPIPS or FID is asked for and its weights cannot be had.
    """
    measure = resolved(modality_of(spec).measure or "tokenize_kit.metrics.sample_measure:SampleMeasure")
    taken: tuple[str, ...] = getattr(measure, "special", ())
    for name, what in SPECIAL_OPTIONS.items():
        if getattr(options, name) and name not in taken:
            raise ValueError(f"{what}, but the tokenizer reads {spec.modality}; leave them out")
    made: Measure = measure(spec, options)
    return made


def mean(values: Sequence[float]) -> float | None:
    """Return the mean; None of no values."""
    return math.fsum(values) / len(values) if values else None
