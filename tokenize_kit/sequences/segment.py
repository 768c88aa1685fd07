"""One stream's part of a document: which token stands at which place of it, told once and for many tokens at a time.

    <begin:text> ids.. <end:text>      <begin:image> [<shape:HxW>] ids..

A segment has a shape token only where a stream's shapes vary in the data, and an end token only if the stream is open (text,
sound). ``<end>`` stands where the first id of the next time step would, and ids that are still due then follow it. A part that a
sample lacks, or a condition that is dropped, is one token, ``<none:text>``; its number of ids is `MISSING` then. Compiling a
document, taking it apart, its grammar, its loss and its rows are readings of what is said here.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.sequences.arrangement import Arrangement
from tokenize_kit.sequences.vocabulary import Shape, StreamIds

Ints = NDArray[np.int64]

COORDINATE_AXES = ("time", "height", "width")
"""Columns of the coordinates of tokens."""
PLANE_AXES = ("height", "width")
"""The axes of a picture's places."""
NOWHERE = -1
"""The coordinate of a token that is at no place of a grid, and of others along axes that their grids lack."""

CELL = ("part", "row", "column", "channel", "height", "width", "channels", "given")
"""What is told of an id of a grid of height and width: the number of its part of the template, where in the grid it is, how large
that is, and whether it is a condition (1) or not (0). A codebook counts as a channel."""
NO_CELL = (NOWHERE,) * len(CELL)
"""What is told of any other token."""


MISSING = -1
"""The number of ids of a part that is not there."""


class Tokens(NamedTuple):
    """What stands at some places of a segment."""

    special: Ints
    """(N,): id of ``<begin>``, of the shape token, of ``<end>`` or of ``<none>``; -1 where an id of the grid stands."""
    flat: Ints
    """(N,): which of the ids of the flat grid it is; 0 where none is."""


class Segment:
    """A part of a template, in a vocabulary.

    Args:
        name: of the part: the stream's, with its number if the template has the stream several times.
        stream: the stream's ids.
        occurrence: 1 for the first part of this stream, 2 for the next.
        arrangement: the order of the ids of a grid.
        condition: whether it is given and not predicted.
        optional: whether samples may lack it.
    """

    def __init__(
        self,
        name: str,
        stream: StreamIds,
        occurrence: int,
        arrangement: Arrangement,
        condition: bool,
        optional: bool = False,
    ) -> None:
        self.name, self.stream, self.occurrence = name, stream, occurrence
        self.arrangement, self.condition, self.optional = arrangement, condition, optional
        self.null = stream.null if optional or condition else None
        """The token that stands where it is missing or dropped; None if it always is there."""
        self.header = stream.header
        """Tokens before the ids."""
        columns = coordinate_columns(stream.place_axes)
        self._columns = columns
        self.min_steps = max(stream.min_steps, int(optional))
        """The least number of time steps of an open stream: an optional text of none is missing."""
        sizes = [
            (1, *stream.place_shape(shape)) if stream.is_open else stream.place_shape(shape) for shape in stream.shapes
        ]
        self._sizes = np.array(sizes, np.int64).reshape(len(sizes), len(columns))
        # How many places one step along each axis is.
        after = np.concatenate([self._sizes[:, 1:], np.ones((len(sizes), 1), np.int64)], 1)
        self._strides = np.cumprod(after[:, ::-1], 1)[:, ::-1]
        self._depths = np.array([stream.depth(shape) for shape in stream.shapes])
        self._offsets = np.array(stream.offsets)

    def lacks(self, grid: NDArray[Any] | None) -> bool:
        """Whether a sample with this grid lacks the part: there is none, or an empty one of an optional part."""
        return grid is None or (self.optional and np.size(grid) == 0)

    def size(self, count: Ints) -> Ints:
        """Return the tokens of segments whose grids have ``count`` ids, or are `MISSING`."""
        size = count + (self.header + int(self.stream.is_open))
        return size if self.null is None else np.where(count < 0, 1, size)

    def end(self, count: Ints, shape: Ints) -> Ints:
        """Return the place of ``<end>``, counted from ``<begin>``; only for an open stream."""
        return self.arrangement.before_end(count, shape) + self.header

    def read(self, place: Ints, count: Ints, shape: Ints, seed: Ints) -> Tokens:
        """Return what stands at places of segments.

        Args:
            place: (N,): counted from ``<begin>``, below `size`.
            count: (N,): number of ids of the grid, or `MISSING`.
            shape: (N,): index of its shape.
            seed: (N,): seed of the sample, for an order that is drawn.
        """
        if self.null is not None and (missing := count < 0).any():
            special, flat = self.read(place, np.maximum(count, 0), shape, seed)
            return Tokens(np.where(missing, self.null, special), np.where(missing, 0, flat))
        special = np.where(place == 0, self.stream.begin, -1)
        if self.stream.first_shape is not None:
            special = np.where(place == 1, self.stream.first_shape + shape, special)
        before_end = self.arrangement.before_end(count, shape) if self.stream.is_open else count
        inside = np.where(special < 0, place - self.header, before_end)
        ends, flat = self.content(inside, count, before_end, shape, seed)
        if self.stream.end is not None:
            special = np.where((special < 0) & ends, self.stream.end, special)
        return Tokens(special, np.where(special < 0, flat, 0))

    def content(
        self, token: Ints, count: Ints, before_end: Ints, shape: Ints, seed: Ints
    ) -> tuple[NDArray[np.bool_], Ints]:
        """Return for places behind the header whether ``<end>`` stands there, and else which of the ids of the flat grid.

        Args:
            token: (N,): counted from the first place behind the header.
            count: as in `read`.
            before_end: (N,): `Arrangement.before_end` of its grid; of a closed stream ``count``.
            shape: as in `read`; not looked at if the stream has one shape alone.
            seed: as in `read`.
        """
        ends = token == before_end
        index = np.where(ends, 0, token - (token > before_end))
        return ends, self.arrangement.flat(index, count, shape, seed)

    def joint(self, place: Ints, count: Ints, shape: Ints) -> tuple[NDArray[np.bool_], Ints]:
        """Return which ids at places of segments begin a joint step, and their slots; see `Arrangement.joint`.

        Args:
            place: (N,): as in `read`, of places where ids of the grid stand.
            count: the same.
            shape: the same.
        """
        index = place - self.header
        if self.stream.is_open:
            index = index - (index > self.arrangement.before_end(count, shape))
        return self.arrangement.joint(index, count, shape)

    def codebook(self, flat: Ints, shape: Ints) -> Ints:
        """Return the codebook or channel of ids of flat grids."""
        return flat % (int(self._depths[0]) if len(self._depths) == 1 else self._depths[shape])

    def offset(self, flat: Ints, shape: Ints) -> Ints | int:
        """Return what is added to ids of flat grids."""
        if len(self._offsets) == 1 or not self.stream.has_codebooks:
            return int(self._offsets[0])
        return self._offsets[self.codebook(flat, shape)]

    def coordinates(self, flat: Ints, shape: Ints) -> Ints:
        """Return the coordinates of ids of flat grids, (N, axes) along `COORDINATE_AXES`."""
        place = flat // (int(self._depths[0]) if len(self._depths) == 1 else self._depths[shape])
        found = np.full((len(flat), len(COORDINATE_AXES)), NOWHERE)
        for axis, column in enumerate(self._columns):
            along = place // self._strides[shape, axis]
            # The first axis of an open stream has no end.
            found[:, column] = along if axis == 0 else along % self._sizes[shape, axis]
        return found

    @property
    def is_plane(self) -> bool:
        """Whether its grids are pictures: rows and columns of places in a known shape."""
        return not self.stream.is_open and self.stream.place_axes == PLANE_AXES

    def cells(self, number: int, flat: Ints, shape: Ints) -> Ints:
        """Return the `CELL` of ids of flat grids, (N, 8); only for a plane.

        Args:
            number: of the part.
            flat: (N,), which of the ids of its grid each is.
            shape: (N,), index of the shape of that.
        """
        place, channel = np.divmod(flat, self._depths[shape])
        height, width = self._sizes[shape].T
        every = (number, *np.divmod(place, width), channel, height, width, self._depths[shape], int(self.condition))
        return np.stack(np.broadcast_arrays(*every), -1)

    def steps(self, count: int, shape: int) -> int:
        """Return the time steps of an open grid of ``count`` ids."""
        return count // prod(self.stream.shapes[shape])

    def grid_shape(self, count: int, shape: int) -> Shape:
        """Return the shape of a whole grid of ``count`` ids."""
        known = self.stream.shapes[shape]
        return (self.steps(count, shape), *known) if self.stream.is_open else known


def coordinate_columns(axes: Sequence[str]) -> list[int]:
    """Return in which column of the coordinates each axis goes: that of its name, else the last free one.

    Raises:
        ValueError: there are more axes than columns.
    """
    if len(axes) > len(COORDINATE_AXES):
        raise ValueError(
            f"a grid of the axes {', '.join(axes)} has more than {len(COORDINATE_AXES)} beside its codebooks"
        )
    free = [column for column, name in enumerate(COORDINATE_AXES) if name not in axes]
    return [COORDINATE_AXES.index(axis) if axis in COORDINATE_AXES else free.pop() for axis in axes]
