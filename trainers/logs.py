"""What a run tells of itself: a line of JSON a log step, TensorBoard, and samples of any modality.

OUT/train_log.jsonl                 {"step": 10, "loss": 2.31, ..., "warnings": ["..."]}
OUT/tensorboard/                    the same numbers, pictures and sounds
OUT/pictures/00000200-NAME.png      what the task shows after a validation; see `trainers.exhibits`
OUT/sounds/00000200-NAME.wav        what it lets one hear
OUT/videos/00000200-NAME.webp       what it shows in motion
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenize_kit.disk import explained
from tokenize_kit.disk import step as announce
from tokenize_kit.files import atomic_write, make_folder
from trainers.exhibits import Exhibit, hang

LOG_FILE = "train_log.jsonl"
BOARD_FOLDER = "tensorboard"
TIMING = "_per_second"
"""How the name of the one entry ends that differs between two runs of the same options."""


class RunLog:
    """The log of a run; only its first process has one.

    Args:
        out: the folder of the run.
        step: from which step the run goes on; what was logged after it is dropped.
    """

    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._out = out
        make_folder(out)
        _hush_board()
        rewind_log(out / LOG_FILE, step)
        with explained(out / LOG_FILE):
            self._file = (out / LOG_FILE).open("a", encoding="utf-8")
        # purge_step hides what a killed run logged after the checkpoint that this one continues from.
        with explained(out / BOARD_FOLDER):
            self._board: Any = SummaryWriter(str(out / BOARD_FOLDER), purge_step=step + 1)

    def write(self, step: int, line: Mapping[str, float], warnings: Sequence[str] = ()) -> None:
        """Write the numbers of a step, and what is to be said about them."""
        said = {"warnings": list(warnings)} if warnings else {}
        log, board = self._out / LOG_FILE, self._out / BOARD_FOLDER
        announce("write", log)
        with explained(log):
            self._file.write(json.dumps({"step": step, **line, **said}) + "\n")
            self._file.flush()
        announce("write", board)
        with explained(board):
            for name, value in line.items():
                self._board.add_scalar(name if "/" in name else f"train/{name}", value, step)
            for text in warnings:
                self._board.add_text("warnings", text, step)

    def show(self, step: int, exhibits: Mapping[str, Exhibit]) -> None:
        """Write samples by name, each as a file of its modality and on the board."""
        for name, exhibit in exhibits.items():
            with explained(self._out / BOARD_FOLDER):
                hang(exhibit, name, step, self._out, self._board)

    def close(self) -> None:
        """Close the files."""
        with explained(self._out / LOG_FILE):
            self._file.close()
        with explained(self._out / BOARD_FOLDER):
            self._board.close()


def _hush_board() -> None:
    """Keep TensorBoard's thread from printing what it raises: the writer raises it again in its next call."""
    before = threading.excepthook
    if getattr(before, "hushes_board", False):
        return

    def hook(arguments: threading.ExceptHookArgs, /) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            before(arguments)

    hook.hushes_board = True  # type: ignore[attr-defined]
    threading.excepthook = hook


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
