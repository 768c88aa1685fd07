"""How ids enter a network: a row of a table each, or of ids that are many and ordered, what waves make of their value.

Of 65,536 samples' values most come too seldom to learn a row of a table. But a value is a number, and neighbours mean nearly the
same; so the ids of a wide range of ordered ids share one row, to which is added a linear function of sines and cosines of the
value, from one wave over the whole range to waves that tell neighbours apart. (The features are those of Vaswani et al. 2017 for
places and of Tancik et al. 2020, arXiv 2006.10739, for coordinates.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainers.autoregressive.models.ordinal import Ranges

WIDE = 4096
"""Ordered ids of a range that no longer have a row each are more than this."""


class ValueEmbedding(nn.Embedding):
    """A table (rows, D) in which the ids of each wide range of ordered ids share a row, and what their values add to it.

    Args:
        vocab_size: V.
        channels: D.
        ordinal: ranges of ordered ids, of which one at least is wide.
    """

    row: Tensor

    def __init__(self, vocab_size: int, channels: int, ordinal: Ranges) -> None:
        wide = [(low, high) for low, high in ordinal if high - low > WIDE]
        row = torch.ones(vocab_size, dtype=torch.int64)
        for low, high in wide:
            row[low + 1 : high] = 0
        super().__init__(vocab_size - sum(high - low - 1 for low, high in wide), channels)
        self.wide = wide
        self.register_buffer("row", row.cumsum(0) - 1, persistent=False)
        self.values = nn.ModuleList(ValueWaves(high - low, channels) for low, high in self.wide)

    def forward(self, ids: Tensor) -> Tensor:
        """Return what ids (...) bring, (..., D)."""
        found = super().forward(self.row[ids])
        for (low, high), waves in zip(self.wide, self.values, strict=True):
            inside = (ids >= low) & (ids < high)
            added: Tensor = waves((ids - low).clamp(0, high - low - 1))
            found = found + torch.where(inside[..., None], added, 0).to(found.dtype)
        return found

    @torch.no_grad()
    def reset(self, std: float) -> None:
        """Draw fresh weights; ``std`` is of what an id brings, about."""
        nn.init.normal_(self.weight, std=std)
        for waves in self.values:
            assert isinstance(waves, ValueWaves)
            # Half of the squares of waves is 1/2.
            nn.init.normal_(waves.enter.weight, std=std * (2 / waves.enter.in_features) ** 0.5)


class ValueWaves(nn.Module):
    """A linear function of waves of a place in a range.

    Args:
        count: ids of the range.
        channels: D.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.count = count
        # From half a wave over the range to one over four ids.
        octaves = max(1, math.ceil(math.log2(count)) - 1)
        self.enter = nn.Linear(2 * octaves, channels, bias=False)

    def forward(self, places: Tensor) -> Tensor:
        """Return (..., D) of places (...), from 0 to before the count."""
        # In bfloat16, as a buffer would be in a model of it, the fast waves would be noise.
        octaves = torch.arange(self.enter.in_features // 2, device=places.device, dtype=torch.float32)
        angles = (places[..., None] + 0.5) * (octaves.exp2() * (math.pi / self.count))
        waves = torch.cat((angles.sin(), angles.cos()), -1)
        result: Tensor = self.enter(waves.to(self.enter.weight.dtype))
        return result


def embedding_of(vocab_size: int, channels: int, ordinal: Ranges) -> nn.Embedding:
    """Return what ids enter by: a table, or one with values where ``ordinal`` has a wide range."""
    if any(high - low > WIDE for low, high in ordinal):
        return ValueEmbedding(vocab_size, channels, ordinal)
    return nn.Embedding(vocab_size, channels)


def reset_embedding(embedding: nn.Embedding, std: float) -> None:
    """Draw fresh weights of an embedding, from torch's global generator."""
    if isinstance(embedding, ValueEmbedding):
        embedding.reset(std)
    else:
        nn.init.normal_(embedding.weight, std=std)


def rows_of_ids(embedding: nn.Embedding) -> list[nn.Parameter]:
    """Return the parameters of an embedding that have a row for each id."""
    return [] if isinstance(embedding, ValueEmbedding) else [*embedding.parameters()]
