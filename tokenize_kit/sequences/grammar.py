"""Which ids may come next in a document, so that whatever is sampled is a whole one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.sequences.arrangement import Place
from tokenize_kit.sequences.document import Role, checked_ids, role_of, role_of_bos, shared_ids
from tokenize_kit.sequences.layouts import ENDLESS
from tokenize_kit.sequences.segment import COORDINATE_AXES, NO_CELL, NOWHERE, Segment
from tokenize_kit.sequences.vocabulary import StreamIds, Vocabulary, shape_name, unknown_stream

_NONE = (NOWHERE,) * len(COORDINATE_AXES)


class TokenPlace(NamedTuple):
    """What a token of a document is, as a model may ask; see `document.Document` and `packing.Places`."""

    role: int
    """A `document.Role`."""
    axial: tuple[int, ...]
    """Its positions along time, height and width."""


class GrammarState(NamedTuple):
    """How far a sequence has come: immutable and small, so that a state a sequence is cheap to keep."""

    segment: int
    """Index of the stream; -1 before ``<bos>``, the number of streams when ``<eos>`` is due, one more when done."""
    shape: int
    """Index of the shape of the present grid."""
    place: int
    """How many tokens of this segment have been read, its header included."""
    length: int
    """How many tokens of the document have been read."""
    steps: int = 0
    """Time steps of the present grid once its ``<end>`` has been read while ids are still due; 0 otherwise."""


class Grammar:
    """Which ids may come next, so that whatever is sampled is a whole document of a template.

    With ``max_length``, a token is allowed only if the document can still be finished within it after that token.

    Args:
        segments: of the template, in their order.
        vocabulary: the id space.
        max_length: the most tokens of a document, ``<bos>`` and ``<eos>`` included; None for no limit.
        begun: for a segment, by its name, a grid of its first steps along the first axis (a sound's first time steps, the first
            frames of a video); its ids are then the only ones allowed at their places.
        seed: of the document, for orders that are drawn.
        name: of the template, for messages.

    Raises:
        ValueError: not even the shortest document fits into ``max_length``, or a grid of ``begun`` does not fit the vocabulary.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        vocabulary: Vocabulary,
        max_length: int | None = None,
        begun: Mapping[str, NDArray[Any]] | None = None,
        seed: int = 0,
        name: str = "",
    ) -> None:
        self.max_length, self.seed = max_length, seed
        self._bos, self._eos = vocabulary.bos, vocabulary.eos
        self._segments = segments
        self._streams = [segment.stream for segment in segments]
        names = [segment.name for segment in segments]
        if unknown := sorted(set(begun or {}) - set(names)):
            raise ValueError(unknown_stream(unknown[0], names))
        self._begun = [begun_ids(segment.stream, (begun or {}).get(segment.name)) for segment in segments]
        self._nulls = [
            segment.null if known is None else None for segment, known in zip(segments, self._begun, strict=True)
        ]
        self._min_steps = [
            max(segment.min_steps, known.steps(segment.stream) if known is not None and segment.stream.is_open else 0)
            for segment, known in zip(segments, self._begun, strict=True)
        ]
        # The fewest tokens that finish a document from the start of each segment on; the last entry is <eos> alone.
        self._rest = [1]
        self._least_whole: list[int] = []
        for segment in reversed(range(len(self._streams))):
            stream = self._streams[segment]
            least = min(self._least_content(segment, shape) for shape in self._possible_shapes(segment))
            whole = stream.header + least
            self._least_whole.insert(0, whole)
            self._rest.insert(0, self._rest[0] + (whole if self._nulls[segment] is None else 1))
        if max_length is not None and 1 + self._rest[0] > max_length:
            how = " that goes on from the prompt" if begun else ""
            what = repr(name or " ".join(names))
            raise ValueError(
                f"the shortest document of {what}{how} has {1 + self._rest[0]} tokens, but only {max_length} are allowed; use a "
                f"model with a longer context{', or shorten the prompt' if begun else ''}"
            )
        # For every shape the range of ids of each codebook or channel, and how many ids a grid or a time step of it has.
        self._content = [
            [[stream.range_of(codebook) for codebook in range(stream.depth(shape))] for shape in stream.shapes]
            for stream in self._streams
        ]
        self._sizes = [[prod(shape) for shape in stream.shapes] for stream in self._streams]
        self._places = [[stream.places(shape) for shape in stream.shapes] for stream in self._streams]

    def start(self) -> GrammarState:
        """Return the state before ``<bos>``."""
        return GrammarState(-1, 0, 0, 0)

    def done(self, state: GrammarState) -> bool:
        """Whether the document is finished: ``<eos>`` has been read."""
        return state.segment > len(self._streams)

    def allowed(self, state: GrammarState) -> list[tuple[int, int]]:
        """Return the ids that may come next as half-open intervals, sorted and apart; empty only when done."""
        segment, shape, place, length, _ = state
        if segment < 0:
            return [(self._bos, self._bos + 1)]
        if segment >= len(self._streams):
            return [] if segment > len(self._streams) else [(self._eos, self._eos + 1)]
        stream = self._streams[segment]
        if place == 0:
            return self._allowed_beginnings(segment, length)
        if place < stream.header:
            return self._allowed_shapes(segment, length)
        turn, place_, codebook = self._next_place(state)
        interval = self._content[segment][shape][codebook]
        begun = self._begun[segment]
        if begun is not None and place_ < len(begun.ids):
            token = begun.ids[place_][codebook]
            return [(token, token + 1)]
        step, inside = divmod(turn, self._places[segment][shape])
        if stream.end is None or state.steps or codebook or inside:
            return [interval]
        # The first id of a time step is due, so this is the place of <end>: there may be a further step or not.
        intervals = []
        if step >= self._min_steps[segment]:
            intervals.append((stream.end, stream.end + 1))
        count = place - stream.header
        longer = length - count + (step + 1) * self._sizes[segment][shape] + 1
        if self._fits(longer + self._rest[segment + 1]) or not intervals:
            intervals.append(interval)
        return intervals

    def advance(self, state: GrammarState, token: int) -> GrammarState:
        """Return the state after ``token``.

        Raises:
            ValueError: the token is not allowed in this state.
        """
        if not any(low <= token < high for low, high in self.allowed(state)):
            raise ValueError(f"id {token} is not allowed at place {state.length}; allowed are {self.allowed(state)}")
        segment, shape, place, length, steps = state
        if segment < 0 or segment == len(self._streams):
            return GrammarState(segment + 1, 0, 0, length + 1)
        stream = self._streams[segment]
        if place == 0 and token == self._nulls[segment]:
            return GrammarState(segment + 1, 0, 0, length + 1)
        if stream.first_shape is not None and place == 1:
            shape = token - stream.first_shape
        if token == stream.end:
            steps = self._next_place(state)[0] // self._places[segment][shape]
        place += 1
        count = self._sizes[segment][shape] * (steps if stream.is_open else 1)
        whole = count + stream.header + int(stream.is_open)
        if place == whole and (not stream.is_open or steps or token == stream.end):
            return GrammarState(segment + 1, 0, 0, length + 1)
        return GrammarState(segment, shape, place, length + 1, steps)

    def accepts(self, ids: Iterable[int]) -> bool:
        """Whether ``ids`` is one whole document."""
        state = self.start()
        try:
            for token in ids:
                state = self.advance(state, int(token))
        except ValueError:
            return False
        return self.done(state)

    def _fits(self, length: int) -> bool:
        return self.max_length is None or length <= self.max_length

    def coordinates(self, state: GrammarState) -> tuple[int, ...]:
        """Return where in its grid the id stands that comes next if a special token does not; -1 where there is none."""
        if not 0 <= state.segment < len(self._streams) or state.place < self._streams[state.segment].header:
            return _NONE
        segment = self._segments[state.segment]
        _, place, codebook = self._next_place(state)
        flat = np.array([place * segment.stream.depth(segment.stream.shapes[state.shape]) + codebook])
        found: tuple[int, ...] = tuple(segment.coordinates(flat, np.array([state.shape]))[0].tolist())
        return found

    def following(self, state: GrammarState) -> tuple[int, ...]:
        """Return `coordinates` where the order of the ids is drawn, and -1 elsewhere: what a model must be told."""
        drawn = 0 <= state.segment < len(self._segments) and self._segments[state.segment].arrangement.drawn
        return self.coordinates(state) if drawn else _NONE

    def next_cell(self, state: GrammarState) -> tuple[int, ...]:
        """Return the `segment.CELL` of the id that comes next; of a grid of height and width, else `NO_CELL`."""
        if not 0 <= state.segment < len(self._segments):
            return NO_CELL
        segment = self._segments[state.segment]
        if not segment.is_plane or state.place < segment.header:
            return NO_CELL
        _, place, channel = self._next_place(state)
        shape = segment.stream.shapes[state.shape]
        height, width = segment.stream.place_shape(shape)
        row, column = divmod(place, width)
        return (state.segment, row, column, channel, height, width, segment.stream.depth(shape), int(segment.condition))

    def next_step(self, state: GrammarState) -> tuple[bool, int]:
        """Return whether the token that comes next begins a joint step (`layouts`), and its slot; see `packing.Places`.

        Both are known before it is drawn: ``<end>`` comes only where an id of codebook 0 would begin a step.
        """
        if not 0 <= state.segment < len(self._segments) or state.place < self._segments[state.segment].header:
            return True, 0
        segment = self._segments[state.segment]
        return segment.arrangement.joint_one(self._next_index(state), state.shape, state.steps or ENDLESS)

    def place_of(self, state: GrammarState, token: int) -> TokenPlace:
        """Return what ``token`` is in a state that allows it."""
        alone = (state.length,) * len(COORDINATE_AXES)
        if not 0 <= state.segment < len(self._segments):
            role = role_of_bos(self._segments) if state.segment < 0 else Role.STRUCTURE
            return TokenPlace(int(role), alone)
        segment = self._segments[state.segment]
        own = state.place >= segment.header and token != segment.stream.end
        role_ = int(role_of(segment, np.array([-1 if own else token]))[0])
        if not own or len(segment.stream.place_axes) == 1:
            return TokenPlace(role_, alone)
        start = state.length - state.place + segment.header
        return TokenPlace(role_, tuple(start + max(0, index) for index in self.coordinates(state)))

    def progress(self, state: GrammarState) -> float:
        """Return how far the grid has come that is being drawn, from 0 at its first id to 1 at its last; 0 where there is none.

        Of an open stream the last id is the last that ``max_length`` has room for; without it there is none, and this is 0.
        """
        if not 0 <= state.segment < len(self._streams) or state.place < self._streams[state.segment].header:
            return 0.0
        stream, size = self._streams[state.segment], self._sizes[state.segment][state.shape]
        index = state.place - stream.header - (1 if state.steps else 0)
        if not stream.is_open or state.steps:
            count = size * max(1, state.steps)
        elif self.max_length is None:
            return 0.0
        else:
            begun = state.length - state.place + stream.header
            count = (self.max_length - begun - 1 - self._rest[state.segment + 1]) // size * size
        return min(1.0, index / max(1, count - 1))

    def _next_place(self, state: GrammarState) -> Place:
        """Return where the id goes that comes next if ``<end>`` does not."""
        arrangement = self._segments[state.segment].arrangement
        return arrangement.place(self._next_index(state), state.shape, state.steps or ENDLESS, self.seed)

    def _next_index(self, state: GrammarState) -> int:
        return state.place - self._segments[state.segment].header - (1 if state.steps else 0)

    def _least_content(self, segment: int, shape: int) -> int:
        size = prod(self._streams[segment].shapes[shape])
        return self._min_steps[segment] * size + 1 if self._streams[segment].is_open else size

    def _possible_shapes(self, segment: int) -> Iterable[int]:
        begun = self._begun[segment]
        return range(len(self._streams[segment].shapes)) if begun is None else begun.shapes

    def _allowed_beginnings(self, segment: int, length: int) -> list[tuple[int, int]]:
        begin, null = self._streams[segment].begin, self._nulls[segment]
        if null is None:
            return [(begin, begin + 1)]
        if not self._fits(length + self._least_whole[segment] + self._rest[segment + 1]):
            return [(null, null + 1)]
        # Nulls come behind all other special tokens.
        return [(begin, begin + 1), (null, null + 1)] if begin + 1 < null else [(begin, null + 1)]

    def _allowed_shapes(self, segment: int, length: int) -> list[tuple[int, int]]:
        stream = self._streams[segment]
        assert stream.first_shape is not None
        intervals: list[tuple[int, int]] = []
        for shape in self._possible_shapes(segment):
            if self._fits(length + 1 + self._least_content(segment, shape) + self._rest[segment + 1]):
                token = stream.first_shape + shape
                if intervals and intervals[-1][1] == token:
                    intervals[-1] = (intervals[-1][0], token + 1)
                else:
                    intervals.append((token, token + 1))
        return intervals


class Begun(NamedTuple):
    """The first steps of a stream."""

    shapes: list[int]
    """Indexes of the shapes that its grid may have."""
    ids: list[list[int]]
    """Ids of the vocabulary: for each place one a codebook or channel."""

    def steps(self, stream: StreamIds) -> int:
        """Return how many time steps of an open stream they are."""
        return len(self.ids) // stream.places(stream.shapes[self.shapes[0]])


def begun_ids(stream: StreamIds, grid: NDArray[Any] | None) -> Begun | None:
    """Return what a grid of the first steps along the first axis says; None if there is none.

    Raises:
        ValueError: none of the stream's shapes goes on from there, or an id is out of range.
    """
    if grid is None:
        return None
    grid = np.asarray(grid)
    if stream.is_open:
        ids, shape = shared_ids(grid, stream)
        return Begun([shape], ids.tolist())
    shapes = longer_shapes(stream, grid.shape)
    if not shapes:
        known = ", ".join(shape_name(shape) for shape in stream.shapes[:5])
        raise ValueError(
            f"stream {stream.name!r} cannot be begun with a grid of shape {shape_name(grid.shape)}: none of its shapes "
            f"({known}) goes on from there"
        )
    return Begun(shapes, checked_ids(grid, stream, stream.shapes[shapes[0]]).tolist())


def longer_shapes(stream: StreamIds, shape: Sequence[int]) -> list[int]:
    """Return the indexes of a closed stream's shapes that differ from ``shape`` only in that their first axis is longer."""
    rest = tuple(shape[1:])
    return [
        index
        for index, known in enumerate(stream.shapes)
        if len(known) == len(shape) and known[1:] == rest and known[0] > shape[0] > 0
    ]
