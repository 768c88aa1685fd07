"""Row by row, column by column, and row by row with every second row backwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenize_kit.sequences.orders import Ints, PlaneOrder


@dataclass(frozen=True)
class Raster:
    """The places as they lie in the grid: the last axis is the fastest."""

    drawn: bool = False
    least_axes: int = 0

    def turns(self, shape: tuple[int, ...], seeds: Ints) -> Ints:  # noqa: ARG002
        """See `Order.turns`."""
        return np.arange(int(np.prod(shape, dtype=np.int64)))[None]


def _columns(height: int, width: int) -> Ints:
    return np.arange(height * width).reshape(height, width).T.reshape(-1)


def _serpentine(height: int, width: int) -> Ints:
    places = np.arange(height * width).reshape(height, width)
    places[1::2] = places[1::2, ::-1]
    return places.reshape(-1)


RASTER = Raster()
"""Row by row from the top, each from the left."""
COLUMN = PlaneOrder(_columns)
"""Column by column from the left, each from the top."""
SERPENTINE = PlaneOrder(_serpentine)
"""Row by row from the top, in turn from the left and from the right, so that each place is beside the one before it."""
