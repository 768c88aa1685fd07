"""Runs that are not finished, checkpoints, and files of weights."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from tokenize_kit.cli.looking.fields import short
from tokenize_kit.files import read_json_object, read_signed, sha256_of_file

_LEDGER = "[0-9][0-9][0-9][0-9][0-9]*.json"


def look_encode_run(folder: Path) -> dict[str, Any]:
    """Return how far an encode run is: shards that are done, and what they hold.

    Raises:
        ValueError: its plan is damaged.
    """
    from tokenize_kit.shards.format import PLAN_FILE
    from tokenize_kit.shards.ledger import UnitResult
    from tokenize_kit.sources.blocks import count_lost

    plan = read_signed(folder / PLAN_FILE)
    tokens: Counter[str] = Counter()
    rows = failures = done = 0
    damaged = ""
    for path in sorted(folder.glob(_LEDGER)):
        try:
            result = UnitResult.from_dict(read_signed(path))
            size = (folder / result.file.name).stat().st_size
        except (ValueError, KeyError, TypeError, OSError) as error:
            damaged = damaged or f"{path.name}: {error!r}"
            continue
        if size != result.file.bytes:
            damaged = damaged or f"{result.file.name} has {size:,} bytes, its ledger says {result.file.bytes:,}"
            continue
        done, rows, failures = done + 1, rows + result.file.rows, failures + count_lost(result.failures)
        tokens.update(result.file.tokens)
    streams = plan.get("streams")
    facts: dict[str, Any] = {
        "shards_done": f"{done:,} of {plan.get('shards', 0):,}",
        "rows": rows,
        "tokens": dict(tokens),
        "failures": failures,
        "streams": {name: entry.get("tokenizer") for name, entry in streams.items()}
        if isinstance(streams, dict)
        else {},
        "options": plan.get("options", {}),
        "inputs": plan.get("inputs", {}),
        "next": "run the same 'tokenize-kit encode' again to finish it",
    }
    return facts | ({"damaged": damaged} if damaged else {})


def look_samples(folder: Path, shown: int) -> dict[str, Any] | None:
    """Return what `generate` has written into a folder, or is to write where it has not ended; None if that is none of its.

    Raises:
        ValueError: what it says of itself is damaged.
    """
    from trainers.autoregressive.samples_folder import GENERATE_FILE, SAMPLES_FILE

    facts: dict[str, Any] = {}
    if begun := (folder / GENERATE_FILE).is_file():
        left_out = ("format_version", "command", "sha256", "own_digest")
        asked = read_json_object(folder / GENERATE_FILE)
        facts["options"] = {name: value for name, value in asked.items() if name not in left_out and value}
    path = folder / SAMPLES_FILE
    if not path.is_file():
        return facts | {"next": "it has not ended; run the same 'tokenize-kit generate' again"} if begun else None
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        ours = all({"index", "files", "ids"} <= set(line) for line in lines)
    except (ValueError, TypeError) as error:
        if begun:
            raise ValueError(f"{path} is damaged ({error}); draw the samples again") from None
        return None
    if not (begun or ours):
        return None
    facts["samples"] = len(lines)
    facts["first_samples"] = [{name: short(line[name]) for name in line if name != "ids"} for line in lines[:shown]]
    return facts


def look_decoded(folder: Path, shown: int) -> dict[str, Any] | None:
    """Return what `decode` has written into a folder, or is to write where it has not ended; None if that is none of its.

    Raises:
        ValueError: what it says of itself is damaged.
    """
    from tokenize_kit.shards.decode import DECODE_FILE, FILES_FILE

    if not (folder / DECODE_FILE).is_file():
        return None
    asked = read_json_object(folder / DECODE_FILE)
    if asked.get("command") != "decode":
        return None
    again = "it has not ended; run the same 'tokenize-kit decode' again"
    facts: dict[str, Any] = {
        name: asked[name] for name in ("stream", "fingerprint", "limit", "codebooks") if asked.get(name)
    }
    path = folder / FILES_FILE
    if not path.is_file():
        return facts | {"next": again}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        there = sum((folder / line["file"]).is_file() for line in lines)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); decode into an empty folder again") from None
    facts |= {"samples": len(lines), "files": there, "first_files": lines[:shown]}
    return facts if there == len(lines) else facts | {"next": again}


def look_evaluation(folder: Path) -> dict[str, Any] | None:
    """Return the numbers of an evaluation; None if there is none."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return None
    values = read_json_object(path)
    names = ("tokenizer", "name", "fingerprint", "modality", "part", "samples", "failures", "metrics")
    return {name: values[name] for name in names} if set(names) <= set(values) else None


def look_figures(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return what `score`, `probe` or `compare` found, or is to find where it has not ended, after a name for it.

    None if the folder is none of theirs.
    """
    from trainers.autoregressive.comparing.options import COMPARE_FILE
    from trainers.autoregressive.comparing.options import RESULTS_FILE as COMPARED_FILE
    from trainers.autoregressive.probing.options import PROBE_FILE
    from trainers.autoregressive.probing.options import RESULTS_FILE as PROBED_FILE
    from trainers.autoregressive.scoring.options import SCORE_FILE, SUMMARY_FILE

    for command, kind, record, last in (
        ("score", "scores", SCORE_FILE, SUMMARY_FILE),
        ("probe", "probe", PROBE_FILE, PROBED_FILE),
        ("compare", "comparison", COMPARE_FILE, COMPARED_FILE),
    ):
        if not (folder / record).is_file() or "format_version" not in (asked := read_json_object(folder / record)):
            continue
        left_out = ("format_version", "command", "sha256", "fingerprints")
        facts: dict[str, Any] = {
            "options": {name: value for name, value in asked.items() if name not in left_out and value}
        }
        if not (folder / last).is_file():
            return kind, facts | {"next": f"it has not ended; run the same 'tokenize-kit {command}' again"}
        return kind, facts | {"results": read_json_object(folder / last)}
    return None


def look_training_run(folder: Path) -> dict[str, Any]:
    """Return how far a training is, by its checkpoint and its log.

    Raises:
        ValueError: what it says of itself is damaged.
    """
    from trainers.checkpoints import CHECKPOINTS, RUN_FILE, last_checkpoint, run_position
    from trainers.logs import LOG_FILE, read_log

    run = read_signed(folder / RUN_FILE)
    made, steps = run_position(folder)
    checkpoint = last_checkpoint(folder / CHECKPOINTS)
    facts: dict[str, Any] = {"command": run.get("command", "train transformer")}
    facts["step"] = f"{made if checkpoint else 0:,} of {steps:,}"
    facts["checkpoint"] = None if checkpoint is None else f"{CHECKPOINTS}/{checkpoint.name}"
    if (folder / LOG_FILE).is_file() and (lines := read_log(folder / LOG_FILE)):
        facts["log"] = lines[-1]
    facts["options"] = {name: value for name, value in run.items() if not isinstance(value, (dict, list))}
    return facts | {"next": "run the same command again to go on with it"}


def look_checkpoint(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, and whether its files are those that were written.

    Raises:
        ValueError: its state is damaged.
    """
    from trainers.checkpoints import STATE_FILE

    state = read_signed(folder / STATE_FILE)
    sums = state.get("sha256")
    sums = sums if isinstance(sums, dict) else {}
    files, damaged = {}, "" if sums else f"{STATE_FILE} names no files"
    for name, expected in sums.items():
        path = folder / Path(name).name
        if not path.is_file():
            damaged = damaged or f"{name} is missing"
        elif sha256_of_file(path) != expected:
            damaged = damaged or f"{name} is not what was written"
        else:
            files[name] = path.stat().st_size
    loop = state.get("loop") if isinstance(state.get("loop"), dict) else {}
    facts: dict[str, Any] = {"step": state.get("step"), "run": str(folder.absolute().parent.parent)}
    facts |= {
        name: loop[name] for name in ("best_step", "best_metrics", "metrics") if isinstance(loop, dict) and name in loop
    }
    facts["files"] = files
    return facts | ({"damaged": damaged} if damaged else {})


def look_weights(path: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file.

    Raises:
        ValueError: it is damaged.
        VerificationError: it is not what was written.
    """
    from safetensors import SafetensorError, safe_open

    from tokenize_kit.weights import check_seal

    check_seal(path)
    try:
        with safe_open(str(path), framework="numpy") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from a copy") from None
    facts: dict[str, Any] = {"tensors": len(shapes), "parameters": sum(math.prod(shape) for shape in shapes.values())}
    if "training" in metadata:
        facts["training"] = json.loads(metadata["training"])
    facts["bytes"] = path.stat().st_size
    facts["first_tensors"] = dict(list(shapes.items())[:5])
    return facts
