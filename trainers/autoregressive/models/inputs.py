"""What a sequence model is given: ids, and as much of what is known of them as it asks for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

NEEDS = ("documents", "given", "axial", "following", "steps", "cells")
"""The parts of `Inputs` that are made only for a model that asks for them (`SequenceModel.needs`); documents are besides where
there are several in a row."""


@dataclass(frozen=True)
class Inputs:
    """Packed or single rows of tokens. Shapes: B rows, T places."""

    ids: Tensor
    """int64 (B, T)."""
    positions: Tensor | None = None
    """int64 (B, T), the place of each token in its document; None counts from 0 in each row."""
    documents: Tensor | None = None
    """int64 (B, T), which packed document each token is of (-1 for padding); a token sees only tokens with its own number. None
    means one document a row."""
    given: Tensor | None = None
    """bool (B, T), which tokens are a condition."""
    axial: Tensor | None = None
    """int64 (B, T, 3), positions along time, height and width; see `tokenize_kit.sequences.packing.Places`."""
    following: Tensor | None = None
    """int64 (B, T, 3), coordinates of the id that comes after each token where its order is drawn; -1 elsewhere."""
    steps: Tensor | None = None
    """int64 (B, T, 2), of joint steps of several codebooks (`tokenize_kit.sequences.layouts`): 1 for a token that is the last of
    its step, and the codebook of the token after it, 0 if that has none. Both 0 for padding. A document ends with a step."""
    cells: Tensor | None = None
    """int64 (B, T, 8), of the token after each, if that is an id of a grid of height and width: the number of the grid in the
    document, row, column and channel (or codebook), the height, width and channels of the grid, and 1 if it is a condition, else
    0. All -1 where the token after it is no such id, and for padding."""

    def rows(self, rows: Tensor) -> Inputs:
        """Return those of the rows ``rows`` (int64)."""
        return replace(self, **{name: part[rows] for name, part in self.parts().items()})

    def parts(self) -> dict[str, Any]:
        """Return the tensors that are given, by name."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in known.items() if part is not None}

    def of(self, name: str) -> Tensor:
        """Return a part that a model cannot do without.

        Raises:
            ValueError: it is not given.
        """
        part: Tensor | None = getattr(self, name)
        if part is None:
            raise ValueError(f"this model needs the {name} of the tokens; make its inputs with what its 'needs' names")
        return part
