"""The demo's stages in their order, and its report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tokenize_kit.claims import owned
from tokenize_kit.cli.demo.films import FilmPart
from tokenize_kit.cli.demo.options import DemoOptions, DemoResult
from tokenize_kit.cli.demo.pictures import PicturePart
from tokenize_kit.cli.demo.sheet import write_sheet
from tokenize_kit.cli.demo.sound import SoundPart
from tokenize_kit.cli.demo.text import TextPart
from tokenize_kit.cli.demo.workshop import Workshop

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.report import Page


def demo(options: DemoOptions, progress: Progress) -> DemoResult:
    """Run every stage and write the report.

    Raises:
        FileNotFoundError: the assets are not where they should be.
        ValueError: ``out`` holds a demo with other options; or as the functions of the stages.
    """
    began = time.perf_counter()
    shop = Workshop(options, progress)
    with owned(shop.out):
        return _demo(shop, began)


def _demo(shop: Workshop, began: float) -> DemoResult:
    text, pictures, films, sound = TextPart(shop), PicturePart(shop), FilmPart(shop), SoundPart(shop)
    shop.claim()
    text.make()
    pictures.make()
    films.make()
    sound.make()
    report = shop.stage("report", lambda: _report(shop, text, pictures, films, sound))
    assert sound.packed.kilobits_per_second is not None, "a sound has a rate"
    return DemoResult(
        str(report),
        round(time.perf_counter() - began, 1),
        shop.pace,
        text.bits_per_byte,
        pictures.palette_bits,
        pictures.tokenizer.metrics["psnr"],
        pictures.learned_bits,
        films.files,
        films.psnr,
        sound.packed.kilobits_per_second,
        sound.heard.mel_distance,
        sound.heard.si_sdr,
        sound.sounds,
        shop.stages,
    )


def _report(shop: Workshop, text: TextPart, pictures: PicturePart, films: FilmPart, sound: SoundPart) -> Path:
    from tokenize_kit.report import Page

    page = Page("tokenize-kit demo")
    page.paragraph(
        f"Five tokenizers and five small Transformers, trained on the CPU in {sum(shop.stages.values()):.0f} seconds from "
        f"{text.source.name} (1 MB of the Universal Declaration of Human Rights), {pictures.source.name} (emoji and names), "
        f"{films.source.name} (56 of them in motion) and {sound.source.name} (five spoken sentences)."
        + ("" if shop.pace == 1 else f" To be done in time here, the trainings had {shop.pace:.0%} of their steps.")
    )
    pictures.report(page)
    films.report(page)
    sound.report(page)
    text.report(page)
    page.heading("Training")
    _curves(page, shop)
    pictures.evaluation(page)
    page.heading("Time")
    page.table(("stage", "seconds"), list(shop.stages.items()))
    write_sheet(pictures.drawn, pictures.kept(), films.strip(), sound.strips(), shop.out / "pictures.png")
    return page.write(shop.out / "report.html")


def _curves(page: Page, shop: Workshop) -> None:
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for name in shop.models:
        lines = (shop.out / "models" / name / "train_log.jsonl").read_text(encoding="utf-8").splitlines()
        for key, label in (("bits_per_token", "train"), ("validation/bits_per_token", "held out")):
            if rows := [row for row in map(json.loads, lines) if key in row]:
                curves[f"{name}, {label}"] = ([row["step"] for row in rows], [row[key] for row in rows])
    page.curves(curves, "step", "bits a token")
