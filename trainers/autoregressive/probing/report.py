"""What ``probe`` found as a page and as a picture: accuracy against the depth of the layer."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tokenize_kit.files import atomic_write
from tokenize_kit.progress import several
from tokenize_kit.report import Page

if TYPE_CHECKING:
    from trainers.autoregressive.probing.options import ProbeOptions, ProbeResult, ProbeRow

Line = tuple[list[float], list[float]]


def write_curve(result: ProbeResult, path: Path) -> None:
    """Write a PNG of accuracy against layer: a curve a number of labels, and what raw features and chance reach."""
    from matplotlib.figure import Figure

    layers = _layers(result)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for number, (a_class, told) in enumerate(_sets(result).items()):
        colour = f"C{number}"
        values = [row.accuracy for row in result.rows if row.kind == "layer" and row.a_class == a_class]
        axes.plot(layers, values, marker="o", color=colour, label=f"{told}: layers")
        for kind, style in (("raw", "--"), ("fine-tuned", ":")):
            if (best := result.best(kind, a_class)) is not None:
                axes.axhline(best.accuracy, color=colour, linestyle=style, label=f"{told}: {best.features}")
    axes.axhline(result.chance, color="0.5", linewidth=0.8, label="chance")
    axes.set_ylabel(f"held-out accuracy of {result.label!r}")
    axes.tick_params(axis="x", rotation=45)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def write_page(result: ProbeResult, options: ProbeOptions, note: str, path: Path) -> None:
    """Write the report: the table, the curve, and how the numbers were taken."""
    page = Page(f"Probe of {Path(options.model).name}")
    page.paragraph(
        f"How much of {result.label!r} ({len(result.classes)} classes) is told by states of the model, averaged over the places "
        f"of {result.stream!r} in {result.template!r}: accuracy on {several(result.held_out, 'samples')} that are held out. "
        f"Always saying the most frequent class is right about {result.chance:.1%}."
    )
    layers = _layers(result)
    depth: list[float] = [float(number) for number in range(len(layers))]
    curves: dict[str, Line] = {}
    for a_class, told in _sets(result).items():
        values = [row.accuracy for row in result.rows if row.kind == "layer" and row.a_class == a_class]
        curves[told] = (depth, values)
        if (raw := result.best("raw", a_class)) is not None:
            curves[f"{told}: {raw.features}, without the model"] = ([depth[0], depth[-1]], [raw.accuracy] * 2)
    page.curves(curves, f"layer: 0 is the {layers[0]}, {len(layers) - 1} is {layers[-1]}", "held-out accuracy")
    page.heading("All classifiers")
    sets = _sets(result)
    header = ("features", "numbers a sample", *sets.values())
    of: dict[tuple[str, str], dict[int | None, ProbeRow]] = {}
    for row in result.rows:
        of.setdefault((row.kind, row.features), {})[row.a_class] = row
    rows = [
        (name, next(iter(found.values())).columns, *(_cell(result, found.get(a_class)) for a_class in sets))
        for (_, name), found in of.items()
    ]
    page.table(header, rows)
    page.notes(_notes(result, options, note))
    page.heading("Options")
    values_of = {
        name: ", ".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in asdict(options).items()
    }
    page.table(
        ("option", "value"),
        [(name, str(value)) for name, value in values_of.items() if name not in ("out", "overwrite")],
    )
    page.write(path)


def _notes(result: ProbeResult, options: ProbeOptions, note: str) -> list[str]:
    lines = [
        "Features are standardised on the samples that are learnt from; the probe is scikit-learn's logistic regression with an "
        f"L2 penalty of {options.penalty:g}. Behind each accuracy is its standard error for so many held-out samples.",
        "Without the model: 'ids' is how large a part of a sample each id is, 'ids by place' which id stands where, 'values' "
        "what the ids decode to.",
    ]
    if options.finetune_steps:
        lines.append(
            f"Fine-tuned: all weights, {several(options.finetune_steps, 'steps')} of {options.batch_size} samples, from the "
            "probe of the last states as the head."
        )
    if result.unlabelled:
        lines.append(f"{several(result.unlabelled, 'samples')} without a label were left out.")
    if slow := [row.features for row in result.rows if not row.converged]:
        lines.append(f"Not at their end after the most iterations: {', '.join(dict.fromkeys(slow))}.")
    return [*lines, note] if note else lines


def _layers(result: ProbeResult) -> list[str]:
    return [row.features for row in result.rows if row.kind == "layer" and row.a_class is None]


def _sets(result: ProbeResult) -> dict[int | None, str]:
    """Return the numbers of labels, each in words; all of them last."""
    found: dict[int | None, str] = {}
    for row in result.rows:
        found[row.a_class] = f"{row.samples:,} labels" if row.a_class is None else f"{row.a_class:,} a class"
    return found


def _cell(result: ProbeResult, row: ProbeRow | None) -> str:
    if row is None:
        return ""
    return f"{row.accuracy:.1%} ± {result.standard_error(row.accuracy):.1%}"
