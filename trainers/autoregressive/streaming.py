"""A sample while it is drawn: the time steps of a text, sound or film as soon as all of their ids are there.

In a layout of codebooks the ids of a step come at different times (`sequences.layouts`), so a step is ready when its last id is.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenize_kit.protocol import PieceTokenizer, Tokenizer, modality_of
from tokenize_kit.sequences.grammar import Grammar
from tokenize_kit.sequences.layouts import ENDLESS
from tokenize_kit.sequences.prompt import Beginning
from tokenize_kit.sequences.segment import Segment
from tokenize_kit.sequences.vocabulary import StreamIds
from trainers.autoregressive.generation import drawing
from trainers.autoregressive.model_folder import LoadedModel
from trainers.autoregressive.sampling_options import SamplingOptions

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What stands at the end of a text for the first bytes of a character whose others are still to come."""


def check_comes_in_pieces(loaded: LoadedModel, instead: str) -> str:
    """Return the name of the part that the template predicts, which comes in pieces.

    Args:
        loaded: a model.
        instead: what to do about a template of which nothing does.

    Raises:
        ValueError: it predicts several parts, or one whose samples have no steps in time, such as pictures.
    """
    target = loaded.template.target
    stream = loaded.template.segments(loaded.vocabulary)[-1].stream
    in_time = stream.is_open or (len(stream.spec.axes) > 1 and stream.spec.axes[0] == "time")
    if len(target) != 1 or not in_time:
        raise ValueError(
            f"the template {str(loaded.template)!r} predicts {', '.join(target)}: only a single text, sound or film comes in "
            f"pieces; {instead}"
        )
    return target[0]


def steps_of(
    loaded: LoadedModel, beginning: Beginning, options: SamplingOptions, limit: int, **more: Any
) -> Generator[Tensor, None, list[int]]:
    """Draw one document: yield (n, ..) ids of steps of its last part as they become whole, and return all ids.

    Args:
        loaded: a model whose template `check_comes_in_pieces` let through.
        beginning: of the document; the steps that are in it come first.
        options: how tokens are drawn.
        limit: the most tokens.
        more: of `generation.drawing`.

    Raises:
        ValueError: as `generation.drawing`.
    """
    arriving = Arriving(loaded.template.segments(loaded.vocabulary), beginning.grammar)
    tokens = drawing(loaded.model, [beginning.grammar], [beginning.ids], options, max_length=limit, **more)
    ids = list(beginning.ids)
    if (ready := arriving.add(ids)) is not None:
        yield ready
    for added in tokens:
        new = [token for _, token in added]
        ids += new
        if (ready := arriving.add(new)) is not None:
            yield ready
    return ids


class Arriving:
    """Collects the ids of the last segment of a document, which has a time axis, and tells which of its steps are whole.

    Args:
        segments: of the template.
        grammar: of the document.
    """

    def __init__(self, segments: list[Segment], grammar: Grammar) -> None:
        self._last, self._segment = len(segments) - 1, segments[-1]
        self._grammar, self._state = grammar, grammar.start()
        self._seed = grammar.seed
        self._shape, self._steps, self._count = 0, ENDLESS, 0
        self._ids: dict[int, int] = {}
        self._ready = 0
        """Ids of the steps that were given out."""

    def add(self, tokens: Iterable[int]) -> Tensor | None:
        """Take the next tokens of the document; return the steps that became whole, (n, ..), or None if there are none."""
        for token in tokens:
            before, self._state = self._state, self._grammar.advance(self._state, int(token))
            if before.segment == self._last:
                self._take(int(token))
        shape = _step_shape(self._segment.stream, self._shape)
        step = prod(shape)
        stop = self._ready
        while all(flat in self._ids for flat in range(stop, stop + step)):
            stop += step
        if stop == self._ready:
            return None
        flat = np.array([self._ids.pop(place) for place in range(self._ready, stop)], np.int64)
        places = np.arange(self._ready, stop)
        self._ready = stop
        own = flat - self._segment.offset(places, np.full(len(places), self._shape))
        return torch.from_numpy(own.reshape(-1, *shape))

    def _take(self, token: int) -> None:
        """Put an id in its place, if the token is one."""
        stream, arrangement = self._segment.stream, self._segment.arrangement
        depth = stream.depth(stream.shapes[self._shape])
        if stream.first_shape is not None and 0 <= token - stream.first_shape < len(stream.shapes):
            self._shape = token - stream.first_shape
        elif token == stream.end:
            # It stands where the first id of the next step would be.
            _, place, _ = arrangement.place(self._count, self._shape, ENDLESS, self._seed)
            self._steps = place // stream.places(stream.shapes[self._shape])
        elif stream.range_of(0)[0] <= token < stream.range_of(len(stream.offsets) - 1)[1]:
            _, place, codebook = arrangement.place(self._count, self._shape, self._steps, self._seed)
            self._ids[place * depth + codebook] = token
            self._count += 1


def _step_shape(stream: StreamIds, shape: int) -> tuple[int, ...]:
    """Return the shape of one time step of grids of shape number ``shape``, which of a closed stream has the time axis too."""
    return stream.shapes[shape] if stream.is_open else stream.shapes[shape][1:]


def decoded(tokenizer: Tokenizer, pieces: Iterable[Tensor]) -> Iterator[str | Tensor]:
    """Decode the steps of one sample as they come; joined, what is yielded is what all of them together give.

    A tokenizer that takes samples in pieces decodes them so. Of others all steps so far are decoded anew, and what is new is
    yielded: a text up to its last whole character.

    Args:
        tokenizer: of the sample.
        pieces: (n, ..) ids of the next steps each.
    """
    if isinstance(tokenizer, PieceTokenizer):
        yield from tokenizer.decode_pieces(pieces)
        return
    axis = modality_of(tokenizer.spec).piece_axis
    grid: Tensor | None = None
    told: str | Tensor | None = None
    for piece in pieces:
        grid = piece if grid is None else torch.cat((grid, piece))
        found = tokenizer.decode(grid)
        whole = found.rstrip(UNFINISHED) if isinstance(found, str) else found
        if (more := _beyond(told, whole, axis)) is not None:
            told = whole
            yield more
    if grid is not None and (more := _beyond(told, tokenizer.decode(grid), axis)) is not None:
        yield more


def _beyond(told: str | Tensor | None, found: str | Tensor, axis: int) -> str | Tensor | None:
    """Return what is new of a text, or of a tensor along an axis; None if nothing is, or what was told has changed."""
    if isinstance(found, str):
        known = told if isinstance(told, str) else ""
        return found[len(known) :] or None if found.startswith(known) else None
    there, length = told.shape[axis] if isinstance(told, Tensor) else 0, found.shape[axis]
    return found.narrow(axis, there, length - there) if length > there else None
