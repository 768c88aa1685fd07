"""``compare``: the parts of the work in their order, what is found as one table, and the report."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.autoregressive.comparing.options import COMPARE_FILE, KEYS_FILE, RESULTS_FILE, CompareOptions
from trainers.autoregressive.comparing.result import Compared, CompareResult

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from trainers.autoregressive.comparing.contestant import Contestant


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
    from tokenize_kit.protocol import load_tokenizer
    from trainers.autoregressive.comparing.contestant import contestants_of
    from trainers.autoregressive.comparing.page import write_page

    shown = progress or Progress(enabled=False)
    contestants = contestants_of(options)
    out = Path(options.out)
    loaded = [one.tokenizer for one in contestants]
    loaded += [] if options.captions is None else [load_tokenizer(options.captions)]
    identity = options.identity() | {"fingerprints": [tokenizer.fingerprint for tokenizer in loaded]}
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
        measured = one.kept("evaluation", partial(parts.evaluate_tokenizer, options, one, keys, progress))
        plan = one.kept("plan", partial(parts.plan_training, options, one, keys))
        trained = one.kept("training", partial(parts.train_model, options, one, keys, plan, progress))
        rank = one.kept("rank", partial(parts.rank_captions, options, one, keys))
        drawn.append(one.kept("drawn", partial(parts.draw_samples, options, one, keys, progress)))
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
