"""Whether a folder belongs to the run that is about to write into it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from tokenize_kit.disk import step
from tokenize_kit.files import read_json_object, recorded_run, signed, write_json
from tokenize_kit.partial import is_partial
from tokenize_kit.shards.format import FAILURES_FILE, INCOMPLETE_FILE, PLAN_FILE, TOKENIZERS_FOLDER

WRITTEN = ("inputs_written", "written")
"""What a plan says of when the input files were written: by it a later run knows which of them it must look at again."""

_OF_A_UNIT = re.compile(r"\d{5,}\.(json|arrow)")


class OtherRunError(ValueError):
    """The folder belongs to a run with other options or inputs."""


def begin_plan(out: Path, plan: dict[str, Any], *, alone: bool) -> dict[str, Any]:
    """Tie a folder to a run, or find that it is; return the plan that is there, whose `WRITTEN` may be of an earlier time.

    A run that has made nothing yet does not keep another one out: where nobody else is there, what it left is removed.

    Raises:
        OtherRunError: it belongs to a run with other options or inputs; names what differs.
        ValueError: it is a file, or holds something else.
    """
    before = recorded_run(
        out,
        PLAN_FILE,
        no_folder="give a folder for the shards",
        foreign="holds other files ({first}, ...); give an empty or new folder for the shards",
    )
    if before is not None and (differing := differences(before, plan)):
        if not alone or _has_made_something(out):
            raise OtherRunError(
                f"{out} belongs to another run: {'; '.join(differing[:4])}. Use the same options and inputs to continue it, "
                "or another --out"
            )
        _clear(out)
        before = None
    if before is None:
        write_json(out / PLAN_FILE, signed(plan))
        return plan
    return before


def _has_made_something(out: Path) -> bool:
    """Return whether there is a shard with rows, or anything that is not of a run."""
    for item in out.iterdir():
        if item.name in (PLAN_FILE, FAILURES_FILE, INCOMPLETE_FILE, TOKENIZERS_FOLDER) or is_partial(item.name):
            continue
        if not _OF_A_UNIT.fullmatch(item.name):
            return True
        if item.suffix == ".json":
            try:
                if read_json_object(item)["file"]["rows"]:
                    return True
            except (ValueError, KeyError, TypeError, OSError):
                return True
    return False


def _clear(out: Path) -> None:
    """Remove what a run that has made nothing left; its plan last, so that a kill leaves a folder that can be cleared again."""
    for item in sorted(out.iterdir(), key=lambda item: item.name == PLAN_FILE):
        step("remove", item)
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Return in words what differs between two plans, or two parts of such; what is not there is as if it were null."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in dict.fromkeys([*before, *now]):
            if not name and key in WRITTEN:
                continue
            found += differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        if any(line.startswith("inputs.") for line in found):
            return [line for line in found if not line.startswith("shards")]
        return found
    if before == now:
        return []
    if name == "inputs.digest":
        return ["inputs.digest: the names or sizes of the input files changed"]
    return [f"{name} was {_short(before)}, is now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
