"""``tokenize-kit evaluate``: measure a tokenizer, and with ``--out`` write ``report.html`` and ``evaluation.json``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tokenize_kit.files import write_json
from tokenize_kit.metrics.options import EvaluateOptions

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.metrics.evaluate import EvaluateResult
    from tokenize_kit.progress import Progress
    from tokenize_kit.report import Page


def evaluate_command(options: EvaluateOptions, progress: Progress) -> EvaluateResult:
    """Evaluate a tokenizer on samples and write the report that ``--out`` asks for.

    Raises:
        FileNotFoundError, ValueError: as `tokenize_kit.metrics.evaluate.evaluate`.
    """
    from tokenize_kit.metrics.evaluate import evaluate

    result = evaluate(options, progress)
    if options.out is not None:
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "evaluation.json", result.to_dict())
        evaluation_page(options, result).write(folder / "report.html")
    return result


def evaluation_page(options: EvaluateOptions, result: EvaluateResult) -> Page:
    """Build the report of one evaluation: the numbers, originals beside reconstructions or tokens, the usage of ids."""
    from tokenize_kit.report import Page

    page = Page(f"Evaluation of {Path(options.tokenizer).name}")
    add_evaluation(page, result)
    page.heading("Options")
    page.table(("option", "value"), [(name, str(value)) for name, value in asdict(options).items()])
    return page


def add_evaluation(page: Page, result: EvaluateResult) -> None:
    """Add the numbers and the examples of an evaluation to a page."""
    rows = [
        (name.replace("_", " "), "not defined" if value is None else value) for name, value in result.metrics.items()
    ]
    page.table(("metric", "value"), rows)
    page.paragraph(result.protocol)
    pictures: list[tuple[Tensor, str]] = []
    for example in result.examples:
        if example.tokens is not None:
            page.tokens(example.tokens, example.ids)
        elif isinstance(example.sample, str):
            page.quote(example.sample)
            page.quote(str(example.reconstruction))
        else:
            assert not isinstance(example.reconstruction, str), "a picture decodes to a picture"
            pictures += [(example.sample, example.key), (example.reconstruction, f"decoded, {example.note}")]
    if pictures:
        page.pictures(pictures, scale=max(1, 96 // pictures[0][0].shape[-1]))
    if result.usage_counts:
        page.heading("Use of the vocabulary")
        page.histogram(result.usage_counts, "id, from the most to the least used", "uses")
