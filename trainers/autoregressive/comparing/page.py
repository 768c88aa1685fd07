"""The report of a comparison: one table, bits against distortion, and samples of all tokenizers below one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.progress import several
from tokenize_kit.report import Page
from tokenize_kit.report.examples import show, show_single
from trainers.autoregressive.comparing.options import KEYS_FILE, REPORT_FILE, CompareOptions
from trainers.autoregressive.comparing.parts import drawn_samples, evaluation_of

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Tokenizer
    from trainers.autoregressive.comparing.contestant import Contestant
    from trainers.autoregressive.comparing.result import Compared, CompareResult

_SPEEDS = ("encode_", "decode_")


def write_page(
    options: CompareOptions,
    result: CompareResult,
    contestants: Sequence[Contestant],
    drawn: Sequence[dict[str, Any]],
    out: Path,
    progress: Progress,
) -> None:
    """Write the report.

    Args:
        options: of the comparison.
        result: what was found.
        contestants: the tokenizers, in the same order.
        drawn: of each, which samples were drawn.
        out: the folder.
        progress: is told what is decoded for it.
    """
    page = Page(f"{several(len(contestants), 'tokenizers')} compared")
    page.paragraph(
        f"On {several(result.samples, 'samples')} of {', '.join(options.data)} that no model was trained on. The Transformer of "
        f"each tokenizer ({options.preset}, template {result.template!r}) has the same blocks and was trained for about "
        f"{options.minutes:g} minutes."
    )
    page.table(*_table(result))
    curves: dict[str, tuple[list[float], list[float]]] = {}
    points: dict[str, tuple[list[float], list[float]]] = {}
    for one in result.tokenizers:
        curves[f"{one.name}: packed to learned"] = ([one.packed, one.prior], [one.distortion] * 2)
        points[one.name] = ([one.prior], [one.distortion])
    page.curves(curves, result.unit, result.distortion_is, points=points)
    page.notes(_notes(options, result, [one.tokenizer for one in contestants]))
    page.heading("Distortion, rate and speed")
    names = list(dict.fromkeys(name for one in result.tokenizers for name in one.metrics))
    rows = [(name.replace("_", " "), *(_shown(one.metrics.get(name)) for one in result.tokenizers)) for name in names]
    page.table(("metric", *(one.name for one in result.tokenizers)), rows)
    for one, made, contestant in zip(result.tokenizers, drawn, contestants, strict=True):
        page.heading(one.name)
        captions = made["prompts"] or [f"drawn {number + 1}" for number in range(len(made["files"]))]
        page.paragraph(f"Drawn from its model{', for captions of held-out samples' * bool(made['prompts'])}:")
        show_single(page, list(zip(drawn_samples(contestant, made), captions, strict=True)), contestant.tokenizer.spec)
        page.paragraph("Held-out samples, and what comes back:")
        seen = evaluation_of(options, contestant, out / KEYS_FILE, progress, options.samples)
        show(page, seen.examples, contestant.tokenizer.spec)
    page.write(out / REPORT_FILE)


def _table(result: CompareResult) -> tuple[Sequence[str], list[Sequence[object]]]:
    speeds = [name for name in result.tokenizers[0].metrics if name.startswith(_SPEEDS)]
    ranked = any(one.rank for one in result.tokenizers)
    header = [
        "tokenizer",
        "vocabulary",
        "tokens a sample",
        result.distortion_is,
        f"{result.unit}: packed",
        "entropy",
        "under the model",
        "saved",
        *(name.replace("_", " ") for name in speeds),
        "parameters",
        "steps",
        "epochs",
        *(["median rank of the true caption", "first"] if ranked else []),
    ]
    return header, [_row(one, speeds, ranked) for one in result.tokenizers]


def _row(one: Compared, speeds: Sequence[str], ranked: bool) -> Sequence[object]:
    rank = [f"{one.rank['median']:g} of {one.rank['samples']}", f"{one.rank['first']:.0%}"] if one.rank else ["", ""]
    return (
        one.name,
        one.vocabulary,
        one.tokens_a_sample,
        one.distortion,
        one.packed,
        one.entropy,
        one.prior,
        f"{one.saving:.0%}",
        *(_shown(one.metrics.get(name)) for name in speeds),
        one.parameters,
        one.steps,
        one.epochs,
        *(rank if ranked else []),
    )


def _notes(options: CompareOptions, result: CompareResult, tokenizers: Sequence[Tokenizer]) -> list[str]:
    trials = [one.trial_seconds_a_step for one in result.tokenizers]
    how = "The numbers of steps were given."
    if all(trials):
        told = ", ".join(
            f"{one.name} {one.trial_seconds_a_step:.3g}"
            + (f" (then {one.seconds_a_step:.3g})" if one.seconds_a_step is not None else "")
            for one in result.tokenizers
        )
        how = (
            f"Steps follow from a trial of each training, in seconds a step: {told}. They are kept; with --steps "
            f"{' '.join(str(one.steps) for one in result.tokenizers)} the same models are made anew."
        )
    lines = [
        "Packed: each id in as many bits as its codebook needs. Entropy: of the ids on their own, counted on these samples "
        "themselves, so that it is too low where they are few. Under the model: what the Transformer, which has not seen them, "
        "makes of them, ends and shapes included"
        f"{'; the captions are given and cost nothing' if options.captions is not None else ''}. Small under few steps may be "
        "large under many: compare at the time that you mean to spend.",
        f"{how} Batches are of about {options.batch_tokens:,} tokens. Validation is not part of the time.",
        "Speeds and seconds are those of the first run of this command, on a machine that may have had other work.",
    ]
    if options.captions is None:
        lines.append("No rank of true captions: there are no --captions.")
    else:
        lines.append(
            "Rank of the true caption: of each sample among the captions of all that were ranked, by the probability of the "
            "sample; 1 is best, and half of them is chance."
        )
    taken = {(one.spec.channels, one.spec.sample_rate, one.spec.frame_rate) for one in tokenizers}
    if len(taken) > 1:
        lines.append(
            "The tokenizers take samples of several channels or rates, so what one of them drops before it encodes is not in its "
            "distortion."
        )
    return lines


def _shown(value: object) -> object:
    return "not defined" if value is None else value
