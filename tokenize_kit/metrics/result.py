"""What an evaluation found: the numbers for people and machines, and the samples that a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit.metrics.measures import Metrics
from tokenize_kit.metrics.rate import RateComparison
from tokenize_kit.metrics.speed import SpeedRow
from tokenize_kit.metrics.usage import Usage
from tokenize_kit.progress import readable
from tokenize_kit.protocol import TokenSpec

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample


@dataclass(frozen=True)
class Example:
    """One sample for the report."""

    key: str
    """Where it came from."""
    sample: Sample
    """What went in, or what `Modality.excerpt` leaves of it."""
    reconstruction: Sample
    """What came out."""
    ids: list[int]
    """Its ids in grid order, where ``tokens`` says what they are; else empty."""
    tokens: list[bytes] | None
    """The bytes of each id, where the tokenizer can say."""
    note: str
    """What was measured on this sample."""


@dataclass(frozen=True)
class EvaluateResult:
    """What was measured."""

    tokenizer: str
    """The folder that was evaluated."""
    name: str
    """The registered name of its class."""
    fingerprint: str
    """The tokenizer's fingerprint."""
    modality: str
    """What kind of samples were read."""
    part: str
    """Which part of the samples was measured: ``all``, or ``train`` or ``held-out`` with the fraction."""
    samples: int
    """How many were measured."""
    failures: int
    """How many could not be read or encoded."""
    metrics: Metrics
    """The numbers; None where one is not defined for these samples."""
    codebooks: list[Usage]
    """How each codebook is used."""
    speed_by_size: Sequence[SpeedRow]
    """Encoding and decoding for each size, from the most to the least frequent one, where the measure takes it."""
    rate: RateComparison[Any] | None
    """The tokenizer beside the classical codecs of its kind of data, if there are some and that was asked for."""
    protocol: str
    """How the numbers were taken, one line a subject."""
    examples: list[Example] = field(repr=False)
    """The first samples with their reconstructions."""
    worst: list[Example] = field(repr=False)
    """The samples that lost most of the whole set, from the worst on."""
    usage_counts: list[list[int]] = field(repr=False)
    """For each codebook how often each id was used, from the most to the least; ids that were not used are left out."""
    spec: TokenSpec = field(repr=False)
    """Of the tokenizer."""
    sample_rate: int | None = None
    """Samples a second, where the spec says it."""
    conversions: dict[str, int] = field(default_factory=dict)
    """How many were not of the sample rate or channels that the tokenizer wants, by what was done; see `Modality.conversion`."""
    loss: float = 0.0
    """The mean over samples of what the measure judges them by, from which the worst ones follow; 0 if nothing is lost."""
    loss_name: str = ""
    """What that is."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a JSON-ready dictionary, without samples and the counts of single ids."""
        samples = ("examples", "worst", "usage_counts")
        left_out = (*samples, "codebooks", "speed_by_size", "rate", "spec", "loss", "loss_name")
        return {name: value for name, value in vars(self).items() if name not in left_out} | {
            "codebooks": [asdict(codebook) for codebook in self.codebooks],
            "speed_by_size": [asdict(cast("Any", row)) for row in self.speed_by_size],
            "rate": None if self.rate is None else self.rate.to_dict(),
            "worst": [{"key": example.key, "note": example.note} for example in self.worst],
        }

    def to_text(self) -> str:
        """Return the numbers for reading, one a line, and how they were taken."""
        rows: list[tuple[str, Any]] = [("tokenizer", f"{self.name} at {self.tokenizer}")]
        if self.part != "all":
            rows.append(("part", self.part))
        rows.append(("samples", self.samples))
        if self.failures:
            rows.append(("failures", self.failures))
        rows += self.metrics.items()
        width = max(len(name) for name, _ in rows)
        lines = [f"{name.replace('_', ' '):<{width}}  {readable(value, 'not defined')}" for name, value in rows]
        return "\n".join([*lines, "", self.protocol])
