"""``tokenize-kit evaluate``: measure a tokenizer, and with ``--out`` write ``report.html`` and ``evaluation.json``."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.claims import owned
from tokenize_kit.files import read_json_object, write_json
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.partial import remove_abandoned_beside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenize_kit.metrics.rate import Column, RateComparison
    from tokenize_kit.metrics.result import EvaluateResult
    from tokenize_kit.metrics.speed import SpeedRow
    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Tokenizer
    from tokenize_kit.report import Page


EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.html"
_SIZES_SHOWN = 12


def evaluate_command(options: EvaluateOptions, progress: Progress) -> EvaluateResult:
    """Evaluate a tokenizer on samples and write the report that ``--out`` asks for.

    Raises:
        FileNotFoundError, ValueError: as `tokenize_kit.metrics.evaluate.evaluate`, or the folder has the report of another one.
    """
    from tokenize_kit.metrics.evaluate import evaluate
    from trainers.autoencoder.unfinished import is_unfinished, open_unfinished

    loaded = None
    if is_unfinished(options.tokenizer):
        loaded, note = open_unfinished(options.tokenizer)
        progress.note(note)
    if options.out is None:
        return evaluate(options, progress, loaded=loaded)
    folder = Path(options.out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; give a folder for the report")
    with owned(folder):
        if not options.overwrite:
            _check_report(folder, options, loaded)
        for name in (EVALUATION_FILE, REPORT_FILE):
            remove_abandoned_beside(folder / name)
        result = evaluate(options, progress, options.codecs, loaded)
        write_json(folder / EVALUATION_FILE, result.to_dict() | {"options": asdict(options)})
        evaluation_page(options, result).write(folder / REPORT_FILE)
    return result


def _check_report(folder: Path, options: EvaluateOptions, loaded: Tokenizer | None) -> None:
    """Refuse a folder with the report of another evaluation; that of the same command may be written again.

    Raises:
        ValueError: it is of other options or another tokenizer.
    """
    from tokenize_kit.protocol import read_config

    there = [name for name in (EVALUATION_FILE, REPORT_FILE) if (folder / name).exists()]
    if not there:
        return
    values: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        values = read_json_object(folder / EVALUATION_FILE)
    before, now = values.get("options"), json.loads(json.dumps(asdict(options)))
    same = isinstance(before, dict) and _decisive(before) == _decisive(now)
    fingerprint = read_config(options.tokenizer)["fingerprint"] if loaded is None else loaded.fingerprint
    if not same or values.get("fingerprint") != fingerprint:
        raise ValueError(f"{folder} has the {there[0]} of another evaluation; choose another --out, or --overwrite")


def _decisive(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options without those that do not change what is measured."""
    return {name: value for name, value in options.items() if name not in ("out", "overwrite")}


def evaluation_page(options: EvaluateOptions, result: EvaluateResult) -> Page:
    """Build the report of one evaluation: the numbers, originals beside reconstructions or tokens, codecs, the use of ids."""
    from tokenize_kit.report import Page

    page = Page(f"Evaluation of {Path(options.tokenizer).name}")
    page.paragraph(
        f"{result.name} tokenizer with fingerprint {result.fingerprint[:12]}, on {result.samples:,} {result.modality} samples"
        f"{'' if result.part == 'all' else f' ({result.part})'} of {', '.join(options.data)}; {result.failures:,} failed."
    )
    add_evaluation(page, result)
    page.heading("Options")
    values = {name: ", ".join(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}
    page.table(("option", "value"), [(name, str(value)) for name, value in values.items()])
    return page


def add_evaluation(page: Page, result: EvaluateResult) -> None:
    """Add the numbers and the examples of an evaluation to a page."""
    from tokenize_kit.report.examples import show

    rows = [
        (name.replace("_", " "), "not defined" if value is None else value) for name, value in result.metrics.items()
    ]
    page.table(("metric", "value"), rows)
    page.notes(result.protocol.splitlines())
    if result.examples:
        page.heading("The first samples: originals, and what comes back")
        show(page, result.examples, result.spec)
    if result.worst:
        page.heading("The worst of all samples")
        show(page, result.worst, result.spec)
    if result.rate is not None:
        page.heading("Rate and distortion beside classical codecs")
        _add_rate(page, result.rate)
    if result.usage_counts:
        page.heading("Use of the vocabulary")
        _add_usage(page, result)
    if result.speed_by_size:
        page.heading(result.speed_by_size[0].title)
        _add_speed(page, result.speed_by_size)


def _add_rate(page: Page, rate: RateComparison[Any]) -> None:
    """Add the plots and the table that the codecs of this kind of data declare."""
    tokens = {"tokens, fixed length": rate.fixed_rate, "tokens, order-0 entropy": rate.entropy_coded}
    for plot in rate.plots:
        curves, points = (
            {name: line for name, known in of.items() if (line := _line(known, plot.x, plot.y))[0]}
            for of in (rate.codecs, tokens)
        )
        if curves or points:
            page.curves(curves, plot.x_label, plot.y_label, points=points, log_x=True)
    of_codecs = [column for column in rate.columns if column.of_codecs]
    header = ["", *(column.label for column in rate.columns)]
    header += [f"{name} {column.label}" for name in rate.codecs for column in of_codecs]
    rows = []
    for ours in (*rate.fixed_rate, *rate.entropy_coded):
        row: list[object] = [ours.name, *(_number(ours, column) for column in rate.columns)]
        for name in rate.codecs:
            near = rate.near(ours, name)
            row += [_number(near, column) for column in of_codecs]
        rows.append(row)
    page.table(header, rows)
    page.notes(rate.protocol.splitlines())


def _line(points: Sequence[Any], x: str, y: str) -> tuple[list[float], list[float]]:
    """Return two numbers of the points that have both, as a logarithmic axis takes them."""
    pairs = [(getattr(point, x), getattr(point, y)) for point in points]
    known = [(rate, value) for rate, value in pairs if value is not None and rate > 0]
    return [rate for rate, _ in known], [value for _, value in known]


def _number(point: Any, column: Column) -> object:
    value = getattr(point, column.attribute)
    return column.missing if value is None else value


def _add_usage(page: Page, result: EvaluateResult) -> None:
    header = ("codebook", "size", "tokens", "used", "dead", "usage", "entropy, bits", "perplexity")
    rows = []
    for number, book in enumerate(result.codebooks):
        usage = f"{100 * book.usage:.1f} %"
        sizes = (book.vocab_size, book.tokens, book.used, book.dead)
        rows.append((str(number), *sizes, usage, book.entropy_bits, book.perplexity))
    page.table(header, rows)
    single = len(result.usage_counts) == 1
    counts = {"ids" if single else f"codebook {number}": values for number, values in enumerate(result.usage_counts)}
    page.histogram(counts, "rank of the id, from the most to the least used", "uses")


def _add_speed(page: Page, rows: Sequence[SpeedRow]) -> None:
    page.table(rows[0].header, [row.cells() for row in rows[:_SIZES_SHOWN]])
    if len(rows) > _SIZES_SHOWN:
        page.paragraph(f"{len(rows) - _SIZES_SHOWN:,} rarer sizes are in evaluation.json.")
