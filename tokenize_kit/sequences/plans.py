"""Which documents, or parts of them, go into which row of a fixed length; what the rows hold is `packing`'s affair.

A document takes some places of a row: as many as an objective needs for its tokens. There are two plans.

`plan_stream`, for templates of one open stream (text): all places in one long line, cut every ``context``. Every place is used
exactly once an epoch, nothing is padded but the end of the last row, and a long document runs on in further rows as pieces
of their own (next token, context 8; documents A of 7 tokens, B of 12, C of 5; the input tokens are shown, E is never an input):

    line        B a a a a E|B b b b b b b b b b b E|B c c c E          (B = <bos>, E = <eos>)
    row 0       B a a a a a B b        documents 0 0 0 0 0 0 1 1       positions 0 1 2 3 4 5 0 1
    row 1       b b b b b b b b        documents 0 0 0 0 0 0 0 0       positions 0 1 2 3 4 5 6 7
    row 2       b B c c c . . .        documents 0 1 1 1 1 - - -       positions 0 0 1 2 3 . . .

`plan_whole`, for everything else: whole documents only, so that a picture is always seen with its caption, packed best-fit
decreasing (context 8; documents of 6, 5, 3 and 2 places):

    row 0       A A A A A A D D        documents 0 0 0 0 0 0 1 1
    row 1       B B B B B C C C        documents 0 0 0 0 0 1 1 1
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Plan(NamedTuple):
    """Which pieces of which documents each row holds, in order; row r has the pieces ``offsets[r] : offsets[r + 1]``."""

    offsets: Ints
    """(rows + 1,)."""
    document: Ints
    """(pieces,)."""
    first: Ints
    """(pieces,): the first place of the document that the piece holds."""
    length: Ints
    """(pieces,): how many places."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1


def plan_stream(places: Ints, context: int, order: Ints | None = None) -> Plan:
    """Put all documents in one line, in ``order``, and cut it every ``context`` places.

    Args:
        places: (documents,), places of each document, at least 1.
        context: places of a row.
        order: documents in the order of the line; as they are if None. May leave documents out.
    """
    order = np.arange(len(places)) if order is None else order
    ends = np.cumsum(places[order])
    starts = ends - places[order]
    total = int(ends[-1]) if len(ends) else 0
    # A piece begins where a document begins and where a row begins.
    cuts = np.concatenate([starts, np.arange(0, total, context)])
    cuts.sort(kind="stable")
    cuts = cuts[np.diff(cuts, prepend=-1) > 0]
    lengths = np.diff(cuts, append=total)
    owner = np.searchsorted(starts, cuts, side="right") - 1
    offsets = np.searchsorted(cuts, np.arange(0, total + context, context)[: -(-total // context) + 1])
    return Plan(offsets, order[owner], cuts - starts[owner], lengths)


def plan_whole(places: Ints, context: int, documents: Ints | None = None, ahead: int = 1) -> Plan:
    """Pack whole documents into rows: longest first, each into the fullest row that still has room (best-fit decreasing).

    Documents of one length are placed together, so the time goes with the number of different lengths.

    Args:
        places: (documents,), places of each document.
        context: places of a row.
        documents: the documents to pack; all if None.
        ahead: how many tokens more than its places a document has.

    Raises:
        ValueError: a document has more than ``context`` tokens.
    """
    documents = np.arange(len(places)) if documents is None else documents
    lengths = places[documents]
    if len(lengths) and lengths.max() + ahead > context:
        # All its tokens must fit, so that generation, which ends with <eos>, fits wherever training did.
        tokens = int(lengths.max()) + ahead
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
