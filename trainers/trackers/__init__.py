"""Where a run shows its numbers and samples beside its own folder: a tracker, one file each (``--track NAME``).

The log that a run lives by is ``train_log.jsonl``; what a tracker has of a run that was killed may go further than its last
checkpoint. A tracker is made when the first process begins to train, and no other process has one. Its package is imported then
and not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

from torch import Tensor

from tokenize_kit.protocol.registry import TRACKERS


class Tracker(Protocol):
    """What a run tells somebody. `Modality.board` shows samples on it, by those of the methods that it needs."""

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Tell the numbers of a step."""
        ...

    def add_text(self, tag: str, text_string: str, global_step: int) -> None:
        """Tell a text."""
        ...

    def add_image(self, tag: str, img_tensor: Tensor, global_step: int) -> None:
        """Show a picture, uint8 (C, H, W) of 1 or 3 channels."""
        ...

    def add_audio(self, tag: str, snd_tensor: Tensor, global_step: int, sample_rate: int) -> None:
        """Let one hear a sound, float32 (N,) in [-1, 1]."""
        ...

    def close(self) -> None:
        """Deliver what was told, and end."""
        ...


class MakesTracker(Protocol):
    """What is registered as a tracker."""

    def __call__(self, out: Path, step: int) -> Tracker:
        """Return a tracker of a run.

        Args:
            out: the folder of the run.
            step: from which step it goes on.

        Raises:
            ValueError: the package is not installed; the message says how to install it.
        """
        ...


def tracker_of(name: str, out: Path, step: int) -> Tracker:
    """Return the tracker that is registered as ``name``, for a run; see `MakesTracker`.

    Raises:
        ValueError: there is none of that name, or its package is not installed.
    """
    return cast("MakesTracker", TRACKERS.get(name))(out, step)
