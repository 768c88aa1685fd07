"""``tokenize-kit evaluate``: measure a tokenizer, and with ``--out`` write ``report.html`` and ``evaluation.json``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tokenize_kit.files import write_json
from tokenize_kit.metrics.options import EvaluateOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenize_kit.metrics.audio_codecs import AudioRatePoint
    from tokenize_kit.metrics.audio_rate import AudioRateComparison
    from tokenize_kit.metrics.codecs import RatePoint
    from tokenize_kit.metrics.evaluate import EvaluateResult, Example
    from tokenize_kit.metrics.rate import RateComparison
    from tokenize_kit.metrics.speed import SizeSpeed
    from tokenize_kit.progress import Progress
    from tokenize_kit.report import Page


_SIZES_SHOWN = 12


def evaluate_command(options: EvaluateOptions, progress: Progress) -> EvaluateResult:
    """Evaluate a tokenizer on samples and write the report that ``--out`` asks for.

    Raises:
        FileNotFoundError, ValueError: as `tokenize_kit.metrics.evaluate.evaluate`.
    """
    from tokenize_kit.metrics.evaluate import evaluate

    result = evaluate(options, progress, codecs=options.codecs and options.out is not None)
    if options.out is not None:
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "evaluation.json", result.to_dict() | {"options": asdict(options)})
        evaluation_page(options, result).write(folder / "report.html")
    return result


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
    from tokenize_kit.metrics.audio_rate import AudioRateComparison

    rows = [
        (name.replace("_", " "), "not defined" if value is None else value) for name, value in result.metrics.items()
    ]
    page.table(("metric", "value"), rows)
    page.notes(result.protocol.splitlines())
    if result.examples:
        page.heading("The first samples: originals, and what comes back")
        _add_examples(page, result.examples, result.sample_rate)
    if result.worst:
        page.heading("The worst of all samples")
        _add_examples(page, result.worst, result.sample_rate)
    if result.rate is not None:
        page.heading("Rate and distortion beside classical codecs")
        if isinstance(result.rate, AudioRateComparison):
            _add_audio_rate(page, result.rate)
        else:
            _add_rate(page, result.rate)
    if result.usage_counts:
        page.heading("Use of the vocabulary")
        _add_usage(page, result)
    if result.speed_by_size:
        page.heading("Speed by size of the picture")
        _add_speed(page, result.speed_by_size)


def _add_examples(page: Page, examples: Sequence[Example], sample_rate: int | None) -> None:
    from tokenize_kit.report import Pair, SoundPair

    pairs: list[Pair] = []
    sounds: list[SoundPair] = []
    for example in examples:
        if isinstance(example.sample, str):
            if example.tokens is not None:
                page.tokens(example.tokens, example.ids)
            else:
                page.quote(example.sample)
            if example.tokens is None or example.sample != example.reconstruction:
                page.quote(str(example.reconstruction))
        else:
            assert not isinstance(example.reconstruction, str), "a picture decodes to a picture"
            if sample_rate is None:
                pairs.append(Pair(example.sample, example.reconstruction, example.key, example.note))
            else:
                sounds.append(SoundPair(example.sample, example.reconstruction, example.key, example.note))
    if pairs:
        page.pairs(pairs)
    if sounds and sample_rate is not None:
        page.sounds(sounds, sample_rate)


def _add_rate(page: Page, rate: RateComparison) -> None:
    curves = {name: _line(points) for name, points in rate.codecs.items()}
    points = {"tokens, fixed length": _line(rate.fixed_rate), "tokens, order-0 entropy": _line(rate.entropy_coded)}
    page.curves(
        {name: line for name, line in curves.items() if line[0]},
        "bytes a picture",
        "mean PSNR, dB",
        points={name: line for name, line in points.items() if line[0]},
        log_x=True,
    )
    names = list(rate.codecs)
    header = ["", "bytes", "bits a pixel", "PSNR", *(f"{name} {what}" for name in names for what in ("bytes", "PSNR"))]
    rows = []
    for ours in (*rate.fixed_rate, *rate.entropy_coded):
        row: list[object] = [ours.name, ours.bytes, ours.bits_per_pixel, _decibels(ours)]
        for name in names:
            near = next(pair.codec for pair in rate.nearest if pair.ours == ours and pair.codec.name == name)
            row += [near.bytes, _decibels(near)]
        rows.append(row)
    page.table(header, rows)
    page.notes(rate.protocol.splitlines())


def _add_audio_rate(page: Page, rate: AudioRateComparison) -> None:
    for label, value in (("mel distance", "mel_distance"), ("SI-SDR, dB", "si_sdr")):
        lines = {}
        for name, curve in {
            **rate.codecs,
            "tokens, fixed length": rate.fixed_rate,
            "tokens, order-0 entropy": rate.entropy_coded,
        }.items():
            known = [(point.kilobits_per_second, getattr(point, value)) for point in curve]
            known = [(x, y) for x, y in known if y is not None and x > 0]
            if known:
                lines[name] = ([x for x, _ in known], [y for _, y in known])
        curves = {name: line for name, line in lines.items() if name in rate.codecs}
        points = {name: line for name, line in lines.items() if name not in rate.codecs}
        if lines:
            page.curves(curves, "kbit/s", label, points=points, log_x=True)
    names = list(rate.codecs)
    header = [
        "",
        "kbit/s",
        "mel",
        "SI-SDR",
        *(f"{name} {what}" for name in names for what in ("kbit/s", "mel", "SI-SDR")),
    ]
    rows = []
    for ours in (*rate.fixed_rate, *rate.entropy_coded):
        row: list[object] = [ours.name, ours.kilobits_per_second, ours.mel_distance, _ratio(ours)]
        for name in names:
            near = next(pair.codec for pair in rate.nearest if pair.ours == ours and pair.codec.name == name)
            row += [near.kilobits_per_second, near.mel_distance, _ratio(near)]
        rows.append(row)
    page.table(header, rows)
    page.notes(rate.protocol.splitlines())


def _ratio(point: AudioRatePoint) -> object:
    return "not defined" if point.si_sdr is None else point.si_sdr


def _line(points: Sequence[RatePoint]) -> tuple[list[float], list[float]]:
    """Return sizes and PSNR of the points that have one."""
    known = [(point.bytes, point.psnr) for point in points if point.psnr is not None]
    return [size for size, _ in known], [value for _, value in known]


def _decibels(point: RatePoint) -> object:
    return "exact" if point.psnr is None else point.psnr


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


def _add_speed(page: Page, rows: Sequence[SizeSpeed]) -> None:
    header = ("size", "pictures", "encode, ms", "decode, ms", "encode, Mpixel/s", "decode, Mpixel/s")
    page.table(
        header,
        [
            (
                f"{row.width} x {row.height}",
                row.pictures,
                row.encode_milliseconds,
                row.decode_milliseconds,
                row.encode_megapixels_per_second,
                row.decode_megapixels_per_second,
            )
            for row in rows[:_SIZES_SHOWN]
        ],
    )
    if len(rows) > _SIZES_SHOWN:
        page.paragraph(f"{len(rows) - _SIZES_SHOWN:,} rarer sizes are in evaluation.json.")
