"""Whether a folder belongs to the run that is about to write into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenize_kit.files import recorded_run
from tokenize_kit.shards.format import PLAN_FILE


def check_folder(out: Path, plan: dict[str, Any]) -> None:
    """Refuse a folder that belongs to something else.

    Raises:
        ValueError: names what differs.
    """
    before = recorded_run(
        out,
        PLAN_FILE,
        no_folder="give a folder for the shards",
        foreign="holds other files ({first}, ...); give an empty or new folder for the shards",
    )
    differing = [] if before is None else _differences(before, plan)
    if differing:
        raise ValueError(
            f"{out} belongs to another run: {'; '.join(differing[:4])}. Use the same options and inputs to continue it, "
            "or another --out"
        )


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in dict.fromkeys([*before, *now]):
            found += _differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        if any(line.startswith("inputs.") for line in found):
            return [line for line in found if not line.startswith(("inputs_written", "shards"))]
        return found
    if before == now:
        return []
    if name == "inputs.digest":
        return ["inputs.digest: the names or sizes of the input files changed"]
    if name == "inputs_written":
        return ["an input file was written again since the run began"]
    return [f"{name} was {_short(before)}, is now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
