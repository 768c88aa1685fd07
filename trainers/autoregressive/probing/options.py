"""The options of `probe`, and what it finds. The module loads no torch, so that ``--help`` is instant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenize_kit.shards.options import ShardReading

PROBE_FILE = "probe.json"
RESULTS_FILE = "results.json"
CURVE_FILE = "curve.png"
REPORT_FILE = "report.html"


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(ShardReading):
    """Say how much of a label each layer of a trained model tells: linear probes of its hidden states, and fine-tuning."""

    model: str
    """The model folder, or a checkpoint in it."""
    shards: tuple[str, ...]
    """Folders or URLs of shard sets with the streams of the model's template, and the label."""
    label: str
    """What is to be told: a column of the shards (encode --columns), or a stream of one id a sample. The template of the model
    must not have it."""
    out: str
    """Folder for results.json, curve.png and report.html, empty or new; the same command writes the same files again."""
    overwrite: bool = False
    """Replace the probe of another command that is in the folder."""
    template: str | None = None
    """Of a model with several templates the one to read samples with; by default the first."""
    stream: str | None = None
    """The part of the template over whose places states are averaged; by default the first that is predicted."""
    labels: tuple[int, ...] = ()
    """Also with only so many labelled samples of each class, such as 10 100, chosen by the seed."""
    limit: int | None = None
    """Use at most N samples of the training part and N of the held-out part, chosen by the seed."""
    validation_fraction: float = 0.05
    """The part of the samples, by the hash of their keys, that is held out, as it was given to train."""
    validation_keys: str | None = None
    """Instead: the file of keys that was given to train."""
    penalty: float = 1.0
    """L2 penalty of the logistic regression on standardised features: 1 / C of scikit-learn."""
    finetune_steps: int = 0
    """Fine-tune all weights for so many steps on the same labelled samples; 0 does not."""
    finetune_learning_rate: float = 3e-5
    """Its highest learning rate. A high one tears down in a few steps what the head knows of the states."""
    batch_size: int = 32
    """Samples that are read at once, and that a step of fine-tuning sees."""
    seed: int = 0
    """Decides which samples are chosen, and the batches of fine-tuning."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model computes; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        given: Any = self.labels
        if isinstance(given, int):
            object.__setattr__(self, "labels", (given,))
        for name, values, least in (
            ("labels", self.labels, 1),
            ("limit", (self.limit,), 2),
            ("batch-size", (self.batch_size,), 1),
            ("finetune-steps", (self.finetune_steps,), 0),
            ("seed", (self.seed,), 0),
        ):
            for value in values:
                if value is not None and value < least:
                    raise ValueError(f"--{name} {value} must be at least {least}")
        for name in ("penalty", "finetune_learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be a number above 0")


@dataclass(frozen=True)
class ProbeRow:
    """One classifier."""

    features: str
    """What it sees: a layer of the model, ``ids``, ``ids by place``, ``values``, or ``fine-tuned``."""
    kind: Literal["layer", "raw", "fine-tuned"]
    """Which of these it is."""
    columns: int
    """Numbers a sample."""
    a_class: int | None
    """Labelled samples of each class that it learnt from, at most; None means all."""
    samples: int
    """Labelled samples that it learnt from."""
    accuracy: float
    """Part of the held-out samples that it is right about."""
    converged: bool = True
    """Whether the regression came to its end within the iterations that it may take."""


@dataclass(frozen=True)
class ProbeResult:
    """What was found."""

    out: str
    """The folder."""
    template: str
    """How samples were read."""
    stream: str
    """Over the places of which part states were averaged."""
    label: str
    """What was to be told."""
    classes: tuple[str, ...]
    """Its values."""
    samples: int
    """Labelled samples of the training part."""
    held_out: int
    """Labelled samples that all were measured on."""
    unlabelled: int
    """Samples that were left out, as they have no label."""
    chance: float
    """Accuracy of always saying the most frequent class of the training part."""
    rows: tuple[ProbeRow, ...]
    """The classifiers; layers in their order."""

    def best(self, kind: str, a_class: int | None = None) -> ProbeRow | None:
        """Return the most accurate classifier of a kind for a number of labels; the first of equal ones."""
        rows = [row for row in self.rows if row.kind == kind and row.a_class == a_class]
        return max(rows, key=lambda row: row.accuracy, default=None)

    def standard_error(self, accuracy: float) -> float:
        """Return what an accuracy may be off by because so few samples are held out."""
        return float((accuracy * (1 - accuracy) / self.held_out) ** 0.5)

    def to_text(self) -> str:
        """Return a line a classifier, and one about chance."""
        width = max(len(row.features) for row in self.rows)
        lines = [
            f"{row.features:<{width}}  {row.samples:>7,} labels  {row.accuracy:.1%} +- {self.standard_error(row.accuracy):.1%}"
            for row in self.rows
        ]
        chance = f"{len(self.classes)} classes of {self.label!r}, {self.held_out:,} samples held out, chance {self.chance:.1%}"
        return "\n".join([*lines, chance, str(Path(self.out) / REPORT_FILE)])
