"""In which order the places of a grid follow each other in a sequence: one file an order, or a family of them.

An order is a list of places: turn 0 has the first of them, and so on. A place of a picture is a pixel or a patch with all its
channels or codebooks; how the codebooks of a place follow each other is the affair of `tokenize_kit.sequences.layouts`. A
template names an order after the stream, ``image:spiral``; without one the places come as they lie in the grid.

A new order is a class that keeps the `Order` protocol and one entry point in the group ``tokenize_kit.orders``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.protocol.registry import ORDERS

Ints = NDArray[np.int64]

DEFAULT = "raster"


class Order(Protocol):
    """How the places of a grid follow each other."""

    @property
    def drawn(self) -> bool:
        """Whether every sample has an order of its own, which a seed decides."""
        ...

    @property
    def least_axes(self) -> int:
        """Axes that a grid must have, codebooks and channels not counted."""
        ...

    def turns(self, shape: tuple[int, ...], seeds: Ints) -> Ints:
        """Return the places in the order of their turns, each a number of the flat grid, counted row by row.

        Args:
            shape: of the grid, without codebooks and channels; none of its axes is empty.
            seeds: (N,) or empty: one a sample.

        Returns:
            int64 (N, places) for an order that is drawn, (1, places) for any other.
        """
        ...


@dataclass(frozen=True)
class PlaneOrder:
    """An order of the rows and columns of a plane; of a grid with more axes its planes come one after the other.

    Args:
        walk: takes height and width and returns the places of a plane in their order, int64 (height * width,).
    """

    walk: Callable[[int, int], Ints]
    drawn: bool = False
    least_axes: int = 2

    def turns(self, shape: tuple[int, ...], seeds: Ints) -> Ints:  # noqa: ARG002
        """See `Order.turns`."""
        height, width = shape[-2:]
        plane = self.walk(height, width)
        planes = np.arange(int(np.prod(shape[:-2], dtype=np.int64)))[:, None] * (height * width)
        return (planes + plane).reshape(1, -1)


def order_named(name: str) -> Order:
    """Return the order that a template names.

    Raises:
        ValueError: there is none of that name; the message suggests the closest one.
    """
    return cast("Order", ORDERS.get(name))
