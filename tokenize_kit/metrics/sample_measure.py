"""What `evaluate` measures on samples of a kind that declares no measure of its own: what is true of all kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenize_kit.metrics.measures import Judgement, Measure, Metrics, Totals
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.protocol import TokenSpec, modality_of

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample


class SampleMeasure(Measure):
    """Samples of any kind: how many come back exactly, and how many tokens, bits and seconds their values take."""

    def __init__(self, spec: TokenSpec, _options: EvaluateOptions) -> None:
        self._kind = modality_of(spec)
        self._exact = self._values = 0

    def add(self, samples: Sequence[Sample], reconstructions: Sequence[Sample]) -> list[Judgement]:
        """See `Measure`."""
        return [self._judge(*pair) for pair in zip(samples, reconstructions, strict=True)]

    def _judge(self, sample: Sample, reconstruction: Sample) -> Judgement:
        exact = _equal(sample, reconstruction)
        self._exact += exact
        self._values += self._kind.values(sample)
        return Judgement("exact", 0.0) if exact else Judgement("not equal", 1.0)

    def summary(self, totals: Totals) -> Metrics:
        """See `Measure`; ratios are None where there is not a single value."""
        numbers: Metrics = {"exact_samples": self._exact, "values": self._values}
        if not self._values:
            return numbers
        return numbers | {
            "values_per_token": self._values / totals.tokens if totals.tokens else None,
            "bits_per_value": totals.fixed_bits / self._values,
            "entropy_bits_per_value": totals.entropy_bits / self._values,
            "encode_megavalues_per_second": self._values / 1e6 / totals.encoding,
            "decode_megavalues_per_second": self._values / 1e6 / totals.decoding,
        }

    def protocol(self) -> str:
        """See `Measure`."""
        return (
            f"exact_samples counts {self._kind.plural} that come back equal, value for value. bits_per_value at a fixed length "
            "of the ids, entropy_bits_per_value at the entropy of each codebook's ids on their own; every ratio is over the "
            "whole set."
        )


def _equal(sample: Sample, other: Sample) -> bool:
    if isinstance(sample, Tensor) and isinstance(other, Tensor):
        return sample.dtype == other.dtype and torch.equal(sample, other)
    return sample == other
