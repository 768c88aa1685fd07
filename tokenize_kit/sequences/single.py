"""The grids of a single sample as `documents.Documents`, for what is not in a shard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.sequences.documents import Documents, FlatStream
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary

Ints = NDArray[np.int64]


class _Grids(NamedTuple):
    """The grids of a stream as a shard would hold them."""

    values: NDArray[Any]
    offsets: Ints
    shapes: Ints


def documents_of(
    template: SequenceTemplate, vocabulary: Vocabulary, grids: Mapping[str, NDArray[np.integer[Any]]]
) -> Documents:
    """Return the grids of one sample as the only document of a template.

    Args:
        template: what it is made of.
        vocabulary: the id space.
        grids: by the names of the template's parts; those that a sample may lack may be missing.

    Raises:
        ValueError: as `SequenceTemplate.document`.
    """
    template.document(grids, vocabulary)  # what is missing or of another shape is said there
    arrays: dict[str, list[NDArray[Any]]] = {}
    dropped = []
    for segment in template.segments(vocabulary):
        grid = grids.get(segment.name)
        if segment.condition:
            dropped.append(grid is None and not segment.optional)
        if grid is None:
            # Of the first known shape, and then dropped; of an optional part a grid of nothing.
            known = segment.stream.shapes[0]
            whole = (segment.min_steps, *known) if segment.stream.is_open else known
            grid = np.zeros([0] * len(whole) if segment.optional else whole, np.int64)
        arrays.setdefault(segment.stream.name, []).append(grid)
    flat: dict[str, list[FlatStream]] = {
        name: [
            _Grids(
                np.concatenate([grid.reshape(-1) for grid in found]),
                np.cumsum([0, *(grid.size for grid in found)]),
                np.array([grid.shape for grid in found], np.int64),
            )
        ]
        for name, found in arrays.items()
    }
    documents = Documents(template, vocabulary, flat)
    return documents.without(np.array([dropped])) if any(dropped) else documents
