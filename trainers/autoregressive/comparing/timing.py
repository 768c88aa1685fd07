"""Training for equal time: how long a step takes is measured, and so many steps are made as fit.

The schedule of the learning rate then runs over steps that are known beforehand, and what is trained follows from their number:
the same number gives the same weights. The number itself depends on the machine and on what else it does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tokenize_kit.progress import Field, Progress

if TYPE_CHECKING:
    from trainers.autoregressive.options import TrainSequenceOptions

TRIAL_STEPS = 12
"""Of the run that tells how long a step takes."""


class StepClock(Progress):
    """Notes when each step was told, and passes everything on.

    Args:
        shown: shows the position; None shows nothing.
    """

    def __init__(self, shown: Progress | None = None) -> None:
        super().__init__(enabled=False)
        self._behind = shown
        self._times: list[tuple[float, float]] = []

    def task(self, label: str, total: float | None = None) -> None:
        """See `Progress.task`."""
        if self._behind is not None:
            self._behind.task(label, total)

    def update(self, done: float | None = None, **fields: Field) -> None:
        """See `Progress.update`."""
        if done is not None:
            self._times.append((done, time.monotonic()))
        if self._behind is not None:
            self._behind.update(done, **fields)

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        if self._behind is not None:
            self._behind.note(text)

    @property
    def seconds_a_step(self) -> float | None:
        """The median of what steps took; None if fewer than three were told.

        What comes before the first is building, and the last is told after the validation.
        """
        times = self._times[:-1]
        each = [(after - before) / (step - last) for (last, before), (step, after) in pairwise(times)]
        return statistics.median(each) if each else None


def steps_that_fit(options: TrainSequenceOptions, seconds: float) -> tuple[int, float]:
    """Return how many steps of a training fit into some seconds, at least 1, and how many seconds one takes.

    Args:
        options: of the training; a short one of the same kind is made to see.
        seconds: for the steps alone, without validation.
    """
    from trainers.autoregressive.train import train_sequence

    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(
            options,
            out=str(Path(folder) / "trial"),
            steps=TRIAL_STEPS,
            track="none",
            validate_every=TRIAL_STEPS,
            checkpoint_every=TRIAL_STEPS,
            validation_tokens=1,
            log_every=1,
        )
        train_sequence(trial, clock)
    each = clock.seconds_a_step
    assert each is not None, "a run of several steps tells each of them"
    return max(1, int(seconds / each)), each
