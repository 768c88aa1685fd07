"""What `compare` finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenize_kit.progress import readable
from trainers.autoregressive.comparing.options import REPORT_FILE


@dataclass(frozen=True)
class Compared:
    """One tokenizer; everything is measured on the samples that are held out."""

    name: str
    """What it is called here."""
    tokenizer: str
    """Its folder."""
    fingerprint: str
    """Of the tokenizer."""
    vocabulary: int
    """Ids of all codebooks."""
    tokens_a_sample: float
    """In the mean, without special tokens."""
    metrics: dict[str, Any]
    """What evaluate measures."""
    distortion: float
    """The mean of what the measure of this kind of data judges samples by; 0 if nothing is lost."""
    packed: float
    """Bits of the ids, each in as many as its codebook needs, in the unit of the comparison."""
    entropy: float
    """Bits at the entropy of the ids on their own."""
    prior: float
    """Bits under the Transformer."""
    steps: int
    """Steps of its training."""
    epochs: float
    """How often it saw each sample."""
    seconds_a_step: float | None
    """What a step took, in the median; None where the training was stopped and continued, or of too few steps."""
    trial_seconds_a_step: float | None
    """What it took in the trial that the number of steps follows from; None where that was given."""
    parameters: int
    """Of the Transformer."""
    rank: dict[str, Any]
    """Samples, median and mean rank of the true caption and how often it is the first; empty without captions."""

    @property
    def saving(self) -> float:
        """Part of the packed bits that the Transformer saves."""
        return 1 - self.prior / self.packed if self.packed else 0.0


@dataclass(frozen=True)
class CompareResult:
    """What was found."""

    out: str
    """The folder."""
    modality: str
    """What kind of samples were compared."""
    unit: str
    """What bits are told in."""
    distortion_is: str
    """What the distortion is."""
    template: str
    """Of the Transformers."""
    samples: int
    """Samples that are held out."""
    minutes: float
    """How long each Transformer was to be trained."""
    tokenizers: tuple[Compared, ...]
    """In the order in which they were given."""

    def to_text(self) -> str:
        """Return a line a tokenizer."""
        header = ("tokenizer", self.distortion_is, "packed", f"{self.unit} under the model", "steps", "epochs")
        rows = [
            (
                one.name,
                readable(one.distortion),
                *(readable(float(value)) for value in (one.packed, one.prior)),
                f"{one.steps:,}",
                readable(one.epochs),
            )
            for one in self.tokenizers
        ]
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (header, *rows)
        ]
        return "\n".join([*lines, str(Path(self.out) / REPORT_FILE)])
