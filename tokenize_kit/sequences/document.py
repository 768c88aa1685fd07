"""A document: the tokens of one sample, each with what it is and where it is.

    <bos> <segment> <segment> .. <eos>

`compile_document` lays the grids of a sample out as the segments of a template say, and `take_apart` is its inverse. The ids of a
document, its loss mask, and what packed rows say of their tokens are all columns of this one table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.sequences.layouts import ENDLESS
from tokenize_kit.sequences.segment import COORDINATE_AXES, MISSING, NOWHERE, Segment
from tokenize_kit.sequences.vocabulary import StreamIds, Vocabulary

Ints = NDArray[np.int64]


class Role(IntEnum):
    """What a token is there for."""

    STRUCTURE = 0
    """The grammar forces it (``<bos>``, ``<begin:..>`` of what is always there, ``<eos>``), so there is nothing to learn."""
    CONDITION = 1
    """It is given: ``<bos>`` and all tokens of the streams left of an arrow."""
    TARGET = 2
    """It is predicted: ids, shape and end tokens of the other streams, and of an optional part ``<begin:..>`` or ``<none:..>``.
    Exactly these carry loss."""


@dataclass(frozen=True)
class Document:
    """The tokens of one sample, n of them."""

    ids: Ints
    """(n,): in the vocabulary."""
    roles: Ints
    """(n,): a `Role` each."""
    segments: Ints
    """(n,): which part of the template a token is of, -1 for ``<bos>`` and ``<eos>``."""
    streams: Ints
    """(n,): which stream of the vocabulary, -1 for none."""
    occurrences: Ints
    """(n,): 1 in the first segment of its stream, 2 in the next; 0 for ``<bos>`` and ``<eos>``."""
    codebooks: Ints
    """(n,): codebook or channel of an id of a grid; -1 for special tokens."""
    coordinates: Ints
    """(n, 3): place in its grid along time, height and width; -1 for special tokens and along axes that the grid lacks."""
    seed: int
    """Decides the orders that are drawn; of no meaning if none is."""

    @property
    def loss_mask(self) -> NDArray[np.bool_]:
        """(n,): whether predicting a token counts."""
        return np.asarray(self.roles == Role.TARGET)

    def __len__(self) -> int:
        return len(self.ids)


def role_of(segment: Segment, special: Ints) -> Ints:
    """Return the roles of tokens of a segment.

    Args:
        segment: theirs.
        special: (N,): see `segment.Tokens`.
    """
    if segment.condition:
        return np.full(len(special), int(Role.CONDITION))
    if segment.optional:
        return np.full(len(special), int(Role.TARGET))
    return np.where(special == segment.stream.begin, int(Role.STRUCTURE), int(Role.TARGET))


def role_of_bos(segments: Sequence[Segment]) -> Role:
    """Return the role of ``<bos>``: it is given too where something is."""
    return Role.CONDITION if segments[0].condition else Role.STRUCTURE


def compile_document(
    segments: Sequence[Segment],
    grids: Mapping[str, NDArray[Any]],
    vocabulary: Vocabulary,
    seed: int = 0,
) -> Document:
    """Lay grids out as a document.

    Args:
        segments: of the template, in their order.
        grids: an integer grid for each of them; others are ignored. One that may be missing (`Segment.null`) need not be there.
        vocabulary: the id space.
        seed: for orders that are drawn.

    Raises:
        ValueError: a grid has another shape than the vocabulary knows, an open one is shorter than it may be, or an id is out of
            range.
    """
    names = list(vocabulary.streams)
    ids, places, rows = [np.array([vocabulary.bos])], [], []
    for number, segment in enumerate(segments):
        flat_ids, shape, count = _content(segment, grids.get(segment.name))
        place = np.arange(int(segment.size(count)))
        shapes, seeds = np.full(len(place), shape), np.full(len(place), seed)
        special, flat = segment.read(place, np.full(len(place), count), shapes, seeds)
        own = special < 0
        ids.append(np.where(own, flat_ids.reshape(-1)[flat] if flat_ids.size else 0, special))
        places.append(np.where(own[:, None], segment.coordinates(flat, shapes), NOWHERE))
        codebooks = np.where(own, segment.codebook(flat, shapes), -1)
        rows.append(
            np.stack(
                [
                    role_of(segment, special),
                    np.full(len(place), number),
                    np.full(len(place), names.index(segment.stream.name)),
                    np.full(len(place), segment.occurrence),
                    codebooks,
                ]
            )
        )
    first = int(role_of_bos(segments)) if segments else int(Role.STRUCTURE)
    rows.insert(0, np.array([[first], [-1], [-1], [0], [-1]]))
    places.insert(0, np.full((1, len(COORDINATE_AXES)), NOWHERE))
    ids.append(np.array([vocabulary.eos]))
    rows.append(np.array([[int(Role.STRUCTURE)], [-1], [-1], [0], [-1]]))
    places.append(np.full((1, len(COORDINATE_AXES)), NOWHERE))
    roles, numbers, streams, occurrences, books = np.concatenate(rows, 1)
    return Document(
        np.concatenate(ids).astype(np.int64), roles, numbers, streams, occurrences, books, np.concatenate(places), seed
    )


def _content(segment: Segment, grid: NDArray[Any] | None) -> tuple[Ints, int, Ints]:
    """Return the ids of a segment's grid in the vocabulary, the index of its shape, and the number of ids or `MISSING`."""
    if segment.lacks(grid):
        assert segment.null is not None, "there is a grid of every part that is not optional"
        return np.zeros((0, 1), np.int64), 0, np.asarray(MISSING)
    grid = np.asarray(grid)
    flat_ids, shape = shared_ids(grid, segment.stream)
    if segment.stream.is_open and len(grid) < segment.stream.min_steps:
        raise ValueError(f"stream {segment.stream.name!r}: a grid without a single time step; leave the sample out")
    return flat_ids, shape, np.asarray(flat_ids.size)


def take_apart(
    segments: Sequence[Segment], ids: Ints, vocabulary: Vocabulary, seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    """Return the grids of a whole document by the names of its segments; the inverse of `compile_document`.

    A part that is missing is not among them.

    Raises:
        ValueError: the ids are not a document that the grammar accepts; the message names the place.
    """
    if ids.ndim != 1 or not len(ids) or ids[0] != vocabulary.bos:
        raise ValueError("a document is a row of ids that starts with <bos>")
    grids: dict[str, NDArray[np.int64]] = {}
    place = 1
    for segment in segments:
        if segment.null is not None and place < len(ids) and ids[place] == segment.null:
            place += 1
            continue
        grids[segment.name], place = _take_segment(segment, ids, place, seed)
    if place != len(ids) - 1 or ids[place] != vocabulary.eos:
        raise ValueError(f"the document does not end with <eos> at place {place}")
    return grids


def _take_segment(segment: Segment, ids: Ints, start: int, seed: int) -> tuple[NDArray[np.int64], int]:
    """Read the segment that starts at a place; return its grid and the place after it."""
    stream = segment.stream
    if start >= len(ids) or ids[start] != stream.begin:
        raise ValueError(f"expected <begin:{stream.name}> at place {start}")
    shape = 0
    if stream.first_shape is not None:
        shape = int(ids[start + 1]) - stream.first_shape if start + 1 < len(ids) else -1
        if not 0 <= shape < len(stream.shapes):
            raise ValueError(f"expected a shape token of {stream.name!r} at place {start + 1}")
    count = prod(stream.shapes[shape])
    if stream.end is not None:
        ends = np.flatnonzero(ids[start + segment.header :] == stream.end)
        if not len(ends):
            raise ValueError(f"the segment of {stream.name!r} that begins at place {start} has no <end:{stream.name}>")
        turn, _, codebook = segment.arrangement.place(int(ends[0]), shape, ENDLESS, seed)
        steps, inside = divmod(turn, stream.places(stream.shapes[shape]))
        if codebook or inside or steps < segment.min_steps:
            at = start + segment.header + int(ends[0])
            raise ValueError(f"the segment of {stream.name!r} ends at place {at} in the middle of a time step")
        count *= steps
    length = int(segment.size(np.asarray(count)))
    if start + length > len(ids):
        raise ValueError(f"the segment of {stream.name!r} that begins at place {start} is cut off")
    place = np.arange(length)
    shapes = np.full(length, shape)
    special, flat = segment.read(place, np.full(length, count), shapes, np.full(length, seed))
    own = special < 0
    flat, shapes = flat[own], shapes[own]
    found = ids[start : start + length]
    values = found[own] - segment.offset(flat, shapes)
    sizes = np.array(stream.spec.codebook_sizes)
    limit = sizes[np.minimum(segment.codebook(flat, shapes), len(sizes) - 1)]
    if ((values < 0) | (values >= limit)).any() or (found[~own] != special[~own]).any():
        raise ValueError(f"the segment of {stream.name!r} that begins at place {start} holds an id of another stream")
    grid = np.empty(count, np.int64)
    grid[flat] = values
    return grid.reshape(segment.grid_shape(count, shape)), start + length


def shared_ids(grid: NDArray[Any], stream: StreamIds) -> tuple[Ints, int]:
    """Return the ids of a whole grid in the vocabulary, (places, ids of a place), and the index of its shape.

    Raises:
        ValueError: the grid has another shape than the vocabulary knows, or an id is out of range.
    """
    if grid.ndim != len(stream.spec.axes) or grid.dtype.kind not in "iu":
        raise ValueError(
            f"stream {stream.name!r}: expected an integer grid with axes {stream.spec.axes}, got {grid.dtype} {grid.shape}"
        )
    shape = stream.shape_index(grid.shape[1:] if stream.is_open else grid.shape)
    return checked_ids(grid, stream, stream.shapes[shape]), shape


def checked_ids(grid: NDArray[Any], stream: StreamIds, shape: Sequence[int]) -> Ints:
    """Return the ids of a grid, or of its first steps, in the vocabulary, (places, ids of a place).

    Raises:
        ValueError: an id is out of range.
    """
    codebooks = stream.codebooks(tuple(shape))
    sizes = np.resize(np.array(stream.spec.codebook_sizes), codebooks)
    ids = grid.astype(np.int64).reshape(-1, codebooks)
    if ids.size and ((ids < 0) | (ids >= sizes)).any():
        wrong = ids[(ids < 0) | (ids >= sizes)][0]
        raise ValueError(f"stream {stream.name!r}: id {wrong} is outside the vocabulary of {stream.spec.vocab_size}")
    return np.asarray(ids + np.array(stream.offsets[:codebooks]), np.int64).reshape(-1, stream.depth(tuple(shape)))
