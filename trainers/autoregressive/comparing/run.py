"""``compare``: the parts of the work in their order, what is found as one table, and the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.autoregressive.comparing.options import COMPARE_FILE, KEYS_FILE, REPORT_FILE, RESULTS_FILE, CompareOptions

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from trainers.autoregressive.comparing.contestant import Contestant


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
        from tokenize_kit.progress import readable

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


def compare(options: CompareOptions, progress: Progress | None = None) -> CompareResult:
    """Compare tokenizers on some data, or go on with the comparison that ``options.out`` holds.

    Shards, models, bits, ranks and samples follow from the options, the data and the steps of each training, on one machine
    with one number of threads to the bit. Measured times are those of the first run: they are kept with the rest.

    Raises:
        FileNotFoundError: a tokenizer or the data is missing.
        ValueError: the tokenizers are of several kinds of data, no sample is held out, or the folder holds something else.
    """
    from tokenize_kit.claims import begun
    from tokenize_kit.files import write_json
    from tokenize_kit.progress import Progress
    from trainers.autoregressive.comparing.contestant import contestants_of
    from trainers.autoregressive.comparing.page import write_page

    shown = progress or Progress(enabled=False)
    contestants = contestants_of(options)
    out = Path(options.out)
    identity = options.identity() | {"fingerprints": [one.tokenizer.fingerprint for one in contestants]}
    with begun(out, COMPARE_FILE, identity, foreign="give an empty or new one, or delete it"):
        found, drawn = _work(options, contestants, out / KEYS_FILE, shown)
        write_json(out / RESULTS_FILE, asdict(found))
        write_page(options, found, contestants, drawn, out, shown)
    return found


def _work(
    options: CompareOptions, contestants: list[Contestant], keys: Path, progress: Progress
) -> tuple[CompareResult, list[dict[str, Any]]]:
    from trainers.autoregressive.comparing import parts

    for one in contestants:
        one.folder.mkdir(exist_ok=True)
        parts.encode_data(options, one, progress)
    held_out = parts.hold_out(options, contestants, keys)
    rows: list[Compared] = []
    drawn: list[dict[str, Any]] = []
    measured: dict[str, Any] = {}
    for one in contestants:
        progress.note(f"{one.name} ...")
        measured = one.kept(
            "evaluation", lambda one=one: parts.figures_of(parts.evaluation_of(options, one, keys, progress))
        )
        plan = one.kept("plan", lambda one=one: parts.plan_training(options, one, keys))
        trained = one.kept("training", lambda one=one, plan=plan: parts.train_model(options, one, keys, plan, progress))
        rank = one.kept("rank", lambda one=one: parts.rank_captions(options, one, keys))
        drawn.append(one.kept("drawn", lambda one=one: parts.draw_samples(options, one, keys, progress)))
        rows.append(
            Compared(
                name=one.name,
                tokenizer=one.source,
                fingerprint=one.tokenizer.fingerprint,
                vocabulary=sum(one.tokenizer.spec.codebook_sizes),
                tokens_a_sample=measured["metrics"]["tokens"] / measured["samples"],
                metrics=measured["metrics"],
                distortion=measured["loss"],
                packed=measured["packed"],
                entropy=measured["entropy"],
                prior=trained["bits"] / measured["unit_bits"],
                steps=plan["steps"],
                epochs=trained["epochs"],
                seconds_a_step=trained["seconds_a_step"],
                trial_seconds_a_step=plan["seconds_a_step"],
                parameters=trained["parameters"],
                rank=rank,
            )
        )
        if trained["held_out"] != measured["samples"]:
            progress.note(
                f"{one.name}: bits under the model are of {trained['held_out']:,} samples, the other figures of "
                f"{measured['samples']:,}"
            )
    unit = measured["rate"].replace("_", " ")
    template = parts.template_of(options, contestants[0])
    return CompareResult(
        options.out,
        contestants[0].stream,
        unit,
        measured["loss_name"],
        template,
        len(held_out),
        options.minutes,
        tuple(rows),
    ), drawn
