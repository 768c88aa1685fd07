"""From few places far apart to all of them: a coarse picture first, which every round makes finer."""

from __future__ import annotations

import numpy as np

from tokenize_kit.sequences.orders import Ints, PlaneOrder


def _walk(height: int, width: int) -> Ints:
    """Places whose row and column are multiples of the largest power of two come first, row by row, then those of half of it."""
    row, column = np.divmod(np.arange(height * width), width)
    joint = np.bitwise_or(row, column)  # its lowest bit says at which distance between places this one is there
    stride = 1 << max(height - 1, width - 1, 1).bit_length()
    distance = np.where(joint == 0, stride, np.bitwise_and(joint, np.negative(joint)))
    return np.argsort(stride - distance, kind="stable")


COARSE = PlaneOrder(_walk)
"""The places at distance 2^k, then those between them at 2^(k - 1), and so on to 1; those of one distance row by row."""
