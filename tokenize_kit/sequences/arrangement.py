"""How the ids of one grid follow each other in a sequence: an order of its places joined with a layout of their codebooks.

A *place* of a grid is a pixel, a patch or a time step with all its ids: `StreamIds.depth` of them, one a codebook or channel.
The order says how the places follow each other and the layout how the ids of the places do: where the layout (`layouts`)
speaks of step t, it is the t-th place in the order. In an open stream the order is that of the places inside one step of time,
as the number of steps is not known, and the steps follow each other.

`Arrangement.flat` is that list for a closed shape or a known number of steps, for many ids at once; `Arrangement.place` is the
rule for one id while the number of steps is not known. Whatever reads or writes a document asks here.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.sequences import orders
from tokenize_kit.sequences.layouts import DEFAULT, ENDLESS, LAYOUTS, Layout
from tokenize_kit.sequences.orders import Order
from tokenize_kit.sequences.vocabulary import StreamIds

Ints = NDArray[np.int64]

Place = tuple[int, int, int]
"""Where an id of a sequence goes in its grid: how many places come before its own in the sequence, the number of its place in the
grid, row by row, and its codebook or channel. A plain tuple, since a grammar makes one for every token."""


class Arrangement:
    """The order of the ids of one stream's grids.

    Args:
        stream: whose.
        order: of the places.
        layout: of the ids of the places.
    """

    def __init__(self, stream: StreamIds, order: Order, layout: Layout) -> None:
        self.stream, self.order, self.layout = stream, order, layout
        self._depths = [stream.depth(shape) for shape in stream.shapes]
        self._places = [stream.places(shape) for shape in stream.shapes]
        self._raster = order is orders.order_named(orders.DEFAULT)
        self.in_grid_order = self._raster and layout is LAYOUTS[DEFAULT]
        """Whether the ids come as they stand in the grid."""

    @property
    def drawn(self) -> bool:
        """Whether each sample has an order of its own, which its seed decides."""
        return self.order.drawn

    def before_end(self, count: Ints, shape: Ints) -> Ints:
        """Return how many ids of grids of ``count`` ids come before ``<end>``; only for an open stream.

        Args:
            count: number of ids of each grid.
            shape: index of the shape of each.
        """
        if len(self._depths) == 1:
            depth = self._depths[0]
            return self.layout.before_end(count // depth, depth)
        before = np.zeros(np.broadcast(count, shape).shape, np.int64)
        for index in _which(shape):
            depth = self._depths[index]
            before = np.where(shape == index, self.layout.before_end(count // depth, depth), before)
        return before

    def flat(self, index: Ints, count: Ints, shape: Ints, seed: Ints) -> Ints:
        """Return for ids of the sequence which of the ids of their flat grid they are.

        Args:
            index: (N,): number of the id in the sequence, ``<end>`` and what comes before the ids not counted.
            count: (N,): number of ids of its grid.
            shape: (N,): index of the shape of its grid.
            seed: (N,): seed of its sample; not looked at unless the order is drawn.
        """
        if self.in_grid_order:
            return index
        if len(self._depths) == 1:
            return self._flat(0, index, count, seed)
        found = np.empty_like(index)
        for kind in _which(shape):
            mine = np.flatnonzero(shape == kind)
            found[mine] = self._flat(kind, index[mine], count[mine], seed[mine] if self.drawn else seed)
        return found

    def _flat(self, kind: int, index: Ints, count: Ints, seed: Ints) -> Ints:
        """Return `flat` of ids whose grids have all the same shape."""
        depth, places = self._depths[kind], self._places[kind]
        by_layout = self.layout.places(index, np.maximum(count // depth, 1), depth)
        if self._raster:
            return by_layout
        turn, codebook = np.divmod(by_layout, depth)
        if self.drawn:
            seeds, which = np.unique(seed, return_inverse=True)
            place = self.order.turns(self.stream.place_shape(self.stream.shapes[kind]), seeds)[which, turn]
        else:
            step, inside = np.divmod(turn, places)
            place = step * places + self._turns(kind)[inside]
        return np.asarray(place * depth + codebook, np.int64)

    @property
    def slots(self) -> int:
        """How many ids a joint step (`layouts`) has at most; 1 where there is nothing to join.

        The channels of a pixel are not joined: they share one range of ids, so that their sum would not tell which is which.
        """
        deepest = max(self._depths) if self.stream.has_codebooks else 1
        first, second = np.zeros(deepest, np.int64), np.arange(deepest)
        return deepest if not self.layout.opens(first, second, np.full(deepest, deepest + 1)).all() else 1

    def joint(self, index: Ints, count: Ints, shape: Ints) -> tuple[NDArray[np.bool_], Ints]:
        """Return which ids of sequences begin a joint step, and the slot of each: its codebook, or 0 if the stream has none.

        Args:
            index: as in `flat`.
            count: the same.
            shape: the same.
        """
        opens, slots = np.ones(len(index), bool), np.zeros(len(index), np.int64)
        if self.stream.has_codebooks:
            for kind in range(1) if len(self._depths) == 1 else _which(shape):
                mine = slice(None) if len(self._depths) == 1 else np.flatnonzero(shape == kind)
                depth = self._depths[kind]
                steps = np.maximum(count[mine] // depth, 1)
                step, slots[mine] = np.divmod(self.layout.places(index[mine], steps, depth), depth)
                opens[mine] = self.layout.opens(step, slots[mine], steps)
        return opens, slots

    def joint_one(self, index: int, shape: int, steps: int) -> tuple[bool, int]:
        """Return the same of one id, as `place` does: a rule for a number of steps that is not known yet."""
        if not self.stream.has_codebooks:
            return True, 0
        steps = self._layout_steps(shape, steps)
        step, codebook = self.layout.place(index, steps, self._depths[shape])
        opens = self.layout.opens(*(np.array([value]) for value in (step, codebook, steps)))
        return bool(opens[0]), codebook

    def place(self, index: int, shape: int, steps: int, seed: int = 0) -> Place:
        """Return where the id number ``index`` of one sequence goes, the rule that `flat` is a list of.

        Args:
            index: as in `flat`.
            shape: index of the shape.
            steps: time steps of an open stream, or `ENDLESS` while they are not known; any number for a closed one.
            seed: of the sample.
        """
        depth, places = self._depths[shape], self._places[shape]
        turn, codebook = self.layout.place(index, self._layout_steps(shape, steps), depth)
        if self._raster:
            return turn, turn, codebook
        step, inside = divmod(turn, places)
        return turn, step * places + int(self._turns(shape, seed)[inside]), codebook

    def _layout_steps(self, shape: int, steps: int) -> int:
        """Return T of the layout, which is the number of places: of a closed stream all, else those of the time steps."""
        places = self._places[shape]
        if not self.stream.is_open:
            return places
        return steps if places == 1 else min(steps * places, ENDLESS)

    def _turns(self, shape: int, seed: int = 0) -> Ints:
        return _turns(
            cast("Hashable", self.order), self.stream.place_shape(self.stream.shapes[shape]), seed if self.drawn else 0
        )


def _which(numbers: Ints) -> list[int]:
    """Return which small numbers there are."""
    found: list[int] = np.flatnonzero(np.bincount(np.reshape(numbers, -1))).tolist()
    return found


@lru_cache(maxsize=256)
def _turns(order: Hashable, shape: tuple[int, ...], seed: int) -> Ints:
    turns: Ints = cast("Order", order).turns(shape, np.array([seed]))[0]
    return turns
