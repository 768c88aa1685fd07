"""What a run tells of itself: a line of JSON a log step, a tracker (`trainers.trackers`), and samples of any modality.

OUT/train_log.jsonl                 {"step": 10, "loss": 2.31, ..., "warnings": ["..."]}
OUT/tensorboard/                    the same numbers, pictures and sounds, or where another tracker has them
OUT/pictures/00000200-NAME.png      what the task shows after a validation; see `trainers.exhibits`
OUT/sounds/00000200-NAME.wav        what it lets one hear
OUT/videos/00000200-NAME.webp       what it shows in motion
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenize_kit.disk import explained
from tokenize_kit.disk import step as announce
from tokenize_kit.files import atomic_write, make_folder
from trainers.config import TENSORBOARD
from trainers.exhibits import Exhibit, hang
from trainers.trackers import tracker_of

LOG_FILE = "train_log.jsonl"
TIMING = "_per_second"
"""How the name of the one entry ends that differs between two runs of the same options."""


class RunLog:
    """The log of a run; only its first process has one.

    Args:
        out: the folder of the run.
        step: from which step the run goes on; what was logged after it is dropped.
        track: the name of the tracker that is told the same.

    Raises:
        ValueError: there is no such tracker, or its package is not installed.
    """

    def __init__(self, out: Path, step: int, track: str = TENSORBOARD) -> None:
        self._out = out
        make_folder(out)
        self._tracker = tracker_of(track, out, step)
        rewind_log(out / LOG_FILE, step)
        with explained(out / LOG_FILE):
            self._file = (out / LOG_FILE).open("a", encoding="utf-8")

    def write(self, step: int, line: Mapping[str, float], warnings: Sequence[str] = ()) -> None:
        """Write the numbers of a step, and what is to be said about them."""
        said = {"warnings": list(warnings)} if warnings else {}
        log = self._out / LOG_FILE
        announce("write", log)
        with explained(log):
            self._file.write(json.dumps({"step": step, **line, **said}) + "\n")
            self._file.flush()
        self._tracker.add_scalars(
            {name if "/" in name else f"train/{name}": value for name, value in line.items()}, step
        )
        for text in warnings:
            self._tracker.add_text("warnings", text, step)

    def show(self, step: int, exhibits: Mapping[str, Exhibit]) -> None:
        """Write samples by name, each as a file of its modality, and show them on the tracker."""
        for name, exhibit in exhibits.items():
            hang(exhibit, name, step, self._out, self._tracker)

    def close(self) -> None:
        """Close the files."""
        with explained(self._out / LOG_FILE):
            self._file.close()
        self._tracker.close()


def rewind_log(path: Path, step: int) -> None:
    """Drop the lines of a log that are after ``step``, and a last line that a kill cut short."""
    if not path.exists():
        return
    lines = read_log(path)
    with atomic_write(path) as file:
        for line in lines:
            if line["step"] <= step:
                file.write((json.dumps(line) + "\n").encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ``train_log.jsonl``; a last line that is cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        lines.append(line)
    return lines
