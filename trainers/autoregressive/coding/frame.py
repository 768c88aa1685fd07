"""What stands at each place of a document before its ids are known: the document of a grid of zeros.

The size of a grid is in the header of a file, so all special tokens are known, and so is of which codebook each id is and where
it is in its grid. An id may be any of its codebook, and nothing else: ``<end>`` cannot come where it is known not to. What is
known costs no bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.sequences.document import Role
from tokenize_kit.sequences.segment import CELL, NOWHERE
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive.models.inputs import Inputs

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Frame:
    """The L tokens of a document up to its last id, without the ids."""

    special: Ints
    """(L,): the token, or -1 where an id of the grid stands."""
    flat: Ints
    """(L,): which of the ids of the flat grid it is; 0 where none is."""
    low: Ints
    """(L,): the first id of its codebook in the vocabulary; 0 for a special token."""
    size: Ints
    """(L,): how many ids that codebook has; 0 for a special token."""
    step: Ints
    """(L,): its index along the first axis of the grid; -1 for a special token."""
    known: dict[str, Tensor]
    """(1, L, ...): those parts of `Inputs` beside the ids that the model needs."""

    @classmethod
    def of(
        cls,
        template: SequenceTemplate,
        part: str,
        vocabulary: Vocabulary,
        shape: Sequence[int],
        needs: Collection[str] = (),
    ) -> Frame:
        """Lay out the document of one grid.

        Args:
            template: all other parts of it are missing.
            part: the name of the part that the grid is.
            vocabulary: the id space.
            shape: of the grid, with ids.
            needs: see `SequenceModel.needs`.

        Raises:
            ValueError: the vocabulary does not know the shape.
        """
        document = template.document({part: np.zeros(shape, np.int64)}, vocabulary)
        number = template.names.index(part)
        segment = template.segments(vocabulary)[number]
        at = np.flatnonzero(document.segments == number)
        place = np.arange(len(at))
        count = np.full(len(at), int(np.prod(shape)))
        which = segment.stream.shape_index(shape[1:] if segment.stream.is_open else shape)
        shapes = np.full(len(at), which)
        token, flat = segment.read(place, count, shapes, np.zeros_like(at))
        own = token < 0
        ids = at[own]
        length = len(document)
        special, flats = document.ids.copy(), np.zeros(length, np.int64)
        low, size, step = np.zeros(length, np.int64), np.zeros(length, np.int64), np.full(length, -1)
        special[ids], flats[ids] = -1, flat[own]
        step[ids] = flat[own] // (count[0] // shape[0])
        for codebook in np.unique(document.codebooks[ids]).tolist():
            first, stop = segment.stream.range_of(codebook)
            mine = ids[document.codebooks[ids] == codebook]
            low[mine], size[mine] = first, stop - first
        axial = np.repeat(np.arange(length)[:, None], 3, 1)
        if len(segment.stream.place_axes) > 1:
            axial[ids] = at[0] + segment.header + np.maximum(document.coordinates[ids], 0)
        following = np.full((length, 3), NOWHERE)
        if segment.arrangement.drawn:
            following[ids - 1] = document.coordinates[ids]
        # The token after each one: whether it begins a joint step, and its slot.
        steps = np.stack([np.ones(length, np.int64), np.zeros(length, np.int64)], 1)
        opens, slots = segment.joint(place[own], count[own], shapes[own])
        steps[ids - 1, 0], steps[ids - 1, 1] = opens, slots
        cells = np.full((length, len(CELL)), NOWHERE)
        if segment.is_plane:
            cells[ids - 1] = segment.cells(number, flat[own], shapes[own])
        parts = {
            "given": document.roles == Role.CONDITION,
            "axial": axial,
            "following": following,
            "steps": steps,
            "cells": cells,
        }
        stop = int(ids[-1]) + 1
        known = {name: torch.from_numpy(value[None, :stop]) for name, value in parts.items() if name in needs}
        return cls(special[:stop], flats[:stop], low[:stop], size[:stop], step[:stop], known)

    def inputs(self, content: Ints, start: int, stop: int, device: torch.device) -> Inputs:
        """Return the tokens from ``start`` to before ``stop`` of B documents.

        Args:
            content: (B, ids of the grid), those of each document's flat grid.
            start: the first place.
            stop: the place after the last.
            device: where the model is.
        """
        places = slice(start, stop)
        special = self.special[places]
        ids = np.where(special >= 0, special, self.low[places] + content[:, self.flat[places]])
        parts = {
            name: value[:, places].expand(len(content), *(-1,) * (value.ndim - 1)).to(device)
            for name, value in self.known.items()
        }
        return Inputs(torch.from_numpy(ids).to(device), **parts)
