"""Characters that engines may disagree on, because their tables are of different versions of Unicode.

A character that the reference's version does not have yet is neither a letter nor a number to it, but may be one to an engine
with newer tables (gigatoken 0.10 has Unicode 17, ``tokenizers`` 0.23 has 16: 4,657 characters differ). Texts with any such
character are left to the reference.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Planes 4 to 13 have no character in any version so far, and planes 15 and 16 are for private use in all of them.
_PLANES = ((0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xE1000))
_EMPTY = ((0x40000, 0xE0000), (0xE1000, 0xF0000))
_CODES = 0x110000


def has_unassigned(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each text whether it has a character that the reference does not know.

    Only the first byte of each character beyond ASCII is looked up, and of few of those the others too.

    Args:
        data: UTF-8.
        offsets: where in it each text begins, and the last one ends.
    """
    import numpy as np

    found = np.zeros(len(offsets) - 1, dtype=bool)
    (places,) = np.nonzero(data >= 0xC2)
    if not len(places):
        return found
    unassigned, doubtful = _tables()
    # The first two bytes say which 64 characters it may be (of two bytes: which one), and most of these are all assigned.
    pairs = data[places].astype(np.uint16) << 8
    pairs |= data[places + 1]
    places = places[doubtful[pairs]]
    if len(places):
        places = places[unassigned[_code_points(data, places)]]
        found[np.searchsorted(offsets, places, "right") - 1] = True
    return found


def _code_points(data: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the characters, of two to four bytes each, that begin at these places."""
    import numpy as np

    first = data[places].astype(np.int32)
    length = 2 + (first >= 0xE0) + (first >= 0xF0)
    codes = first & (0x7F >> length)
    for number in range(1, 4):
        more = length > number
        codes[more] = codes[more] << 6 | data[places[more] + number] & 0x3F
    return codes


@cache
def _tables() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which characters are unassigned, as the reference's own tables have them, and which first two bytes such have."""
    import numpy as np
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    points = np.concatenate([np.arange(start, stop, dtype="<u4") for start, stop in _PLANES])
    text = points.tobytes().decode("utf-32-le")
    unassigned = np.ones(len(points), dtype=bool)
    for _, (start, stop) in Split(Regex(r"\p{Cn}+"), "removed").pre_tokenize_str(text):
        unassigned[start:stop] = False
    table = np.zeros(_CODES, dtype=bool)
    table[points] = unassigned
    for start, stop in _EMPTY:
        table[start:stop] = True
    doubtful = np.zeros(1 << 16, dtype=bool)
    codes = np.flatnonzero(table)
    for low, high, shift, mark in ((0x80, 0x800, 0, 0xC0), (0x800, 0x10000, 6, 0xE0), (0x10000, _CODES, 12, 0xF0)):
        some = codes[(codes >= low) & (codes < high)] >> shift
        doubtful[(mark | some >> 6) << 8 | 0x80 | some & 0x3F] = True
    return table, doubtful
