"""``probe``: how much of a label the hidden states of a trained model tell, layer by layer (iGPT, Chen et al. 2020).

The states after each layer are averaged over the places of a sample; a logistic regression on them is fitted to the training part
and is right about so many of the held-out samples. Beside it stand the same regression on raw ids and values, always saying the
most frequent class, and the model itself fine-tuned on the same labels. The module loads no torch until it is called.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenize_kit.shards.options import ShardReading

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.sequences.packing import Ints
    from trainers.autoregressive.finetuning import LinearHead
    from trainers.autoregressive.hidden_states import SampleReader
    from trainers.autoregressive.model_folder import LoadedModel
    from trainers.autoregressive.probed_samples import Probed

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
    finetune_learning_rate: float = 3e-4
    """Its highest learning rate."""
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


def probe(options: ProbeOptions, progress: Progress | None = None) -> ProbeResult:
    """Probe a model folder and write what is found.

    Raises:
        FileNotFoundError: there is no model or shard set.
        ValueError: the model's family tells no layers, the template has the label, there is none, or the folder holds something
            else.
    """
    from tokenize_kit.claims import begun
    from tokenize_kit.files import write_json
    from trainers.autoregressive.model_folder import load_model
    from trainers.autoregressive.models import LayeredModel
    from trainers.autoregressive.probing_report import write_curve, write_page
    from trainers.runtime import resolve_device

    loaded = load_model(options.model, resolve_device(options.device)).using(options.template)
    if not isinstance(loaded.model, LayeredModel):
        raise ValueError(
            f"a model of {type(loaded.model).__name__} tells no layers (it has no layer_states), so there is nothing to probe"
        )
    if progress is not None and loaded.note:
        progress.note(loaded.note)
    out = Path(options.out)
    own = (RESULTS_FILE, CURVE_FILE, REPORT_FILE)
    foreign = "give an empty or new one, or --overwrite to replace a probe there"
    with begun(out, PROBE_FILE, _identity(options), own=own, overwrite=options.overwrite, foreign=foreign):
        result = _probe(options, loaded, progress)
        write_json(out / RESULTS_FILE, asdict(result))
        write_curve(result, out / CURVE_FILE)
        write_page(result, options, loaded.note, out / REPORT_FILE)
    return result


def _identity(options: ProbeOptions) -> dict[str, Any]:
    left_out = ("out", "overwrite", "device", "trust_shards")
    return {name: value for name, value in asdict(options).items() if name not in left_out}


def _probe(options: ProbeOptions, loaded: LoadedModel, progress: Progress | None) -> ProbeResult:
    import numpy as np

    from tokenize_kit.sources.heldout import read_keys
    from trainers.autoregressive.hidden_states import SampleReader, states_of
    from trainers.autoregressive.linear_probe import fit_probe
    from trainers.autoregressive.probed_samples import open_probed
    from trainers.autoregressive.raw_features import raw_features

    probed = open_probed(
        loaded,
        options.shards,
        options.label,
        options.stream,
        options.validation_fraction,
        None if options.validation_keys is None else read_keys(options.validation_keys),
        options.limit,
        options.seed,
        trust=options.trust_shards,
        note=None if progress is None else progress.note,
    )
    every = np.sort(np.concatenate([probed.training, probed.held_out]))
    reader = SampleReader(loaded.model, probed)
    if progress is not None:
        progress.task("hidden states", len(every))
    features: dict[tuple[Any, str], Any] = {
        ("layer", name): states
        for name, states in states_of(loaded.model, reader, every, options.batch_size, progress).items()
    }
    last = list(features)[-1]
    features |= {("raw", name): raw for name, raw in raw_features(probed, every).items()}
    labels, held_out = probed.labels[every], np.searchsorted(every, probed.held_out)
    sets: dict[int | None, Ints] = {count: probed.few(count, options.seed) for count in sorted(set(options.labels))}
    sets[None] = probed.training
    rows: list[ProbeRow] = []
    heads: dict[int | None, LinearHead] = {}
    if progress is not None:
        progress.task("probes", len(sets) * len(features))
    for a_class, some in sets.items():
        for (kind, name), table in features.items():
            fitted = fit_probe(table, labels, np.searchsorted(every, some), held_out, options.penalty)
            rows.append(ProbeRow(name, kind, table.shape[1], a_class, len(some), fitted.accuracy, fitted.converged))
            if (kind, name) == last and fitted.head is not None:
                heads[a_class] = fitted.head
            if progress is not None:
                progress.update(len(rows))
    if options.finetune_steps:
        for a_class, some in sets.items():
            rows.append(_finetuned(options, loaded, probed, reader, a_class, some, heads[a_class], progress))
    return ProbeResult(
        options.out,
        str(loaded.template),
        probed.name,
        options.label,
        probed.classes,
        len(probed.training),
        len(probed.held_out),
        probed.unlabelled,
        probed.chance,
        tuple(rows),
    )


def _finetuned(
    options: ProbeOptions,
    loaded: LoadedModel,
    probed: Probed,
    reader: SampleReader,
    a_class: int | None,
    samples: Ints,
    head: LinearHead,
    progress: Progress | None,
) -> ProbeRow:
    from trainers.autoregressive.finetuning import finetune, predicted

    if progress is not None:
        progress.task(f"fine-tuning on {len(samples):,} labels", options.finetune_steps)
    classifier = finetune(
        loaded.model,
        head,
        reader,
        samples,
        probed.labels[samples],
        steps=options.finetune_steps,
        batch_size=options.batch_size,
        learning_rate=options.finetune_learning_rate,
        seed=options.seed,
        progress=progress,
    )
    found = predicted(classifier, reader, probed.held_out, options.batch_size)
    accuracy = float((found == probed.labels[probed.held_out]).mean())
    return ProbeRow("fine-tuned", "fine-tuned", head.weight.shape[1], a_class, len(samples), accuracy)
