"""What a training sequence is made of, from one declaration such as ``text -> image``.

The layout of one document, its loss mask, its inverse and the grammar that generation obeys all come from here, so they
cannot disagree. Streams left of the arrow are the condition: they carry no loss. One document is

    <bos> <begin:text> ids.. <end:text> <begin:image> [<shape:HxW>] ids.. <eos>

with a shape token only where a stream's shapes vary in the data, and an end token only for open streams (text, sound),
whose length nothing else tells. Grids are flattened in their own axis order: raw pixels height, width, channel; codebooks
step by step. The tokens that the grammar always forces (``<bos>``, ``<begin:..>``, ``<eos>``) carry no loss: there is nothing
to learn. Shape and end tokens of a target stream are choices, so they carry loss.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.vocabulary import StreamIds, Vocabulary, unknown_stream

ARROW = "->"


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


@dataclass(frozen=True)
class SequenceTemplate:
    """The streams of a sequence in their order, and which of them are only the condition."""

    condition: tuple[str, ...]
    """Streams left of the arrow: given, never predicted."""
    target: tuple[str, ...]
    """Streams that are learned and generated."""

    def __post_init__(self) -> None:
        names = self.condition + self.target
        if not self.target:
            raise ValueError(f"template {str(self)!r} predicts nothing; name at least one stream (right of '->')")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"template {str(self)!r} names the stream {name!r} twice; a stream may come once")

    @classmethod
    def parse(cls, text: str, known: Collection[str] | None = None) -> SequenceTemplate:
        """Read a template such as ``text``, ``text image`` or ``text -> image``.

        Args:
            text: stream names, with at most one ``->``; what is left of it carries no loss.
            known: the streams that exist, to check the names against.

        Raises:
            ValueError: a stream is unknown (the message suggests the closest) or named twice, there is more than one
                arrow, or nothing to predict.
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
        template = cls(tuple(condition), tuple(target))
        if known is not None:
            for name in template.streams:
                if name not in known:
                    raise ValueError(f"template {text!r}: {unknown_stream(name, known)}")
        return template

    @property
    def streams(self) -> tuple[str, ...]:
        """All streams in their order."""
        return self.condition + self.target

    def __str__(self) -> str:
        parts = [*self.condition, ARROW, *self.target] if self.condition else list(self.target)
        return " ".join(parts)

    def grammar(self, vocabulary: Vocabulary, max_length: int | None = None) -> Grammar:
        """Return the grammar of this template's documents.

        Args:
            vocabulary: the id space.
            max_length: the most tokens that a document may have, ``<bos>`` and ``<eos>`` included; None for no limit.
        """
        return Grammar(self, vocabulary, max_length)

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
            segment, free = _flatten_segment(np.asarray(grids[name]), stream)
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
            unfinished: leave the last of them open, so that generation continues it.

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
            segment = _flatten_segment(np.asarray(grids[name]), stream, checked_length=not unfinished)[0]
            parts.append(segment[:-1] if unfinished and name == given[-1] and stream.is_open else segment)
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
            grids[name], place = _parse_segment(flat, place, vocabulary.stream(name))
        if place != len(flat) - 1 or flat[place] != vocabulary.eos:
            raise ValueError(f"the document does not end with <eos> at place {place}")
        return grids


class Grammar:
    """Which ids may come next, so that whatever is sampled is a whole document of the template.

    With ``max_length``, a token is allowed only if the document can still be finished within it after that token.

    Args:
        template: the streams in their order.
        vocabulary: the id space.
        max_length: the most tokens of a document, ``<bos>`` and ``<eos>`` included; None for no limit.

    Raises:
        ValueError: not even the shortest document fits into ``max_length``.
    """

    def __init__(self, template: SequenceTemplate, vocabulary: Vocabulary, max_length: int | None = None) -> None:
        self.max_length = max_length
        self._bos, self._eos = vocabulary.bos, vocabulary.eos
        self._streams = [vocabulary.stream(name) for name in template.streams]
        self._per_step = [stream.per_step for stream in self._streams]
        # The fewest tokens that finish a document from the start of each segment on; the last entry is <eos> alone.
        self._rest = [1]
        for stream in reversed(self._streams):
            least = min(self._least_content(stream, shape) for shape in range(len(stream.shapes)))
            self._rest.insert(0, self._rest[0] + stream.header + least)
        if max_length is not None and 1 + self._rest[0] > max_length:
            raise ValueError(
                f"the shortest document of {str(template)!r} has {1 + self._rest[0]} tokens, but only {max_length} are allowed; "
                "use a model with a longer context"
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

    def start(self) -> GrammarState:
        """Return the state before ``<bos>``."""
        return GrammarState(-1, 0, 0, 0)

    def done(self, state: GrammarState) -> bool:
        """Whether the document is finished: ``<eos>`` has been read."""
        return state.segment > len(self._streams)

    def allowed(self, state: GrammarState) -> list[tuple[int, int]]:
        """Return the ids that may come next as half-open intervals, sorted and apart; empty only when done."""
        segment, shape, place, length = state
        if segment < 0:
            return [(self._bos, self._bos + 1)]
        if segment >= len(self._streams):
            return [] if segment > len(self._streams) else [(self._eos, self._eos + 1)]
        stream = self._streams[segment]
        if place == 0:
            return [(stream.begin, stream.begin + 1)]
        if place < stream.header:
            return self._allowed_shapes(stream, segment, length)
        content, per_step = self._content[segment][shape], self._per_step[segment][shape]
        count = place - stream.header
        interval = content[count % len(content)]
        if stream.end is None or count % per_step:
            return [interval]
        intervals = []
        if count >= stream.min_steps * per_step:
            intervals.append((stream.end, stream.end + 1))
        if self._fits(length + per_step + 1 + self._rest[segment + 1]) or not intervals:
            intervals.append(interval)
        return intervals

    def advance(self, state: GrammarState, token: int) -> GrammarState:
        """Return the state after ``token``.

        Raises:
            ValueError: the token is not allowed in this state.
        """
        if not any(low <= token < high for low, high in self.allowed(state)):
            raise ValueError(f"id {token} is not allowed at place {state.length}; allowed are {self.allowed(state)}")
        segment, shape, place, length = state
        if segment < 0 or segment == len(self._streams):
            return GrammarState(segment + 1, 0, 0, length + 1)
        stream = self._streams[segment]
        if stream.first_shape is not None and place == 1:
            shape = token - stream.first_shape
        place += 1
        if token == stream.end or (stream.end is None and place == stream.header + self._per_step[segment][shape]):
            return GrammarState(segment + 1, 0, 0, length + 1)
        return GrammarState(segment, shape, place, length + 1)

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

    def _least_content(self, stream: StreamIds, shape: int) -> int:
        return stream.min_steps * stream.per_step[shape] + 1 if stream.is_open else stream.per_step[shape]

    def _allowed_shapes(self, stream: StreamIds, segment: int, length: int) -> list[tuple[int, int]]:
        assert stream.first_shape is not None
        intervals: list[tuple[int, int]] = []
        for shape in range(len(stream.shapes)):
            if self._fits(length + 1 + self._least_content(stream, shape) + self._rest[segment + 1]):
                token = stream.first_shape + shape
                if intervals and intervals[-1][1] == token:
                    intervals[-1] = (intervals[-1][0], token + 1)
                else:
                    intervals.append((token, token + 1))
        return intervals


def _flatten_segment(
    grid: NDArray[Any], stream: StreamIds, checked_length: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the ids of one segment and which of them are a choice: all but ``<begin>``."""
    if grid.ndim != len(stream.spec.axes) or grid.dtype.kind not in "iu":
        raise ValueError(
            f"stream {stream.name!r}: expected an integer grid with axes {stream.spec.axes}, got {grid.dtype} {grid.shape}"
        )
    shape = stream.shape_index(grid.shape[1:] if stream.is_open else grid.shape)
    if checked_length and stream.is_open and len(grid) < stream.min_steps:
        raise ValueError(f"stream {stream.name!r}: a grid without a single time step; leave the sample out")
    codebooks = stream.codebooks(stream.shapes[shape])
    sizes = np.resize(np.array(stream.spec.codebook_sizes), codebooks)
    ids = grid.astype(np.int64).reshape(-1, codebooks)
    if ids.size and ((ids < 0) | (ids >= sizes)).any():
        wrong = ids[(ids < 0) | (ids >= sizes)][0]
        raise ValueError(f"stream {stream.name!r}: id {wrong} is outside the vocabulary of {stream.spec.vocab_size}")
    ids = (ids + np.array(stream.offsets[:codebooks])).reshape(-1)
    header = [stream.begin] if stream.first_shape is None else [stream.begin, stream.first_shape + shape]
    segment = np.concatenate([header, ids] if stream.end is None else [header, ids, [stream.end]])
    free = np.ones(len(segment), bool)
    free[0] = False
    return segment, free


def _parse_segment(flat: NDArray[np.int64], place: int, stream: StreamIds) -> tuple[NDArray[np.int64], int]:
    """Read one segment that starts at ``place``; return its grid and the place after it."""
    if place >= len(flat) or flat[place] != stream.begin:
        raise ValueError(f"expected <begin:{stream.name}> at place {place}")
    shape = 0
    if stream.first_shape is not None:
        shape = int(flat[place + 1]) - stream.first_shape if place + 1 < len(flat) else -1
        if not 0 <= shape < len(stream.shapes):
            raise ValueError(f"expected a shape token of {stream.name!r} at place {place + 1}")
    start = place + stream.header
    if stream.end is None:
        stop = start + prod(stream.shapes[shape])
        following = stop
        grid_shape: tuple[int, ...] = stream.shapes[shape]
    else:
        ends = np.flatnonzero(flat[start:] == stream.end)
        if not len(ends):
            raise ValueError(f"the segment of {stream.name!r} that begins at place {place} has no <end:{stream.name}>")
        stop = start + int(ends[0])
        following = stop + 1
        steps, odd = divmod(stop - start, stream.per_step[shape])
        if odd or steps < stream.min_steps:
            raise ValueError(f"the segment of {stream.name!r} ends at place {stop} in the middle of a time step")
        grid_shape = (steps, *stream.shapes[shape])
    if stop > len(flat):
        raise ValueError(f"the segment of {stream.name!r} that begins at place {place} is cut off")
    codebooks = stream.codebooks(stream.shapes[shape])
    ids = flat[start:stop].reshape(-1, codebooks) - np.array(stream.offsets[:codebooks])
    if ((ids < 0) | (ids >= np.resize(np.array(stream.spec.codebook_sizes), codebooks))).any():
        raise ValueError(f"the segment of {stream.name!r} that begins at place {place} holds an id of another stream")
    return ids.reshape(grid_shape), following
