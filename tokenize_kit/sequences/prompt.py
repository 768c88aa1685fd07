"""How a document begins: the prompt laid out, the grammar of what may follow, and the grammar's state after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.sequences.grammar import Grammar, GrammarState, longer_shapes
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary

Grids = Mapping[str, NDArray[Any]]
"""A grid for each stream that is given."""


@dataclass(frozen=True)
class Beginning:
    """The start of a document."""

    ids: tuple[int, ...]
    """``<bos>`` and what the prompt gives."""
    grammar: Grammar
    """What the document must be."""
    state: GrammarState
    """The grammar's state after `ids`."""


def continues(template: SequenceTemplate, vocabulary: Vocabulary, grids: Grids) -> bool:
    """Whether the last stream of a prompt is predicted and not whole, so that generation goes on where it ends.

    An open one never is; a grid whose shape is known beforehand is whole if it has one of the shapes, and goes on if one of them
    is longer along the first axis and the same along the others: a video after its first frames.
    """
    given = [name for name in template.names if name in grids]
    if not given or given[-1] not in template.given(grids):
        return False
    last = given[-1]
    stream = vocabulary.stream(template.stream_of(last))
    if last not in template.target or stream.is_open:
        return last in template.target
    shape = np.asarray(grids[last]).shape
    return shape not in stream.shapes and bool(longer_shapes(stream, shape))


def begin(
    template: SequenceTemplate, vocabulary: Vocabulary, grids: Grids, max_length: int, seed: int = 0
) -> Beginning:
    """Lay a prompt out as the beginning of a document.

    In a layout or an order in which ids of a prompt come later than others, the grammar keeps them for their places.

    Args:
        template: what a document is.
        vocabulary: the id space.
        grids: grids of the template's first streams; may be empty. Parts may be missing as `SequenceTemplate.prompt_ids` says.
        max_length: the most tokens that the document may have.
        seed: for orders that are drawn.

    Raises:
        ValueError: the prompt does not fit the template or the vocabulary, or leaves no room for the rest of a document.
    """
    unfinished = continues(template, vocabulary, grids)
    ids = template.prompt_ids(grids, vocabulary, unfinished=unfinished, seed=seed).tolist()
    begun = {}
    if unfinished:
        name = [name for name in template.names if name in grids][-1]
        last = template.segments(vocabulary)[template.names.index(name)]
        if not (last.stream.is_open and last.arrangement.in_grid_order):
            begun[last.name] = grids[last.name]
    grammar = template.grammar(vocabulary, max_length, begun or None, seed)
    state = grammar.start()
    for token in ids:
        try:
            state = grammar.advance(state, token)
        except ValueError:
            raise ValueError(
                f"the prompt of {len(ids)} tokens leaves no room to finish a sequence of at most {max_length}; shorten it, or "
                "use a model with a longer context"
            ) from None
    return Beginning(tuple(ids), grammar, state)
