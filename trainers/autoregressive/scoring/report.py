"""The report of ``score``: the numbers, what tells two sets apart, and where the bits of the first samples are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tokenize_kit.progress import readable
from tokenize_kit.protocol import ShowsTokens
from tokenize_kit.report import Page
from tokenize_kit.report.bits import Bits, show_bits
from tokenize_kit.sequences.packing import Ints
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.model_folder import LoadedModel
from trainers.autoregressive.scoring.anomalies import CONVENTION, Rates
from trainers.autoregressive.scoring.scores import bits_of_grids

_MOST_POINTS = 400
"""Of a curve; more cannot be seen."""


def score_page(loaded: LoadedModel, values: Mapping[str, Any], compared: tuple[Rates, Rates] | None) -> Page:
    """Return a report with the numbers.

    Args:
        loaded: the model.
        values: what ``summary.json`` says.
        compared: the rates of the two sets, if there are two.
    """
    page = Page("Likelihood")
    page.paragraph(
        f"{values['samples']:,} samples of {values['tokens']:,} predicted tokens under the template {str(loaded.template)!r}, "
        f"the weights of step {loaded.step:,}."
    )
    page.table(("measure", "value"), [("nats a sample", values["nats_per_sample"]), *_named(values["metrics"])])
    if compared is not None:
        _add_anomalies(page, values["anomalies"], *compared)
    return page


def add_maps(page: Page, loaded: LoadedModel, data: TokenData, chosen: Ints, folder: Path, readings: int) -> list[Path]:
    """Show where the bits of documents are, and write the pictures that are worth it; returns their files.

    Args:
        page: to add to.
        loaded: the model.
        data: its documents.
        chosen: (n,), which of them.
        folder: for the pictures, ``00000.png`` or where several parts are predicted ``00000.image.png``.
        readings: see `score_documents`.

    Raises:
        ValueError: the model knows only the probability of a whole sample.
    """
    page.heading("Where the bits are")
    page.paragraph(
        "What the model foresaw is dark, what surprised it is light; of texts the ground is darker the more bits."
    )
    files = []
    for number, document in enumerate(chosen.tolist()):
        bits = bits_of_grids(loaded, data.documents, document, readings=readings)
        grids = data.documents.grids(document)
        for name, places in bits.items():
            stream = loaded.template.stream_of(name)
            tokenizer = loaded.tokenizers[stream]
            ids = torch.from_numpy(grids[name].astype("int64"))
            tokens = tokenizer.tokens(ids) if isinstance(tokenizer, ShowsTokens) else None
            note = f"{readable(float(places.sum()))} bits" + ("" if len(bits) == 1 else f" of {name}")
            shown = Bits(data.keys[document], tokenizer.decode(ids), places, tokens, note)
            tail = "" if len(loaded.template.target) == 1 else f".{name}"
            spec = loaded.prepared(stream).taken(tokenizer.spec)
            if (file := show_bits(page, shown, spec, folder / f"{number:05}{tail}.png")) is not None:
                files.append(file)
    return files


def _named(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name.replace("_", " "), value) for name, value in metrics.items()]


def _add_anomalies(page: Page, anomalies: Mapping[str, Any], first: Rates, second: Rates) -> None:
    page.heading("What tells the second set from the first")
    rows = [
        (
            name,
            anomalies[name]["mean"],
            anomalies[name]["mean_against"],
            anomalies[name]["more_bits_are_anomalous"],
            anomalies[name]["fewer_bits_are_anomalous"],
        )
        for name in ("plain", "corrected")
    ]
    unit = f"bits a {anomalies['unit']}"
    page.table(
        (
            "score",
            f"first set, {unit}",
            f"second set, {unit}",
            "AUROC, more bits anomalous",
            "AUROC, fewer bits anomalous",
        ),
        rows,
    )
    page.notes([CONVENTION, f"Lossless code: {', '.join(anomalies['codes'])}."])
    page.curves(
        {
            "plain": _roc(first.plain, second.plain),
            "corrected": _roc(first.corrected, second.corrected),
        },
        "first set taken for anomalous",
        "second set taken for anomalous",
    )


def _roc(first: Sequence[float], second: Sequence[float]) -> tuple[list[float], list[float]]:
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve([0] * len(first) + [1] * len(second), [*first, *second])
    step = max(1, len(false) // _MOST_POINTS)
    places = sorted({*range(0, len(false), step), len(false) - 1})
    return [float(false[place]) for place in places], [float(true[place]) for place in places]
