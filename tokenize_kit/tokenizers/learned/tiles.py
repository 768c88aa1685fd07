"""Large pictures in tiles: which ids a tile makes, and how far beyond them it must look.

    |<------- length ------->|
    | tile 0 | tile 1 | tile 2|        each id belongs to one tile
    |<- reads 0 ->|                    a tile reads a margin on both sides, as far as there is something
         |<--- reads 1 --->|

The tiles follow from the length alone, so the ids of a picture are defined, whatever memory there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """One tile along one axis, in ids."""

    start: int
    """First id that it makes."""
    stop: int
    """One past the last."""
    read_start: int
    """First id that it looks at."""
    read_stop: int
    """One past the last."""


def spans(length: int, tile: int, margin: int) -> Iterator[Span]:
    """Yield the tiles of an axis of ``length`` ids: one if it fits into ``tile``, else tiles of that many ids."""
    for start in range(0, length, tile):
        stop = min(length, start + tile)
        yield Span(start, stop, max(0, start - margin), min(length, stop + margin))
