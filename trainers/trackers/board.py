"""TensorBoard's files in OUT/tensorboard."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenize_kit.disk import explained
from tokenize_kit.disk import step as announce

BOARD_FOLDER = "tensorboard"


class TensorBoard:
    """See `trainers.trackers.Tracker`.

    Args:
        out: the folder of the run.
        step: from which step it goes on.
    """

    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = out / BOARD_FOLDER
        _hush()
        # purge_step hides what a killed run logged after the checkpoint that this one continues from.
        with explained(self._folder):
            self.writer: Any = SummaryWriter(str(self._folder), purge_step=step + 1)

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker.add_scalars`."""
        announce("write", self._folder)
        with explained(self._folder):
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def add_text(self, tag: str, text_string: str, global_step: int) -> None:
        """See `Tracker.add_text`."""
        with explained(self._folder):
            self.writer.add_text(tag, text_string, global_step)

    def add_image(self, tag: str, img_tensor: Tensor, global_step: int) -> None:
        """See `Tracker.add_image`."""
        with explained(self._folder):
            self.writer.add_image(tag, img_tensor, global_step)

    def add_audio(self, tag: str, snd_tensor: Tensor, global_step: int, sample_rate: int) -> None:
        """See `Tracker.add_audio`."""
        with explained(self._folder):
            self.writer.add_audio(tag, snd_tensor, global_step, sample_rate)

    def close(self) -> None:
        """See `Tracker.close`."""
        with explained(self._folder):
            self.writer.close()


def _hush() -> None:
    """Keep TensorBoard's thread from printing what it raises: the writer raises it again in its next call."""
    before = threading.excepthook
    if getattr(before, "hushes_board", False):
        return

    def hook(arguments: threading.ExceptHookArgs, /) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            before(arguments)

    hook.hushes_board = True  # type: ignore[attr-defined]
    threading.excepthook = hook
