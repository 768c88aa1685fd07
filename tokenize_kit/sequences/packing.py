"""Rows of one length out of documents: what a plan put into a row, as arrays, all rows at once with numpy.

`fill_rows` gives the tokens of rows and their labels: the next tokens, or the tokens themselves, as the objective wants. It reads
what a segment says (`sequences.segment`) and copies runs of ids where they stand in the shard as they do in the sequence.
`fill_places` gives what else is known of each token, role and coordinates, and is called only for a model that asks.

Padding has document -1 and, like the condition and the tokens that the grammar forces, the label -100.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.sequences.document import Role, role_of, role_of_bos
from tokenize_kit.sequences.documents import Documents, SegmentTable
from tokenize_kit.sequences.plans import Plan
from tokenize_kit.sequences.segment import CELL, COORDINATE_AXES, NOWHERE
from tokenize_kit.sequences.vocabulary import StreamIds

IGNORED = -100
"""The label that carries no loss, as in ``torch.nn.functional.cross_entropy``."""

Ints = NDArray[np.int64]


class Rows(NamedTuple):
    """Packed rows, all int64 of shape (rows, context)."""

    ids: Ints
    """Input tokens."""
    labels: Ints
    """For each input token the one that it is to predict, -100 where there is no loss."""
    positions: Ints
    """Place of each token in its piece."""
    documents: Ints
    """Number of the piece in its row, -1 for padding."""


class Places(NamedTuple):
    """What tokens of packed rows are, int64 unless it says otherwise, with the axes (rows, context) first."""

    roles: Ints
    """A `Role` each; `Role.STRUCTURE` for padding."""
    segments: Ints
    """Which part of the template, -1 for ``<bos>``, ``<eos>`` and padding."""
    coordinates: Ints
    """(rows, context, 3), see `document.Document.coordinates`; -1 for padding."""
    drawn: NDArray[np.bool_]
    """(rows, context), whether a token is an id whose order is drawn, bool."""
    axial: Ints
    """(rows, context, 3): positions along time, height and width, for rotary embeddings of several axes. A token of a grid with
    several axes of places has the place in the document where the ids of its grid begin plus its coordinates, any other token
    its own place along all of them (as in M-RoPE, Qwen2-VL, arXiv 2409.12191, without closing the gaps)."""
    opens: NDArray[np.bool_]
    """(rows, context), whether a token begins a joint step (`layouts`), bool. Every special token and every id of a stream
    without codebooks is one by itself; padding begins none."""
    slots: Ints
    """(rows, context): of an id of a stream with codebooks which of them; 0 for any other token."""
    cells: Ints
    """(rows, context, 8): the `segment.CELL` of an id of a grid of height and width; -1 for any other token."""


class _Pieces(NamedTuple):
    """What the chosen rows hold, piece by piece."""

    document: Ints
    first: Ints
    length: Ints
    place: Ints
    """Where the piece goes in the flat rows."""
    number: Ints
    """Which piece of its row it is."""


def fill_rows(
    documents: Documents, plan: Plan, rows: Ints, context: int, ahead: int = 1, seeds: Ints | None = None
) -> Rows:
    """Return the packed rows ``rows`` of a plan.

    Args:
        documents: what the plan is about.
        plan: from `plans`, made for ``documents.tokens - ahead`` places a document.
        rows: (n,), row numbers in any order.
        context: the row length that the plan was made for.
        ahead: how many tokens further on the label of an input token stands: 1 for the next token, 0 for the token itself.
        seeds: (documents,), for orders that are drawn; 0 for all if None.

    Raises:
        ValueError: a shard holds an id outside its vocabulary.
    """
    pieces, filled = _pieces_of(plan, rows, context)
    document, first, length, place, number = pieces
    ids = np.full(len(rows) * context, documents.vocabulary.pad)
    beginning = first == 0
    ids[place[beginning]] = documents.vocabulary.bos
    after = np.full(len(pieces.document), IGNORED)  # the label of the last input of each piece
    for table in documents.segments:
        _fill_segment(table, ids, after, pieces, seeds)
    if ahead:
        labels = np.full(len(ids), IGNORED)
        labels[:-1] = ids[1:]
        labels[place + length - 1] = after
    else:
        last = documents.tokens[document] - 1 - first
        _put(ids, pieces, last, documents.vocabulary.eos)
        labels = ids.copy()
        _hide(labels, pieces, -first, ahead)
        _hide(labels, pieces, last, ahead)
    for table in documents.segments:
        _hide_labels(table, labels, pieces, ahead)

    full = int(length.sum()) == len(ids)
    if full:
        starts, spans, names = place, length, number
    else:
        # Padding becomes a piece of its own at the end of each row, named -1; only then are all places covered.
        starts = np.concatenate([place, np.arange(len(rows)) * context + filled])
        spans = np.concatenate([length, context - filled])
        names = np.concatenate([number, np.full(len(rows), -1)])
        order = np.argsort(starts, kind="stable")
        starts, spans, names = starts[order], spans[order], names[order]
    positions = np.arange(len(ids)) - np.repeat(starts, spans)
    numbers = np.repeat(names, spans)
    if not full:
        labels[numbers < 0] = IGNORED
    shape = (len(rows), context)
    return Rows(ids.reshape(shape), labels.reshape(shape), positions.reshape(shape), numbers.reshape(shape))


def fill_places(
    documents: Documents, plan: Plan, rows: Ints, context: int, ahead: int = 0, seeds: Ints | None = None
) -> Places:
    """Return what the tokens of packed rows are.

    Args:
        documents: see `fill_rows`.
        plan: the same.
        rows: the same.
        context: the same.
        ahead: 0 for the input tokens, 1 for those that follow them.
        seeds: see `fill_rows`.
    """
    pieces, _ = _pieces_of(plan, rows, context)
    size = len(rows) * context
    roles = np.full(size, int(Role.STRUCTURE))
    segments = np.full(size, -1)
    coordinates = np.full((size, len(COORDINATE_AXES)), NOWHERE)
    axial = np.zeros((size, len(COORDINATE_AXES)), np.int64)
    drawn, opens, slots = np.zeros(size, bool), np.zeros(size, bool), np.zeros(size, np.int64)
    cells = np.full((size, len(CELL)), NOWHERE)
    which, inside = _spread(pieces.length)
    goal = pieces.place[which] + inside
    axial[goal] = inside[:, None] + ahead
    opens[goal] = True
    at = inside + pieces.first[which] + ahead  # place in the document
    document = pieces.document[which]
    roles[goal[at == 0]] = int(role_of_bos([table.segment for table in documents.segments]))
    for number, table in enumerate(documents.segments):
        within = at - table.begin[document]
        mine = np.flatnonzero((within >= 0) & (within < table.segment.size(table.count[document])))
        owner, within, to = document[mine], within[mine], goal[mine]
        count, shape = table.count[owner], table.shape[owner]
        special, flat = table.segment.read(within, count, shape, _seeds(seeds, owner))
        role = role_of(table.segment, special)
        role[~table.ended[owner] & (special == table.ids.end)] = int(Role.STRUCTURE)
        roles[to], segments[to] = role, number
        own = special < 0
        found = table.segment.coordinates(flat[own], shape[own])
        coordinates[to[own]] = found
        drawn[to[own]] = table.segment.arrangement.drawn
        opens[to[own]], slots[to[own]] = table.segment.joint(within[own], count[own], shape[own])
        if table.segment.is_plane:
            cells[to[own]] = table.segment.cells(number, flat[own], shape[own])
        if len(table.ids.place_axes) > 1:
            start = (table.begin[owner] + table.segment.header - pieces.first[which[mine]])[own]
            axial[to[own]] = start[:, None] + np.maximum(found, 0)
    plane, solid = (len(rows), context), (len(rows), context, len(COORDINATE_AXES))
    return Places(
        roles.reshape(plane),
        segments.reshape(plane),
        coordinates.reshape(solid),
        drawn.reshape(plane),
        axial.reshape(solid),
        opens.reshape(plane),
        slots.reshape(plane),
        cells.reshape(*plane, len(CELL)),
    )


def _pieces_of(plan: Plan, rows: Ints, context: int) -> tuple[_Pieces, Ints]:
    """Return the pieces of the chosen rows, and how many places of each row are filled."""
    first = plan.offsets[rows]
    number = plan.offsets[rows + 1] - first
    row, in_row = _spread(number)
    pieces = first[row] + in_row
    length = plan.length[pieces]
    running = np.cumsum(length) - length
    first_piece = np.cumsum(number) - number
    place = running + np.repeat(np.arange(len(rows)) * context - running[first_piece], number)
    filled = np.diff(np.append(running[first_piece], length.sum()))
    return _Pieces(plan.document[pieces], plan.first[pieces], length, place, in_row), filled


def _spread(sizes: Ints) -> tuple[Ints, Ints]:
    """Return for all elements of groups of these sizes which group each is of, and which of its group it is."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    return group, np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _seeds(seeds: Ints | None, document: Ints) -> Ints:
    return np.zeros(len(document), np.int64) if seeds is None else seeds[document]


def _fill_segment(table: SegmentTable, ids: Ints, after: Ints, pieces: _Pieces, seeds: Ints | None) -> None:
    """Write one segment's tokens into ``ids``, and into ``after`` the token that follows the last input of each piece."""
    known = table.ids
    if table.segment.null is not None and not (there := table.count[pieces.document] >= 0).all():
        _put(ids, pieces, np.where(there, NOWHERE, table.begin[pieces.document] - pieces.first), table.segment.null)
        # A document that may lack a part is never cut, so no label follows its last input.
        _fill_segment(table, ids, after[there], _Pieces(*(part[there] for part in pieces)), seeds)
        return
    begin = table.begin[pieces.document] - pieces.first  # place of <begin> counted from the start of the piece
    content = begin + table.segment.header
    count = table.count[pieces.document]
    _put(ids, pieces, begin, known.begin)
    if known.first_shape is not None:
        _put(ids, pieces, begin + 1, known.first_shape + table.shape[pieces.document])
    if not table.segment.arrangement.in_grid_order:
        _fill_ordered(table, ids, after, pieces, begin, seeds)
        return
    if known.end is not None:
        _put(ids, pieces, content + count, known.end)
        after[content + count == pieces.length] = known.end

    # The ids themselves: the part of the run [content, content + count) that lies in the piece, and the one label after it.
    low = np.maximum(content, 0)
    size = np.minimum(content + count, pieces.length) - low
    start = table.start[pieces.document] - content
    next_one = (content <= pieces.length) & (pieces.length < content + count)
    owner = table.source[pieces.document]
    one_offset = len(known.offsets) == 1
    for number in np.unique(owner).tolist():
        values = table.values[number]
        mine = np.flatnonzero((owner == number) & (size > 0))
        spans = size[mine]
        ahead = np.cumsum(spans) - spans
        steps = np.arange(int(spans.sum()))
        where = np.repeat(start[mine] + low[mine] - ahead, spans)
        where += steps
        found = _checked(values[where], known)
        offset: Any = known.offsets[0]
        if not one_offset:
            flat = where - np.repeat(start[mine] + content[mine], spans)
            offset = table.segment.offset(flat, np.repeat(table.shape[pieces.document[mine]], spans))
        goal = np.repeat(pieces.place[mine] + low[mine] - ahead, spans)
        goal += steps
        # Out of place: the shards are narrow unsigned integers, the sum must not wrap.
        ids[goal] = np.add(found, offset, dtype=np.int64)
        ending = np.flatnonzero((owner == number) & next_one)
        if len(ending):
            flat = pieces.length[ending] - content[ending]
            found = _checked(values[start[ending] + pieces.length[ending]], known)
            shape = table.shape[pieces.document[ending]]
            after[ending] = np.add(found, table.segment.offset(flat, shape), dtype=np.int64)


def _fill_ordered(
    table: SegmentTable, ids: Ints, after: Ints, pieces: _Pieces, begin: Ints, seeds: Ints | None
) -> None:
    """Write what follows the header of a segment whose ids are not in the order of the grid; as `_fill_segment`.

    Args:
        table: the segment.
        ids: flat rows.
        after: the token after each piece.
        pieces: what to fill.
        begin: (pieces,), where ``<begin>`` stands, counted from the start of the piece.
        seeds: see `fill_rows`.
    """
    segment, count = table.segment, table.count[pieces.document]
    shape_of = table.shape[pieces.document]
    before_end = segment.arrangement.before_end(count, shape_of) if table.ids.is_open else count
    content = begin + segment.header
    low = np.maximum(content, 0)
    # One more than the piece holds: the label of its last input.
    spans = np.maximum(np.minimum(begin + segment.size(count), pieces.length + 1) - low, 0)
    owner, start = table.source[pieces.document], table.start[pieces.document]
    for number in np.unique(owner).tolist():
        mine = np.flatnonzero((owner == number) & (spans > 0))
        sizes = spans[mine]
        piece = np.repeat(mine, sizes)
        where = np.arange(len(piece)) + np.repeat(low[mine] - (np.cumsum(sizes) - sizes), sizes)
        shape = shape_of[piece] if len(table.ids.shapes) > 1 else shape_of
        seed = _seeds(seeds, pieces.document[piece]) if segment.arrangement.drawn else shape_of
        ends, flat = segment.content(where - content[piece], count[piece], before_end[piece], shape, seed)
        found = _checked(table.values[number][start[piece] + flat], table.ids)
        tokens = np.add(found, segment.offset(flat, shape), dtype=np.int64)
        if table.ids.end is not None:
            tokens[ends] = table.ids.end
        following = where == pieces.length[piece]
        after[piece[following]] = tokens[following]
        ids[(pieces.place[piece] + where)[~following]] = tokens[~following]


def _hide_labels(table: SegmentTable, labels: Ints, pieces: _Pieces, ahead: int) -> None:
    """Take the loss from ``<begin>`` where it is no choice, from an ``<end>`` where nothing ends, and from a whole condition."""
    begin = table.begin[pieces.document] - pieces.first
    count = table.count[pieces.document]
    if not table.segment.condition:
        if not table.segment.optional:
            _hide(labels, pieces, begin, ahead)
        if not table.ended.all():
            end = begin + table.segment.end(count, table.shape[pieces.document])
            _hide(labels, pieces, np.where(table.ended[pieces.document], NOWHERE, end), ahead)
        return
    low = np.maximum(begin - ahead, 0)
    spans = np.maximum(np.minimum(begin - ahead + table.segment.size(count), pieces.length) - low, 0)
    which, inside = _spread(spans)
    labels[(pieces.place + low)[which] + inside] = IGNORED


def _put(ids: Ints, pieces: _Pieces, where: Ints, token: int | Ints) -> None:
    inside = (where >= 0) & (where < pieces.length)
    ids[(pieces.place + where)[inside]] = token if isinstance(token, int) else token[inside]


def _hide(labels: Ints, pieces: _Pieces, where: Ints, ahead: int) -> None:
    """Take the loss from the tokens at ``where``, counted from the start of each piece; not all tokens are labels."""
    inside = (where >= ahead) & (where < pieces.length + ahead)
    labels[(pieces.place + where - ahead)[inside]] = IGNORED


def _checked(values: NDArray[Any], known: StreamIds) -> NDArray[Any]:
    limit = known.spec.max_vocab_size
    if len(values) and int(values.max()) >= limit:
        raise ValueError(
            f"stream {known.name!r} holds the id {values.max()}, outside its vocabulary of {limit}; the shards are damaged, "
            "check them with 'tokenize-kit verify'"
        )
    return values
