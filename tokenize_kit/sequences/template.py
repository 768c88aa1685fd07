"""What a training sequence is made of, from one declaration such as ``text -> image``.

The layout of one document, its loss mask, its inverse and the grammar that generation obeys all come from here, so they
cannot disagree. Streams left of the arrow are the condition: they carry no loss. One document is

    <bos> <begin:text> ids.. <end:text> <begin:image> [<shape:HxW>] ids.. <eos>

with a shape token only where a stream's shapes vary in the data, and an end token only for open streams (text, sound),
whose length nothing else tells. Grids are flattened in their own axis order: raw pixels height, width, channel; codebooks
step by step, or in the layout that the template names for their stream (``audio:delay``, see `sequences.layouts`). The end
token then stands where codebook 0 would have its next id, and the ids of the other codebooks that are still due follow it.
The tokens that the grammar always forces (``<bos>``, ``<begin:..>``, ``<eos>``) carry no loss: there is nothing to learn. Shape
and end tokens of a target stream are choices, so they carry loss.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.sequences.layouts import DEFAULT, ENDLESS, LAYOUTS, Layout, order, unknown_layout
from tokenize_kit.sequences.vocabulary import StreamIds, Vocabulary, shape_name, unknown_stream

ARROW = "->"
LAYOUT_MARK = ":"


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


@dataclass(frozen=True)
class SequenceTemplate:
    """The streams of a sequence in their order, and which of them are only the condition."""

    condition: tuple[str, ...]
    """Streams left of the arrow: given, never predicted."""
    target: tuple[str, ...]
    """Streams that are learned and generated."""
    layouts: tuple[tuple[str, str], ...] = ()
    """Stream and layout of those streams whose ids do not come step by step, in their order."""

    def __post_init__(self) -> None:
        if problem := _problem(self.condition, self.target, self.layouts):
            raise ValueError(f"template {str(self)!r}{problem}")
        # One template has one form, so that equal ones are equal.
        given = dict(self.layouts)
        kept = tuple((name, given[name]) for name in self.streams if given.get(name, DEFAULT) != DEFAULT)
        object.__setattr__(self, "layouts", kept)

    @classmethod
    def parse(cls, text: str, known: Collection[str] | None = None) -> SequenceTemplate:
        """Read a template such as ``text``, ``text image``, ``text -> image`` or ``text -> audio:delay``.

        Args:
            text: stream names, each with its layout after a colon or without one (flatten), and at most one ``->``; what is
                left of it carries no loss.
            known: the streams that exist, to check the names against.

        Raises:
            ValueError: a stream or layout is unknown (the message suggests the closest), a stream is named twice, there is
                more than one arrow, or nothing to predict.
        """
        left, arrow, right = text.partition(ARROW)
        if ARROW in right:
            raise ValueError(
                f"template {text!r} has more than one '->'; everything right of the first is predicted already"
            )
        condition, target = (left.split(), right.split()) if arrow else ([], left.split())
        if arrow and not condition:
            raise ValueError(
                f"template {text!r} has nothing left of '->'; without a condition write {' '.join(target)!r}"
            )
        layouts: list[tuple[str, str]] = []
        for words in (condition, target):
            for place, word in enumerate(words):
                words[place], mark, layout = word.partition(LAYOUT_MARK)
                if mark:
                    layouts.append((words[place], layout))
        # Here already, to quote what was written.
        if problem := _problem(condition, target, layouts):
            raise ValueError(f"template {text!r}{problem}")
        if known is not None:
            for name in [*condition, *target]:
                if name not in known:
                    raise ValueError(f"template {text!r}: {unknown_stream(name, known)}")
        return cls(tuple(condition), tuple(target), tuple(layouts))

    @property
    def streams(self) -> tuple[str, ...]:
        """All streams in their order."""
        return self.condition + self.target

    def __str__(self) -> str:
        marks = {name: f"{name}{LAYOUT_MARK}{layout}" for name, layout in self.layouts}
        condition, target = ([marks.get(name, name) for name in names] for names in (self.condition, self.target))
        return " ".join([*condition, ARROW, *target] if condition else target)

    def layout(self, stream: StreamIds) -> Layout:
        """Return the layout of a stream.

        Raises:
            ValueError: the template names one for it, but its grids have no codebooks.
        """
        name = dict(self.layouts).get(stream.name, DEFAULT)
        if name != DEFAULT and not stream.has_codebooks:
            raise ValueError(
                f"the template {str(self)!r} gives the stream {stream.name!r} the layout {name!r}, but its grids (axes "
                f"{', '.join(stream.spec.axes)}) have no codebooks to order; write {stream.name!r} without a layout"
            )
        return LAYOUTS[name]

    def grammar(
        self,
        vocabulary: Vocabulary,
        max_length: int | None = None,
        begun: Mapping[str, NDArray[Any]] | None = None,
    ) -> Grammar:
        """Return the grammar of this template's documents.

        Args:
            vocabulary: the id space.
            max_length: the most tokens that a document may have, ``<bos>`` and ``<eos>`` included; None for no limit.
            begun: for a stream a grid of its first steps along the first axis, which every document must have; see `prompt_ids`.
        """
        return Grammar(self, vocabulary, max_length, begun)

    def flatten(
        self, grids: Mapping[str, NDArray[Any]], vocabulary: Vocabulary
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Lay the grids of one sample out as a document.

        Args:
            grids: an integer grid for each stream of the template; others are ignored.
            vocabulary: the id space.

        Returns:
            The ids and the loss mask, both of shape ``(length,)``; the mask says whether predicting this token counts:
            it belongs to a target stream and is not one that the grammar always forces.

        Raises:
            ValueError: a stream is missing, a grid has another shape than the vocabulary knows, or an id is out of range.
        """
        ids: list[NDArray[np.int64]] = [np.array([vocabulary.bos])]
        masks: list[NDArray[np.bool_]] = [np.zeros(1, bool)]
        for name in self.streams:
            stream = vocabulary.stream(name)
            if name not in grids:
                raise ValueError(f"the sample has no stream {name!r}, which the template {str(self)!r} needs")
            segment, free = _flatten_segment(np.asarray(grids[name]), stream, self.layout(stream))
            ids.append(segment)
            masks.append(free if name in self.target else np.zeros_like(free))
        ids.append(np.array([vocabulary.eos]))
        masks.append(np.zeros(1, bool))
        return np.concatenate(ids), np.concatenate(masks)

    def prompt_ids(
        self, grids: Mapping[str, NDArray[Any]], vocabulary: Vocabulary, unfinished: bool = False
    ) -> NDArray[np.int64]:
        """Return the start of a document that holds the template's first streams, as far as ``grids`` gives them.

        Args:
            grids: grids of the first streams; may be empty.
            vocabulary: the id space.
            unfinished: leave the last of them open, so that generation continues it: its grid may have fewer steps along the
                first axis than its shape. In a layout in which ids of its last steps come later than the next id of codebook
                0 these are not in the prompt, and where several shapes could be meant neither is the grid; the grammar that
                got the grid as ``begun`` forces them at their places.

        Raises:
            ValueError: a grid is given for a stream after a missing one, or does not fit the vocabulary.
        """
        given = [name for name in self.streams if name in grids]
        if extra := sorted(set(grids) - set(self.streams)):
            raise ValueError(unknown_stream(extra[0], self.streams))
        if given != list(self.streams[: len(given)]):
            raise ValueError(
                f"the prompt gives {', '.join(given)}, but the template is {str(self)!r}; give the first streams"
            )
        parts = [np.array([vocabulary.bos])]
        for name in given:
            stream = vocabulary.stream(name)
            layout = self.layout(stream)
            if unfinished and name == given[-1] and not stream.is_open:
                parts.append(_begun_segment(np.asarray(grids[name]), stream, layout))
                continue
            segment = _flatten_segment(np.asarray(grids[name]), stream, layout, checked_length=not unfinished)[0]
            if unfinished and name == given[-1] and stream.is_open:
                segment = segment[: int(np.flatnonzero(segment == stream.end)[0])]
            parts.append(segment)
        return np.concatenate(parts)

    def parse_ids(self, ids: Iterable[int] | NDArray[Any], vocabulary: Vocabulary) -> dict[str, NDArray[np.int64]]:
        """Take a whole document apart into the grids of its streams; the inverse of `flatten`.

        Raises:
            ValueError: the ids are not a document that the grammar accepts; the message names the place.
        """
        flat = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), dtype=np.int64)
        if flat.ndim != 1 or not len(flat) or flat[0] != vocabulary.bos:
            raise ValueError("a document is a row of ids that starts with <bos>")
        grids: dict[str, NDArray[np.int64]] = {}
        place = 1
        for name in self.streams:
            stream = vocabulary.stream(name)
            grids[name], place = _parse_segment(flat, place, stream, self.layout(stream))
        if place != len(flat) - 1 or flat[place] != vocabulary.eos:
            raise ValueError(f"the document does not end with <eos> at place {place}")
        return grids


def _problem(condition: Sequence[str], target: Sequence[str], layouts: Sequence[tuple[str, str]]) -> str | None:
    """Return what is wrong with a template, to be said after its name."""
    names = [*condition, *target]
    if not target:
        return " predicts nothing; name at least one stream (right of '->')"
    for name in names:
        if names.count(name) > 1:
            return f" names the stream {name!r} twice; a stream may come once"
    for name, layout in layouts:
        if name not in names:
            return f" has a layout of a stream that it does not have: {unknown_stream(name, names)}"
        if layout not in LAYOUTS:
            return f": {unknown_layout(layout)}"
    return None


class Grammar:
    """Which ids may come next, so that whatever is sampled is a whole document of the template.

    With ``max_length``, a token is allowed only if the document can still be finished within it after that token.

    Args:
        template: the streams in their order.
        vocabulary: the id space.
        max_length: the most tokens of a document, ``<bos>`` and ``<eos>`` included; None for no limit.
        begun: for a stream a grid of its first steps along the first axis (a sound's first time steps, the first frames of a
            video); its ids are then the only ones allowed at their places.

    Raises:
        ValueError: not even the shortest document fits into ``max_length``, a layout is given for a stream without
            codebooks, or a grid of ``begun`` does not fit the vocabulary.
    """

    def __init__(
        self,
        template: SequenceTemplate,
        vocabulary: Vocabulary,
        max_length: int | None = None,
        begun: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.max_length = max_length
        self._bos, self._eos = vocabulary.bos, vocabulary.eos
        self._streams = [vocabulary.stream(name) for name in template.streams]
        self._layouts = [template.layout(stream) for stream in self._streams]
        if unknown := sorted(set(begun or {}) - set(template.streams)):
            raise ValueError(unknown_stream(unknown[0], template.streams))
        self._begun = [_begun_ids(stream, (begun or {}).get(stream.name)) for stream in self._streams]
        self._min_steps = [
            max(stream.min_steps, len(known.ids) if known is not None and stream.is_open else 0)
            for stream, known in zip(self._streams, self._begun, strict=True)
        ]
        # The fewest tokens that finish a document from the start of each segment on; the last entry is <eos> alone.
        self._rest = [1]
        for segment in reversed(range(len(self._streams))):
            stream = self._streams[segment]
            least = min(self._least_content(segment, shape) for shape in self._possible_shapes(segment))
            self._rest.insert(0, self._rest[0] + stream.header + least)
        if max_length is not None and 1 + self._rest[0] > max_length:
            how = " that goes on from the prompt" if begun else ""
            raise ValueError(
                f"the shortest document of {str(template)!r}{how} has {1 + self._rest[0]} tokens, but only {max_length} are "
                f"allowed; use a model with a longer context{', or shorten the prompt' if begun else ''}"
            )
        self._content = [
            [
                [
                    (offset, offset + stream.spec.codebook_sizes[min(q, len(stream.spec.codebook_sizes) - 1)])
                    for q, offset in enumerate(stream.offsets[: stream.codebooks(shape)])
                ]
                for shape in stream.shapes
            ]
            for stream in self._streams
        ]
        self._steps = [
            [0 if stream.is_open else stream.steps(shape) for shape in stream.shapes] for stream in self._streams
        ]

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
            return [(stream.begin, stream.begin + 1)]
        if place < stream.header:
            return self._allowed_shapes(segment, length)
        step, codebook = self._next_place(state)
        content = self._content[segment][shape]
        interval = content[codebook]
        begun = self._begun[segment]
        if begun is not None and step < len(begun.ids):
            token = begun.ids[step][codebook]
            return [(token, token + 1)]
        if stream.end is None or state.steps or codebook:
            return [interval]
        # The next id of codebook 0 is due, so this is the place of <end>: there may be a further step or not.
        intervals = []
        if step >= self._min_steps[segment]:
            intervals.append((stream.end, stream.end + 1))
        count = place - stream.header
        if self._fits(length - count + (step + 1) * len(content) + 1 + self._rest[segment + 1]) or not intervals:
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
        if stream.first_shape is not None and place == 1:
            shape = token - stream.first_shape
        if token == stream.end:
            steps = self._next_place(state)[0]
        place += 1
        known = steps or self._steps[segment][shape]
        whole = known * len(self._content[segment][shape]) + stream.header + int(stream.is_open)
        if place == whole and (known or token == stream.end):
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

    def _next_place(self, state: GrammarState) -> tuple[int, int]:
        """Return step and codebook of the id that comes next if ``<end>`` does not."""
        stream, codebooks = self._streams[state.segment], len(self._content[state.segment][state.shape])
        index = state.place - stream.header - (1 if state.steps else 0)
        steps = (
            ENDLESS if stream.is_open and not state.steps else state.steps or self._steps[state.segment][state.shape]
        )
        return self._layouts[state.segment].place(index, steps, codebooks)

    def _least_content(self, segment: int, shape: int) -> int:
        stream = self._streams[segment]
        size = prod(stream.shapes[shape])
        return self._min_steps[segment] * size + 1 if stream.is_open else size

    def _possible_shapes(self, segment: int) -> Iterable[int]:
        begun = self._begun[segment]
        return range(len(self._streams[segment].shapes)) if begun is None else begun.shapes

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


class _Begun(NamedTuple):
    """The first steps of a stream."""

    shapes: list[int]
    """Indexes of the shapes that its grid may have."""
    ids: list[list[int]]
    """Ids of the vocabulary: for each step, or place of a closed grid, one a codebook."""


def _begun_ids(stream: StreamIds, grid: NDArray[Any] | None) -> _Begun | None:
    if grid is None:
        return None
    grid = np.asarray(grid)
    if stream.is_open:
        ids, shape = _shared_ids(grid, stream)
        return _Begun([shape], ids.tolist())
    shapes = longer_shapes(stream, grid.shape)
    if not shapes:
        known = ", ".join(shape_name(shape) for shape in stream.shapes[:5])
        raise ValueError(
            f"stream {stream.name!r} cannot be begun with a grid of shape {shape_name(grid.shape)}: none of its shapes "
            f"({known}) goes on from there"
        )
    return _Begun(shapes, _checked_ids(grid, stream, stream.shapes[shapes[0]]).tolist())


def longer_shapes(stream: StreamIds, shape: Sequence[int]) -> list[int]:
    """Return the indexes of a closed stream's shapes that differ from ``shape`` only in that their first axis is longer."""
    rest = tuple(shape[1:])
    return [
        index
        for index, known in enumerate(stream.shapes)
        if len(known) == len(shape) and known[1:] == rest and known[0] > shape[0] > 0
    ]


def _begun_segment(grid: NDArray[Any], stream: StreamIds, layout: Layout) -> NDArray[np.int64]:
    """Return the ids of a closed segment as far as the first steps of its grid determine them, one after another."""
    begun = _begun_ids(stream, grid)
    assert begun is not None, "there is a grid"
    if len(begun.shapes) > 1:
        return np.array([stream.begin])
    shape = begun.shapes[0]
    header = [stream.begin] if stream.first_shape is None else [stream.begin, stream.first_shape + shape]
    ids, codebooks = np.array(begun.ids).reshape(-1), stream.codebooks(stream.shapes[shape])
    places = order(layout, stream.steps(stream.shapes[shape]), codebooks)
    known = places < len(ids)
    count = len(places) if known.all() else int(np.argmin(known))
    return np.concatenate([header, ids[places[:count]]]).astype(np.int64)


def _shared_ids(grid: NDArray[Any], stream: StreamIds) -> tuple[NDArray[np.int64], int]:
    """Return the ids of a grid in the vocabulary, (steps, codebooks), and the index of its shape."""
    if grid.ndim != len(stream.spec.axes) or grid.dtype.kind not in "iu":
        raise ValueError(
            f"stream {stream.name!r}: expected an integer grid with axes {stream.spec.axes}, got {grid.dtype} {grid.shape}"
        )
    shape = stream.shape_index(grid.shape[1:] if stream.is_open else grid.shape)
    return _checked_ids(grid, stream, stream.shapes[shape]), shape


def _checked_ids(grid: NDArray[Any], stream: StreamIds, shape: Sequence[int]) -> NDArray[np.int64]:
    """Return the ids of a grid, or of its first steps, in the vocabulary, (steps, codebooks)."""
    codebooks = stream.codebooks(tuple(shape))
    sizes = np.resize(np.array(stream.spec.codebook_sizes), codebooks)
    ids = grid.astype(np.int64).reshape(-1, codebooks)
    if ids.size and ((ids < 0) | (ids >= sizes)).any():
        wrong = ids[(ids < 0) | (ids >= sizes)][0]
        raise ValueError(f"stream {stream.name!r}: id {wrong} is outside the vocabulary of {stream.spec.vocab_size}")
    return np.asarray(ids + np.array(stream.offsets[:codebooks]), np.int64)


def _flatten_segment(
    grid: NDArray[Any], stream: StreamIds, layout: Layout, checked_length: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the ids of one segment and which of them are a choice: all but ``<begin>``."""
    ids, shape = _shared_ids(grid, stream)
    if checked_length and stream.is_open and len(grid) < stream.min_steps:
        raise ValueError(f"stream {stream.name!r}: a grid without a single time step; leave the sample out")
    steps, codebooks = ids.shape
    flat = ids.reshape(-1)[order(layout, steps, codebooks)]
    header = [stream.begin] if stream.first_shape is None else [stream.begin, stream.first_shape + shape]
    if stream.end is None:
        segment = np.concatenate([header, flat])
    else:
        end = int(layout.before_end(np.asarray(steps), codebooks))
        segment = np.concatenate([header, flat[:end], [stream.end], flat[end:]])
    free = np.ones(len(segment), bool)
    free[0] = False
    return segment, free


def _parse_segment(
    flat: NDArray[np.int64], place: int, stream: StreamIds, layout: Layout
) -> tuple[NDArray[np.int64], int]:
    """Read one segment that starts at ``place``; return its grid and the place after it."""
    if place >= len(flat) or flat[place] != stream.begin:
        raise ValueError(f"expected <begin:{stream.name}> at place {place}")
    shape = 0
    if stream.first_shape is not None:
        shape = int(flat[place + 1]) - stream.first_shape if place + 1 < len(flat) else -1
        if not 0 <= shape < len(stream.shapes):
            raise ValueError(f"expected a shape token of {stream.name!r} at place {place + 1}")
    start = place + stream.header
    codebooks = stream.codebooks(stream.shapes[shape])
    if stream.end is None:
        steps = stream.steps(stream.shapes[shape])
        ids = flat[start : start + steps * codebooks]
        following = start + steps * codebooks
        grid_shape: tuple[int, ...] = stream.shapes[shape]
    else:
        ends = np.flatnonzero(flat[start:] == stream.end)
        if not len(ends):
            raise ValueError(f"the segment of {stream.name!r} that begins at place {place} has no <end:{stream.name}>")
        count = int(ends[0])
        steps, codebook = layout.place(count, ENDLESS, codebooks)
        if codebook or steps < stream.min_steps:
            raise ValueError(
                f"the segment of {stream.name!r} ends at place {start + count} in the middle of a time step"
            )
        following = start + steps * codebooks + 1
        ids = np.concatenate([flat[start : start + count], flat[start + count + 1 : following]])
        grid_shape = (steps, *stream.shapes[shape])
    if following > len(flat):
        raise ValueError(f"the segment of {stream.name!r} that begins at place {place} is cut off")
    grid = np.empty(steps * codebooks, np.int64)
    grid[order(layout, steps, codebooks)] = ids
    grid = grid.reshape(steps, codebooks) - np.array(stream.offsets[:codebooks])
    if ((grid < 0) | (grid >= np.resize(np.array(stream.spec.codebook_sizes), codebooks))).any():
        raise ValueError(f"the segment of {stream.name!r} that begins at place {place} holds an id of another stream")
    return grid.reshape(grid_shape), following
