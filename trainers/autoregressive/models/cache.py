"""What a Transformer remembers while it generates: keys and values of fixed length, filled from the left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KeyValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, (B, K, length, E) each."""
Memory = tuple[Tensor, Tensor, Tensor]
"""What cross attention reads: keys and values of one layer (B, K, S, E), and a mask (B, 1, T or 1, S) that says who sees them."""


@dataclass(frozen=True)
class LayerCache:
    """The keys and values of one layer, of which ``start`` places are filled."""

    stored: KeyValues
    start: int

    def add(self, keys: Tensor, values: Tensor) -> KeyValues:
        """Store those of the next places (B, K, n, E); return all so far, (B, K, start + n, E)."""
        stop = self.start + keys.shape[2]
        for place, new in zip(self.stored, (keys, values), strict=True):
            place[:, :, self.start : stop] = new
        all_keys, all_values = (place[:, :, :stop] for place in self.stored)
        return all_keys, all_values


@dataclass(frozen=True)
class RowsCache:
    """The same where rows have different numbers of places, or only some of them go on."""

    stored: KeyValues
    rows: Tensor | None
    """int64 (R,), which rows go on; None means all."""
    places: Tensor
    """int64 (R, n), the next places of each. What is stored at one that a row does not have is stored over later."""
    stop: int
    """How many places the row with the most has then."""

    def add(self, keys: Tensor, values: Tensor) -> KeyValues:
        """Store those of the next places (R, K, n, E); return all so far, (R, K, stop, E)."""
        found = []
        for stored, new in zip(self.stored, (keys, values), strict=True):
            rows = torch.arange(len(new), device=new.device) if self.rows is None else self.rows
            stored[rows[:, None], :, self.places] = new.transpose(1, 2).to(stored.dtype)
            part = stored[:, :, : self.stop]
            found.append(part if self.rows is None else part[self.rows])
        return found[0], found[1]


class TransformerCache:
    """Keys and values of every layer, for a fixed number of rows and places; see `Transformer.new_cache`.

    Args:
        layers: room for them.
        left_padding: int64 (B,), see `SequenceModel.new_cache`.
        given: bool (B, length), room for which tokens are a condition; None if the model does not ask.
        weights: what the step of one token reads, if there is such a step (`fast.decode`).
        run: the compiled step of one row, if it was asked for.
    """

    def __init__(
        self,
        layers: list[KeyValues],
        left_padding: Tensor | None,
        given: Tensor | None,
        weights: Any,
        run: Callable[..., Tensor] | None,
    ) -> None:
        self.layers = layers
        self.left_padding = left_padding
        self.given = given
        self.weights = weights
        self.run = run
        self.packed: Any = None
        """The matrices as `fast.decode.decode` wants them, made by the first step of one token."""
        self.memory: list[Memory] | None = None
        """What was encoded, of each layer; its mask is (B, 1, 1, S)."""
        self.length = layers[0][0].shape[2]
        self.position = 0
        self.shortest_padding = 0 if left_padding is None else int(left_padding.min())
        self.longest_padding = 0 if left_padding is None else int(left_padding.max())

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.layers[0][0].shape[0]

    def select(self, rows: Tensor) -> TransformerCache:
        """Return a cache of the rows ``rows`` (int64), in that order."""
        padding, given = (None if part is None else part[rows] for part in (self.left_padding, self.given))
        layers = [(keys[rows], values[rows]) for keys, values in self.layers]
        chosen = TransformerCache(layers, padding, given, self.weights, self.run)
        chosen.position, chosen.packed = self.position, self.packed
        if self.memory is not None:
            chosen.memory = [(keys[rows], values[rows], mask[rows]) for keys, values, mask in self.memory]
        return chosen
