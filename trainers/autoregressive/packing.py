"""Packing documents of different lengths into rows of one length, without copying the shards.

A document of n tokens is n - 1 pairs (input, label): the labels are shifted here, before packing, so that no token is ever
asked to predict the first token of its neighbour. What goes into which row is a `Plan`; `fill_rows` turns any rows of a
plan into arrays, all of them at once with numpy. There are two plans.

`plan_stream`, for templates of one open stream (text): all pairs in one long line, cut every ``context``. Every pair is used
exactly once an epoch, nothing is padded but the end of the last row, and a long document runs on in further rows as pieces
of their own (context 8; documents A of 7 tokens, B of 12, C of 5; the input tokens are shown, E is never an input):

    line        B a a a a E|B b b b b b b b b b b E|B c c c E          (B = <bos>, E = <eos>)
    row 0       B a a a a a B b        documents 0 0 0 0 0 0 1 1       positions 0 1 2 3 4 5 0 1
    row 1       b b b b b b b b        documents 0 0 0 0 0 0 0 0       positions 0 1 2 3 4 5 6 7
    row 2       b B c c c . . .        documents 0 1 1 1 1 - - -       positions 0 0 1 2 3 . . .

`plan_whole`, for everything else: whole documents only, so that a picture is always seen with its caption, packed best-fit
decreasing (context 8; documents of 6, 5, 3 and 2 pairs):

    row 0       A A A A A A D D        documents 0 0 0 0 0 0 1 1
    row 1       B B B B B C C C        documents 0 0 0 0 0 1 1 1

A template of one open stream with codebooks (a sound of a codec) is of the second kind, but a document that is longer than the
context is cut between two time steps first (`Documents.pieces`). Each piece is a whole document with all that its layout
wants, so a layout is never torn; only its ``<end>`` carries no loss where the sound goes on in the next piece.

Padding (``.``) has document -1 and, like the condition and the tokens that the grammar forces, the label -100.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.layouts import DEFAULT, LAYOUTS, Layout
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import StreamIds, Vocabulary, distinct_shapes, is_open

IGNORED = -100
"""The label that carries no loss, as in ``torch.nn.functional.cross_entropy``."""

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
class _StreamTable:
    """Where the ids of one stream are, for every document."""

    ids: StreamIds
    values: Sequence[NDArray[np.unsignedinteger[Any]]]
    start: Ints
    count: Ints
    shape: Ints
    begin: Ints
    """Place of the segment in the document."""
    target: bool
    layout: Layout
    codebooks: int
    ended: NDArray[np.bool_]
    """Whether ``<end>`` is where the sample ends; False for a piece of it that another one follows."""

    @property
    def in_grid_order(self) -> bool:
        """Whether the ids of a document stand in the shard as they stand in the sequence."""
        return self.layout is LAYOUTS[DEFAULT]

    def before_end(self) -> Ints:
        """Return how many ids of each document come before ``<end>``."""
        return self.layout.before_end(self.count // self.codebooks, self.codebooks)


class Documents:
    """Documents of one template, as tables over the flat arrays of the shards; nothing is copied.

    Args:
        template: what a document is made of.
        vocabulary: the id space.
        arrays: for each stream of the template, flat arrays that cover the same samples in the same order.

    Raises:
        ValueError: a grid has a shape that the vocabulary does not know, a sound is empty, or the template gives a stream a
            layout that has no codebooks.
    """

    def __init__(
        self, template: SequenceTemplate, vocabulary: Vocabulary, arrays: Mapping[str, Sequence[FlatStream]]
    ) -> None:
        self.template, self.vocabulary = template, vocabulary
        rows = [len(array.shapes) for array in arrays[template.streams[0]]]
        self.source = np.repeat(np.arange(len(rows)), rows)
        """(documents,): in which of the arrays each document is."""
        place = np.ones(len(self.source), np.int64)
        self.streams: list[_StreamTable] = []
        for name in template.streams:
            ids = vocabulary.stream(name)
            assert [len(array.shapes) for array in arrays[name]] == rows, "the streams of a sample must go together"
            table = _StreamTable(
                ids,
                [array.values for array in arrays[name]],
                np.concatenate([array.offsets[:-1] for array in arrays[name]] or [np.zeros(0, np.int64)]),
                np.concatenate([np.diff(array.offsets) for array in arrays[name]] or [np.zeros(0, np.int64)]),
                np.concatenate(
                    [_shape_indices(ids, array.shapes) for array in arrays[name]] or [np.zeros(0, np.int64)]
                ),
                place,
                name in template.target,
                template.layout(ids),
                ids.codebooks(ids.shapes[0]),
                np.ones(len(self.source), bool),
            )
            self.streams.append(table)
            place = place + ids.header + table.count + int(ids.is_open)
        self.pairs = place
        """(documents,): pairs of input and label of each document, one less than its tokens."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def is_stream(self) -> bool:
        """Whether documents may be cut: the template is one open stream."""
        return len(self.streams) == 1 and self.streams[0].ids.is_open and len(self.streams[0].ids.spec.axes) == 1

    @property
    def has_pieces(self) -> bool:
        """Whether documents may be cut between two time steps: the template is one open stream with codebooks."""
        return len(self.streams) == 1 and self.streams[0].ids.is_open and self.streams[0].ids.has_codebooks

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
        (whole,) = self.streams
        chosen = np.arange(len(self)) if chosen is None else chosen
        longest = (context - self.tokens_of_steps(0)) // whole.codebooks
        if longest < 1:
            least = self.tokens_of_steps(1)
            raise ValueError(
                f"a document of a single time step of {whole.ids.name!r} has {least} tokens ({whole.codebooks} codebooks), more "
                f"than the context of {context}; use --context {least} or more, or fewer codebooks"
            )
        steps = whole.count[chosen] // whole.codebooks
        number = np.maximum(1, -(-steps // longest))
        document = np.repeat(chosen, number)
        piece = np.arange(len(document)) - np.repeat(np.cumsum(number) - number, number)
        first = piece * longest
        count = np.minimum(longest, np.repeat(steps, number) - first) * whole.codebooks
        result = copy(self)
        result.source = self.source[document]
        result.streams = [
            replace(
                whole,
                start=whole.start[document] + first * whole.codebooks,
                count=count,
                shape=whole.shape[document],
                begin=np.ones(len(document), np.int64),
                ended=piece == np.repeat(number, number) - 1,
            )
        ]
        result.pairs = count + self.tokens_of_steps(0) - 1
        return result

    def tokens_of_steps(self, steps: int) -> int:
        """Return the tokens of a document of so many time steps; only for templates that `has_pieces`."""
        assert self.has_pieces
        (whole,) = self.streams
        return 1 + whole.ids.header + steps * whole.codebooks + 1 + 1  # <bos>, .., <end>, <eos>

    def grids(self, document: int) -> dict[str, NDArray[Any]]:
        """Return the shaped grids of one document."""
        grids = {}
        for stream in self.streams:
            start, shape = stream.start[document], stream.ids.shapes[stream.shape[document]]
            values = stream.values[self.source[document]][start : start + stream.count[document]]
            grids[stream.ids.name] = values.reshape((-1, *shape) if stream.ids.is_open else shape)
        return grids


class Plan(NamedTuple):
    """Which pieces of which documents each row holds, in order; row r has the pieces ``offsets[r] : offsets[r + 1]``."""

    offsets: Ints
    """(rows + 1,)."""
    document: Ints
    """(pieces,)."""
    first: Ints
    """(pieces,): the first pair of the document that the piece holds."""
    length: Ints
    """(pieces,): how many pairs."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1


class Rows(NamedTuple):
    """Packed rows, all int64 of shape (rows, context)."""

    ids: Ints
    """Input tokens."""
    labels: Ints
    """The token after each input token, -100 where there is no loss."""
    positions: Ints
    """Place of each token in its piece."""
    documents: Ints
    """Number of the piece in its row, -1 for padding."""


def vocabulary_of(
    template: SequenceTemplate, specs: Mapping[str, TokenSpec], arrays: Mapping[str, Sequence[FlatStream]]
) -> Vocabulary:
    """Return the vocabulary of a template: the specs of its streams and the shapes that occur in the data.

    Of a tokenizer with codebooks it has only those that the data has: the others would be ids that nothing ever says.

    Raises:
        ValueError: there is no sample, or a stream has too many different shapes.
    """
    used = {name: specs[name] for name in template.streams}
    shapes = {}
    for name in template.streams:
        spec = specs[name]
        found = [np.unique(_fixed_axes(spec, array.shapes), axis=0) for array in arrays[name] if len(array.shapes)]
        if not found:
            raise ValueError("the shards hold no sample; encode some data first")
        whole = (
            [(0, *row) for part in found for row in part.tolist()] if is_open(spec) else np.concatenate(found).tolist()
        )
        shapes[name] = distinct_shapes(name, spec, whole)
        if isinstance(spec.vocab_size, tuple):
            count = max(shape[-1] for shape in shapes[name])
            if 0 < count < len(spec.vocab_size):
                used[name] = spec.first_codebooks(count)
    return Vocabulary(used, shapes)


def plan_stream(pairs: Ints, context: int, order: Ints | None = None) -> Plan:
    """Put all documents in one line, in ``order``, and cut it every ``context`` pairs.

    Args:
        pairs: (documents,), pairs of each document, at least 1.
        context: pairs of a row.
        order: documents in the order of the line; as they are if None. May leave documents out.
    """
    order = np.arange(len(pairs)) if order is None else order
    ends = np.cumsum(pairs[order])
    starts = ends - pairs[order]
    total = int(ends[-1]) if len(ends) else 0
    # A piece begins where a document begins and where a row begins.
    cuts = np.concatenate([starts, np.arange(0, total, context)])
    cuts.sort(kind="stable")
    cuts = cuts[np.diff(cuts, prepend=-1) > 0]
    lengths = np.diff(cuts, append=total)
    owner = np.searchsorted(starts, cuts, side="right") - 1
    offsets = np.searchsorted(cuts, np.arange(0, total + context, context)[: -(-total // context) + 1])
    return Plan(offsets, order[owner], cuts - starts[owner], lengths)


def plan_whole(pairs: Ints, context: int, documents: Ints | None = None) -> Plan:
    """Pack whole documents into rows: longest first, each into the fullest row that still has room (best-fit decreasing).

    Documents of one length are placed together, so the time goes with the number of different lengths.

    Args:
        pairs: (documents,), pairs of each document.
        context: pairs that a row can hold.
        documents: the documents to pack; all if None.

    Raises:
        ValueError: a document has more than ``context`` tokens.
    """
    documents = np.arange(len(pairs)) if documents is None else documents
    lengths = pairs[documents]
    if len(lengths) and lengths.max() >= context:
        # One place more than its pairs, so that generation, which ends with <eos>, fits wherever training did.
        tokens = int(lengths.max()) + 1
        raise ValueError(
            f"the longest document has {tokens} tokens, more than the context of {context}, and a document with several "
            f"streams or of a fixed shape is never cut; use --context {tokens}, or encode smaller samples"
        )
    row_of = np.empty(len(documents), np.int64)
    order = np.argsort(lengths, kind="stable")[::-1]
    bounds = np.flatnonzero(np.diff(lengths[order], prepend=-1, append=-1))
    rows_with: dict[int, list[Ints]] = {}  # free places -> rows that have them
    spaces: list[int] = []  # the keys of rows_with, sorted
    rows = 0

    def put_back(space: int, row: Ints) -> None:
        if space and len(row):
            if space not in rows_with:
                rows_with[space] = []
                insort(spaces, space)
            rows_with[space].append(row)

    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        waiting, length = order[low:high], int(lengths[order[low]])
        while len(waiting):
            place = bisect_left(spaces, length)
            if place < len(spaces):
                space = spaces.pop(place)
                open_rows = np.concatenate(rows_with.pop(space))
            else:
                space = context
                open_rows = np.arange(rows, rows + -(-len(waiting) // (context // length)))
                rows += len(open_rows)
            each = space // length
            used = min(len(open_rows), -(-len(waiting) // each))
            taken, waiting = waiting[: used * each], waiting[used * each :]
            row_of[taken] = np.repeat(open_rows[:used], each)[: len(taken)]
            last = len(taken) - (used - 1) * each  # the last row may get fewer than the others
            put_back(space - each * length, open_rows[: used - 1])
            put_back(space - last * length, open_rows[used - 1 : used])
            put_back(space, open_rows[used:])
    by_row = np.argsort(row_of, kind="stable")
    offsets = np.searchsorted(row_of[by_row], np.arange(rows + 1))
    return Plan(offsets, documents[by_row], np.zeros(len(by_row), np.int64), lengths[by_row])


def fill_rows(documents: Documents, plan: Plan, rows: Ints, context: int) -> Rows:
    """Return the packed rows ``rows`` of a plan.

    Args:
        documents: what the plan is about.
        plan: from `plan_stream` or `plan_whole`.
        rows: (n,), row numbers in any order.
        context: the row length that the plan was made for.

    Raises:
        ValueError: a shard holds an id outside its vocabulary.
    """
    number = plan.offsets[rows + 1] - plan.offsets[rows]
    pieces = np.repeat(plan.offsets[rows] - (np.cumsum(number) - number), number) + np.arange(number.sum())
    document, first, length = plan.document[pieces], plan.first[pieces], plan.length[pieces]
    first_piece = np.cumsum(number) - number
    row = np.repeat(np.arange(len(rows)), number)
    running = np.cumsum(length) - length
    place = running - np.repeat(running[first_piece], number) + row * context  # where the piece goes in the flat rows
    piece_in_row = np.arange(len(pieces)) - np.repeat(first_piece, number)

    ids = np.full(len(rows) * context, documents.vocabulary.pad)
    labels = np.full(len(rows) * context, IGNORED)
    beginning = first == 0
    ids[place[beginning]] = documents.vocabulary.bos
    after = np.full(len(pieces), IGNORED)  # the label of the last input of each piece
    for stream in documents.streams:
        _fill_stream(stream, documents.source, ids, after, _Pieces(document, first, length, place))
    labels[:-1] = ids[1:]
    labels[place + length - 1] = after
    for stream in documents.streams:
        _hide_labels(stream, labels, _Pieces(document, first, length, place))

    if int(length.sum()) == len(ids):
        starts, spans, names = place, length, piece_in_row
    else:
        # Padding becomes a piece of its own at the end of each row, named -1; only then are all places covered.
        filled = np.bincount(row, weights=length, minlength=len(rows)).astype(np.int64)
        starts = np.concatenate([place, np.arange(len(rows)) * context + filled])
        spans = np.concatenate([length, context - filled])
        names = np.concatenate([piece_in_row, np.full(len(rows), -1)])
        order = np.argsort(starts, kind="stable")
        starts, spans, names = starts[order], spans[order], names[order]
    positions = np.arange(len(ids)) - np.repeat(starts, spans)
    numbers = np.repeat(names, spans)
    if int(length.sum()) != len(ids):
        labels[numbers < 0] = IGNORED
    shape = (len(rows), context)
    return Rows(ids.reshape(shape), labels.reshape(shape), positions.reshape(shape), numbers.reshape(shape))


class _Pieces(NamedTuple):
    document: Ints
    first: Ints
    length: Ints
    place: Ints


def _fill_stream(stream: _StreamTable, source: Ints, ids: Ints, after: Ints, pieces: _Pieces) -> None:
    """Write one stream's tokens into ``ids``, and into ``after`` the token that follows the last input of each piece."""
    known = stream.ids
    begin = stream.begin[pieces.document] - pieces.first  # place of <begin> counted from the start of the piece
    content = begin + known.header
    count = stream.count[pieces.document]
    _put(ids, pieces, begin, known.begin)
    if known.first_shape is not None:
        _put(ids, pieces, begin + 1, known.first_shape + stream.shape[pieces.document])
    if not stream.in_grid_order:
        _fill_ordered(stream, source, ids, after, pieces, content)
        return
    if known.end is not None:
        _put(ids, pieces, content + count, known.end)
        after[content + count == pieces.length] = known.end

    # The ids themselves: the part of the run [content, content + count) that lies in the piece, and the one label after it.
    low = np.maximum(content, 0)
    size = np.minimum(content + count, pieces.length) - low
    start = stream.start[pieces.document] - content
    next_one = (content <= pieces.length) & (pieces.length < content + count)
    owner = source[pieces.document]
    for number in np.unique(owner).tolist():
        values = stream.values[number]
        mine = np.flatnonzero((owner == number) & (size > 0))
        spans = size[mine]
        ahead = np.cumsum(spans) - spans
        steps = np.arange(int(spans.sum()))
        where = np.repeat(start[mine] + low[mine] - ahead, spans)
        where += steps
        found = _checked(values[where], known)
        offset = (
            known.offsets[0]
            if len(known.offsets) == 1
            else _offsets(known, where - np.repeat(start[mine] + content[mine], spans))
        )
        goal = np.repeat(pieces.place[mine] + low[mine] - ahead, spans)
        goal += steps
        # Out of place: the shards are narrow unsigned integers, the sum must not wrap.
        ids[goal] = np.add(found, offset, dtype=np.int64)
        ending = np.flatnonzero((owner == number) & next_one)
        if len(ending):
            where = start[ending] + pieces.length[ending]
            offset = (
                known.offsets[0]
                if len(known.offsets) == 1
                else _offsets(known, pieces.length[ending] - content[ending])
            )
            after[ending] = np.add(_checked(values[where], known), offset, dtype=np.int64)


def _fill_ordered(stream: _StreamTable, source: Ints, ids: Ints, after: Ints, pieces: _Pieces, content: Ints) -> None:
    """Write the ids and ``<end>`` of a stream whose layout is not the order of the grid; as `_fill_stream`.

    Args:
        stream: the stream.
        source: of the documents.
        ids: flat rows.
        after: the token after each piece.
        pieces: what to fill.
        content: (pieces,), where the ids begin, counted from the start of the piece.
    """
    known = stream.ids
    count = stream.count[pieces.document]
    before_end = stream.before_end()[pieces.document] if known.is_open else count
    low = np.maximum(content, 0)
    # One more than the piece holds: the label of its last input.
    spans = np.minimum(content + count + int(known.is_open), pieces.length + 1) - low
    owner = source[pieces.document]
    offsets = np.array(known.offsets)
    for number in np.unique(owner).tolist():
        mine = np.flatnonzero((owner == number) & (spans > 0))
        sizes = spans[mine]
        piece = np.repeat(mine, sizes)
        where = np.arange(len(piece)) + np.repeat(low[mine] - (np.cumsum(sizes) - sizes), sizes)
        token = where - content[piece]  # counted through the ids and <end>
        end = before_end[piece]
        is_end = (token == end) & known.is_open
        index = np.where(is_end, 0, token - (token > end))
        steps = np.maximum(count[piece] // stream.codebooks, 1)
        place = stream.layout.places(index, steps, stream.codebooks)
        found = _checked(stream.values[number][stream.start[pieces.document[piece]] + place], known)
        tokens = np.add(found, offsets[place % stream.codebooks], dtype=np.int64)
        if known.end is not None:
            tokens[is_end] = known.end
        following = where == pieces.length[piece]
        after[piece[following]] = tokens[following]
        ids[(pieces.place[piece] + where)[~following]] = tokens[~following]


def _hide_labels(stream: _StreamTable, labels: Ints, pieces: _Pieces) -> None:
    """Take the loss from ``<begin>``, from an ``<end>`` where nothing ends, and in a condition from the whole segment."""
    begin = stream.begin[pieces.document] - pieces.first
    if stream.target:
        _hide(labels, pieces, begin)
        if not stream.ended.all():
            end = begin + stream.ids.header + stream.before_end()[pieces.document]
            _hide(labels, pieces, np.where(stream.ended[pieces.document], 0, end))
        return
    size = stream.ids.header + stream.count[pieces.document] + int(stream.ids.is_open)
    low = np.maximum(begin - 1, 0)
    spans = np.maximum(np.minimum(begin - 1 + size, pieces.length) - low, 0)
    ahead = np.cumsum(spans) - spans
    labels[np.repeat(pieces.place + low - ahead, spans) + np.arange(int(spans.sum()))] = IGNORED


def _put(ids: Ints, pieces: _Pieces, where: Ints, token: int | Ints) -> None:
    inside = (where >= 0) & (where < pieces.length)
    ids[(pieces.place + where)[inside]] = token if isinstance(token, int) else token[inside]


def _hide(labels: Ints, pieces: _Pieces, where: Ints) -> None:
    """Take the loss from the token at ``where``, counted from the start of each piece; the first token is no label."""
    inside = (where >= 1) & (where <= pieces.length)
    labels[(pieces.place + where - 1)[inside]] = IGNORED


def _checked(values: NDArray[Any], known: StreamIds) -> NDArray[Any]:
    limit = known.spec.max_vocab_size
    if len(values) and int(values.max()) >= limit:
        raise ValueError(
            f"stream {known.name!r} holds the id {values.max()}, outside its vocabulary of {limit}; the shards are damaged, "
            "check them with 'tokenize-kit verify'"
        )
    return values


def _offsets(known: StreamIds, place: Ints) -> Ints:
    codebooks = known.codebooks(known.shapes[0])
    return np.array(known.offsets)[place % codebooks]


def _fixed_axes(spec: TokenSpec, shapes: Ints) -> Ints:
    return shapes[:, 1:] if is_open(spec) else shapes


def _shape_indices(ids: StreamIds, shapes: Ints) -> Ints:
    """Return the index in ``ids.shapes`` of each row of ``shapes`` (rows, axes)."""
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
