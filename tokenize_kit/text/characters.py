"""Characters that engines may disagree on, because their tables are of different versions of Unicode.

A character that the reference's version does not have yet is neither a letter nor a number to it, but may be one to an engine
with newer tables (gigatoken 0.10 has Unicode 17, ``tokenizers`` 0.23 has 16: 4,657 characters differ). Texts with any such
character are left to the reference.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Planes 4 to 13 have no character in any version so far, and planes 15 and 16 are for private use in all of them.
_PLANES = ((0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xE1000))
_EMPTY = ((0x40000, 0xDFFFF), (0xE1000, 0xEFFFF))


def has_unassigned(texts: Any) -> NDArray[np.bool_]:
    """Return for each text of an Arrow string array whether it has a character that the reference does not know."""
    import pyarrow.compute as pc

    found: NDArray[np.bool_] = pc.match_substring_regex(texts, _unassigned()).to_numpy(zero_copy_only=False)
    return found


@cache
def _unassigned() -> str:
    """Return the unassigned characters, as the reference's own tables have them, as a class for RE2."""
    import numpy as np
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    points = np.concatenate([np.arange(start, stop, dtype="<u4") for start, stop in _PLANES])
    text = points.tobytes().decode("utf-32-le")
    assigned = np.zeros(len(points) + 2, dtype=bool)
    # A border at either end, so that every range of unassigned characters begins and ends with a change.
    assigned[[0, -1]] = True
    for _, (start, stop) in Split(Regex(r"\p{Cn}+"), "removed").pre_tokenize_str(text):
        assigned[start + 1 : stop + 1] = True
    changes = np.flatnonzero(assigned[1:] != assigned[:-1])
    ranges = [
        (int(points[start]), int(points[stop - 1])) for start, stop in zip(changes[::2], changes[1::2], strict=True)
    ]
    return "[" + "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in (*ranges, *_EMPTY)) + "]"
