"""From the border inwards, or from the middle outwards."""

from __future__ import annotations

import numpy as np

from tokenize_kit.sequences.orders import Ints, PlaneOrder


def _inwards(height: int, width: int) -> Ints:
    left = np.arange(height * width).reshape(height, width)
    rows = []
    while left.size:
        rows.append(left[0])
        # What is left, turned so that the next side of the border is its first row.
        left = np.rot90(left[1:])
    return np.concatenate(rows)


def _outwards(height: int, width: int) -> Ints:
    return _inwards(height, width)[::-1].copy()


SPIRAL = PlaneOrder(_inwards)
"""Along the border from the upper left corner, clockwise, then along the border of what is left."""
SPIRAL_OUT = PlaneOrder(_outwards)
"""The same backwards: from the middle to the upper left corner."""
