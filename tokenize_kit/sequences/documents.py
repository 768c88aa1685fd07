"""The documents of a template as tables over the flat arrays of shards; nothing is copied, and nothing is done a document.

A template of one open stream with codebooks (a sound of a codec) has documents that may be longer than a row. They are cut
between two time steps (`Documents.pieces`): each piece is a whole document with all that its layout wants, so a layout is never
torn; only its ``<end>`` is no choice where the sound goes on in the next piece, and carries no loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.segment import MISSING, Segment
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import StreamIds, Vocabulary, distinct_shapes

Ints = NDArray[np.int64]


class FlatStream(Protocol):
    """What is read of a shard: `tokenize_kit.shards.StreamArray` is one."""

    @property
    def values(self) -> NDArray[np.unsignedinteger[Any]]:
        """All ids, flat."""
        ...

    @property
    def offsets(self) -> Ints:
        """(rows + 1,): row i holds ``values[offsets[i] : offsets[i + 1]]``."""
        ...

    @property
    def shapes(self) -> Ints:
        """(rows, axes)."""
        ...


@dataclass(frozen=True)
class SegmentTable:
    """Where the ids of one segment are, for every document."""

    segment: Segment
    """What it is."""
    values: Sequence[NDArray[np.unsignedinteger[Any]]]
    """Flat ids of each array."""
    source: Ints
    """(documents,): in which of the arrays."""
    start: Ints
    """(documents,): first id there."""
    count: Ints
    """(documents,): how many ids; `MISSING` where the sample lacks the part or it is dropped."""
    shape: Ints
    """(documents,): index of the shape."""
    begin: Ints
    """(documents,): place of the segment in the document."""
    ended: NDArray[np.bool_]
    """(documents,): whether ``<end>`` is where the sample ends; False for a piece of it that another one follows."""

    @property
    def ids(self) -> StreamIds:
        """The stream in the vocabulary."""
        return self.segment.stream


class Documents:
    """Documents of one template, as tables over the flat arrays of the shards; nothing is copied.

    Args:
        template: what a document is made of.
        vocabulary: the id space.
        arrays: for each stream of the template, flat arrays that cover the same samples in the same order. Where a stream comes
            several times in the template, so many samples that follow each other make one document.

    Raises:
        ValueError: a grid has a shape that the vocabulary does not know, a sound is empty, or the template gives a stream an
            order or a layout that its grids cannot have.

    A sample lacks an optional part where the grid of its stream is empty.
    """

    def __init__(
        self, template: SequenceTemplate, vocabulary: Vocabulary, arrays: Mapping[str, Sequence[FlatStream]]
    ) -> None:
        self.template, self.vocabulary = template, vocabulary
        rows = [len(array.shapes) for array in arrays[template.streams[0]]]
        for name in template.streams:
            assert [len(array.shapes) for array in arrays[name]] == rows, "the streams of a sample must go together"
        samples = template.samples
        count = sum(rows) // samples
        source = np.repeat(np.arange(len(rows)), rows)
        place = np.ones(count, np.int64)
        self.segments: list[SegmentTable] = []
        """A table for each segment."""
        for segment in template.segments(vocabulary):
            found = arrays[segment.stream.name]
            # Of each group of samples the one of this occurrence; a last group that is not full is left out.
            mine = slice(segment.occurrence - 1, count * samples, samples)
            start, ids, shape = (
                np.concatenate([*parts, np.zeros(0, np.int64)])[mine]
                for parts in (
                    [array.offsets[:-1] for array in found],
                    [np.diff(array.offsets) for array in found],
                    [_shape_indices(segment.stream, array.shapes, segment.optional) for array in found],
                )
            )
            if segment.optional:
                ids = np.where(ids == 0, MISSING, ids)
            values = [array.values for array in found]
            self.segments.append(
                SegmentTable(segment, values, source[mine], start, ids, shape, place, np.ones(count, bool))
            )
            place = place + segment.size(ids)
        self.tokens = place + 1
        """(documents,): tokens of each document, ``<bos>`` and ``<eos>`` included."""

    def __len__(self) -> int:
        return len(self.tokens)

    def without(self, dropped: NDArray[np.bool_]) -> Documents:
        """Return the documents without some of their conditions; nothing is copied.

        Args:
            dropped: (documents, conditions), which of the parts left of the arrow are not there. Each must have a null
                (`Segment.null`).
        """
        result = copy(self)
        result.segments, place = [], np.ones(len(self), np.int64)
        for number, table in enumerate(self.segments):
            count = table.count
            if number < dropped.shape[1]:
                assert table.segment.condition
                assert table.segment.null is not None
                count = np.where(dropped[:, number], MISSING, count)
            result.segments.append(replace(table, count=count, begin=place))
            place = place + table.segment.size(count)
        result.tokens = place + 1
        return result

    def lacking(self, chosen: Ints) -> dict[str, int]:
        """Return for each optional part how many of the chosen documents lack it."""
        return {
            table.segment.name: int((table.count[chosen] == MISSING).sum())
            for table in self.segments
            if table.segment.optional
        }

    @property
    def is_stream(self) -> bool:
        """Whether documents may be cut anywhere: the template is one open stream of one id a step."""
        return len(self.segments) == 1 and self.segments[0].ids.is_open and len(self.segments[0].ids.spec.axes) == 1

    @property
    def has_pieces(self) -> bool:
        """Whether documents may be cut between two time steps: the template is one open stream of several ids a step."""
        return len(self.segments) == 1 and self.segments[0].ids.is_open and not self.is_stream

    @property
    def has_drawn_orders(self) -> bool:
        """Whether a document has an order that its seed decides."""
        return any(table.segment.arrangement.drawn for table in self.segments)

    def pieces(self, context: int, chosen: Ints | None = None) -> Documents:
        """Return documents of at most ``context`` tokens: of each one its first steps, the next ones, and so on.

        Only for templates that `has_pieces`; a document that is short enough is its only piece. Nothing is copied.

        Args:
            context: the most tokens of a piece, ``<bos>`` and ``<eos>`` included.
            chosen: the documents to take, in their order; all if None.

        Raises:
            ValueError: the context does not hold a single time step.
        """
        assert self.has_pieces
        (whole,) = self.segments
        chosen = np.arange(len(self)) if chosen is None else chosen
        a_step = self._ids_of_a_step()[chosen]
        longest = (context - self._tokens_beside) // a_step
        if len(longest) and longest.min() < 1:
            ids = int(a_step.max())
            raise ValueError(
                f"a document of a single time step of {whole.ids.name!r} has {self._tokens_beside + ids} tokens ({ids} "
                f"{'codebooks' if whole.ids.has_codebooks else 'ids a step'}), more than the context of {context}; use --context "
                f"{self._tokens_beside + ids} or more, or {'fewer codebooks' if whole.ids.has_codebooks else 'smaller samples'}"
            )
        steps = whole.count[chosen] // a_step
        number = np.maximum(1, -(-steps // longest))
        document, a_step, longest, steps = (np.repeat(values, number) for values in (chosen, a_step, longest, steps))
        piece = np.arange(len(document)) - np.repeat(np.cumsum(number) - number, number)
        first = piece * longest
        count = np.minimum(longest, steps - first) * a_step
        result = copy(self)
        result.segments = [
            replace(
                whole,
                source=whole.source[document],
                start=whole.start[document] + first * a_step,
                count=count,
                shape=whole.shape[document],
                begin=np.ones(len(document), np.int64),
                ended=piece == np.repeat(number, number) - 1,
            )
        ]
        result.tokens = count + self._tokens_beside
        return result

    def tokens_of_steps(self, steps: int) -> int:
        """Return the most tokens of a document of so many time steps; only for templates that `has_pieces`."""
        assert self.has_pieces
        return self._tokens_beside + steps * int(self._ids_of_a_step().max(initial=1))

    @property
    def _tokens_beside(self) -> int:
        """How many tokens are none of a grid: ``<bos>``, the header, ``<end>`` and ``<eos>``."""
        return 2 + int(self.segments[0].segment.size(np.asarray(0)))

    def _ids_of_a_step(self) -> Ints:
        """Return how many ids a time step of each document has; only for templates that `has_pieces`."""
        (whole,) = self.segments
        return np.array([prod(shape) for shape in whole.ids.shapes])[whole.shape]

    def grids(self, document: int) -> dict[str, NDArray[Any]]:
        """Return the shaped grids of one document by the names of its segments; those that are missing are left out."""
        grids = {}
        for table in self.segments:
            start, count = int(table.start[document]), int(table.count[document])
            if count == MISSING:
                continue
            values = table.values[int(table.source[document])][start : start + count]
            grids[table.segment.name] = values.reshape(table.segment.grid_shape(count, int(table.shape[document])))
        return grids


def vocabulary_of(
    template: SequenceTemplate | Sequence[SequenceTemplate],
    specs: Mapping[str, TokenSpec],
    arrays: Mapping[str, Sequence[FlatStream]],
    dropped: bool = False,
) -> Vocabulary:
    """Return the vocabulary of a template, or of several: the specs of all streams and the shapes that occur in the data.

    Of a tokenizer with codebooks it has only those that the data has: the others would be ids that nothing ever says.

    Args:
        template: what a document is made of, or several of them.
        specs: of their streams.
        arrays: see `Documents`.
        dropped: whether conditions may be dropped, so that they need a null.

    Raises:
        ValueError: there is no sample, or none with an optional stream, or a stream has too many different shapes.
    """
    templates = [template] if isinstance(template, SequenceTemplate) else template
    streams = tuple(dict.fromkeys(name for one in templates for name in one.streams))
    used = {name: specs[name] for name in streams}
    shapes = {}
    for name in streams:
        spec = specs[name]
        tables = [array.shapes for array in arrays[name] if len(array.shapes)]
        if lenient := [one for one in templates if name in one.optional_streams]:
            there = [table[table.all(1)] for table in tables]
            if tables and not any(len(table) for table in there):
                raise ValueError(f"no sample has the stream {name!r}; leave it out of the template {str(lenient[0])!r}")
            tables = [table for table in there if len(table)]
        found = [np.unique(_fixed_axes(spec, table), axis=0) for table in tables]
        if not found:
            raise ValueError("the shards hold no sample; encode some data first")
        whole = (
            [(0, *row) for part in found for row in part.tolist()] if spec.is_open else np.concatenate(found).tolist()
        )
        shapes[name] = distinct_shapes(name, spec, whole)
        if isinstance(spec.vocab_size, tuple):
            count = max(shape[-1] for shape in shapes[name])
            if 0 < count < len(spec.vocab_size):
                used[name] = spec.first_codebooks(count)
    nulls = {name for one in templates for name in one.nulls(dropped)}
    return Vocabulary(used, shapes, tuple(name for name in streams if name in nulls))


def _fixed_axes(spec: TokenSpec, shapes: Ints) -> Ints:
    return shapes[:, 1:] if spec.is_open else shapes


def _shape_indices(ids: StreamIds, shapes: Ints, optional: bool = False) -> Ints:
    """Return the index in ``ids.shapes`` of each row of ``shapes`` (rows, axes); 0 for an empty grid of an optional part."""
    if optional and not (there := shapes.all(1)).all():
        index = np.zeros(len(shapes), np.int64)
        index[there] = _shape_indices(ids, shapes[there])
        return index
    if ids.is_open and len(shapes) and int(shapes[:, 0].min()) < ids.min_steps:
        raise ValueError(
            f"stream {ids.name!r} has a grid without a single time step; leave that sample out when you encode"
        )
    fixed = _fixed_axes(ids.spec, shapes)
    if not fixed.shape[1]:
        return np.zeros(len(shapes), np.int64)
    found, inverse = np.unique(fixed, axis=0, return_inverse=True)
    index = np.array([ids.shape_index(tuple(row)) for row in found.tolist()], np.int64)
    if len(numbers := sorted({ids.codebooks(shape) for shape in ids.shapes})) > 1:
        raise ValueError(
            f"stream {ids.name!r} mixes {', '.join(map(str, numbers))} codebooks; encode all samples with one number "
            "(--codebooks)"
        )
    return index[inverse.reshape(-1)]
