"""Grids through a coder, several side by side: one step of the model's cache for all of them at once.

Rows longer than the model's context are coded in windows. Each window is a document of its own with a new cache, and all but the
first begin with steps that are known from the one before (`Windows.carry`), so that nothing but the beginning of a row is
predicted from little:

    row             0 1 2 3 4 5 6 7 8 9
    first window    0 1 2 3 4 5                 all coded
    second                2 3 4 5 6 7           2 to 5 known, 6 and 7 coded
    third                     4 5 6 7 8 9       4 to 7 known, 8 and 9 coded

Both ends run this one function, with the same tokens in the same pieces and the same number of rows: a product of other
shapes rounds otherwise, and one bit of one logit is enough to lose everything that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive.coding.coder import Coder
from trainers.autoregressive.coding.frame import Frame
from trainers.autoregressive.models import SequenceModel, device_of

Ints = NDArray[np.int64]
Told = Callable[[int], None]
"""Is told how many ids were coded."""


@dataclass(frozen=True)
class Windows:
    """How a row is cut along the first axis of its grid."""

    length: int
    """The most steps of a window."""
    carry: int
    """So many of the last steps of a window are the known beginning of the next one."""

    def of(self, steps: int) -> Iterator[tuple[int, int, int]]:
        """Yield of each window of a row its first step, its first that is coded, and the step after its last."""
        start, known, stop = 0, 0, min(self.length, steps)
        while True:
            yield start, known, stop
            if stop >= steps:
                return
            start, known = stop - self.carry, stop
            stop = min(start + self.length, steps)


@dataclass(frozen=True)
class Stream:
    """What is coded: grids of one part of a template, while nothing is known of its other parts."""

    model: SequenceModel
    template: SequenceTemplate
    part: str
    """The name of the part."""
    vocabulary: Vocabulary

    @property
    def is_open(self) -> bool:
        """Whether a grid may have any number of steps, so that it may be cut."""
        return self.vocabulary.stream(self.template.stream_of(self.part)).is_open

    def frame(self, shape: Sequence[int]) -> Frame:
        """Return the document of a grid of ``shape``.

        Raises:
            ValueError: the vocabulary does not know the shape.
        """
        return Frame.of(self.template, self.part, self.vocabulary, shape, self.model.needs)

    def capacity(self, inner: Sequence[int]) -> int:
        """Return how many steps of an open grid fit the model's context; ``inner`` are its other axes.

        Raises:
            ValueError: not a single one does.
        """
        each = prod(inner)
        before = int(np.flatnonzero(self.frame((1, *inner)).special < 0)[0])
        segment = self.template.segments(self.vocabulary)[self.template.names.index(self.part)]
        # The last id is never read by the model. In some layouts <end> comes before other ids.
        inside = 0 if segment.arrangement.in_grid_order else 1
        steps = (self.model.config.context + 1 - before - inside) // each
        if steps < 1:
            raise ValueError(
                f"a step of {self.part!r} has {each:,} tokens, which the model's context of {self.model.config.context} does "
                "not hold; use a model with a longer context"
            )
        return steps


def code_rows(stream: Stream, rows: Sequence[Ints], coder: Coder, windows: Windows | None, told: Told | None) -> None:
    """Code grids side by side.

    Args:
        stream: what they are.
        rows: one grid each, at least one id in each; of the same shape, save that open ones may differ in their first axis. An
            end that reads writes into them.
        coder: the end.
        windows: how open grids are cut; None for others, which are coded as they are.
        told: for a progress line.

    Raises:
        DisagreementError: see `Coder.code`.
        ValueError: a grid does not fit the model.
    """
    inner, steps = rows[0].shape[1:], [len(row) for row in rows]
    frames: dict[int, Frame] = {}
    for start, known, stop in Windows(max(steps), 0).of(max(steps)) if windows is None else windows.of(max(steps)):
        there = [row for row in rows if len(row) > known]
        content = np.zeros((len(there), stop - start, *inner), np.int64)
        for place, row in zip(content, there, strict=True):
            part = row[start:stop]
            place[: len(part)] = part
        if stop - start not in frames:
            frames[stop - start] = stream.frame((stop - start, *inner))
        ends = np.array([min(len(row), stop) - start for row in there])
        flat = content.reshape(len(there), -1)
        _code_window(stream.model, frames[stop - start], flat, known - start, ends, coder, told)
        for place, row in zip(content, there, strict=True):
            row[known:stop] = place[known - start : len(row) - start]


def _code_window(
    model: SequenceModel, frame: Frame, content: Ints, known: int, ends: Ints, coder: Coder, told: Told | None
) -> None:
    """Code one document a row.

    Args:
        model: its logits.
        frame: what is known of the documents.
        content: (B, ids), their flat grids; an end that reads writes into it.
        known: so many steps are known.
        ends: (B,), how many steps each row has; further ones are there only so that all rows have the same places.
        coder: the end.
        told: for a progress line.
    """
    # An id that is the only one of its codebook is known, too.
    places = np.flatnonzero((frame.step >= known) & (frame.size > 1))
    if not len(places):
        return
    last = int(places[-1])
    if last > model.config.context:
        raise ValueError(
            f"a document of {last:,} tokens does not fit the model's context of {model.config.context:,}; use a model with a "
            "longer context"
        )
    device = device_of(model)
    cache = model.new_cache(len(content), last, device=device)
    read = 0
    whole = int(ends.min())
    for place in places.tolist():
        logits = model.step(frame.inputs(content, read, place, device), cache, last_only=True)[:, -1]
        read = place
        low, flat = int(frame.low[place]), int(frame.flat[place])
        part = logits[:, low : low + int(frame.size[place])].float().cpu().numpy()
        if frame.step[place] < whole:
            content[:, flat] = coder.code(part, content[:, flat])
            count = len(content)
        else:
            there = np.flatnonzero(frame.step[place] < ends)
            content[there, flat] = coder.code(part[there], content[there, flat])
            count = len(there)
        if told is not None:
            told(count)
