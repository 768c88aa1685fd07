"""Frames with their times, and which of them is shown when: the one place that says how many frames a film has at a rate.

A frame is shown from its time stamp until that of the next one, the last for as long as the file says. A film has, at ``rate``
frames a second, a frame ``k`` for every time ``k / rate`` after the first frame that lies before the end of the last; it is the
frame that is shown at that time. So of 25 frames a second to 12 the frames 0, 2, 4, 6, 8 .. are taken, and to 50 each is taken
twice.

Formats round time stamps: Matroska to milliseconds, so that frames of 1/24 s stand at 0, 42, 83 and 125, GIF to hundredths. So a
stamp, and the end, may be later than it means by what rounding does (``late``: of a film one value of its stamps, at most a
millisecond; of an animated picture half of one), and at most by a quarter of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class Shown(NamedTuple):
    """A frame of a file, not yet converted."""

    time: Fraction
    """When it appears, in seconds on the clock of the file."""
    duration: Fraction
    """Seconds that it lasts as the file says; 0 if it does not."""
    paint: Callable[[Pixels], None]
    """Writes its pixels into an array (C, H, W)."""


def at_rate(
    frames: Iterator[Shown], rate: Fraction, origin: Fraction, late: Fraction, native: Fraction, first: int = 0
) -> Iterator[Shown]:
    """Yield, for ``k`` = ``first``, ``first`` + 1 and so on, the frame that is shown at ``origin + k / rate``, up to the end.

    Args:
        frames: in the order in which they are shown; the first may be any that is shown at or before the first time.
        rate: frames a second that are wanted.
        origin: the time of the first frame of the film.
        late: how much later than it means a time stamp may be, in seconds.
        native: the average rate of the film; the length of the last frame is one by it where the file says none.
        first: the number of the first frame that is wanted.
    """
    late = min(late, 1 / (4 * rate))
    number, current = first, next(frames, None)
    while current is not None:
        following = next(frames, None)
        end = following.time if following is not None else current.time + (current.duration or 1 / native)
        # Until the next one appears; at the end of the film, strictly before it.
        while origin + number / rate + late < end:
            yield current
            number += 1
        current = following
