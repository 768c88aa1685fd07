"""How a vocabulary is used: counted over a whole set, because usage and perplexity of a part say nothing of the whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenize_kit.protocol import TokenSpec


@dataclass(frozen=True)
class Usage:
    """How one codebook is used."""

    vocab_size: int
    """How many ids there are."""
    tokens: int
    """How many were counted."""
    used: int
    """How many different ids occurred."""
    dead: int
    """How many ids never occurred; with few tokens also ids that are not dead in truth."""
    usage: float
    """``used / vocab_size``."""
    entropy_bits: float
    """Entropy of the ids on their own, in bits a token."""
    perplexity: float
    """``2 ** entropy_bits``: how many equally frequent ids would be as uncertain."""


class UsageCounter:
    """Counts ids over any number of grids.

    Args:
        spec: of the tokenizer that makes the ids; one count is kept for each codebook.
    """

    def __init__(self, spec: TokenSpec) -> None:
        self._spec = spec
        self._counts = [torch.zeros(size, dtype=torch.int64) for size in spec.codebook_sizes]

    def update(self, ids: Tensor) -> None:
        """Count the ids of one grid."""
        if self._spec.axes[-1] == "codebook":
            for codebook in range(ids.shape[-1]):
                self._add(codebook, ids[..., codebook])
        else:
            self._add(0, ids)

    def _add(self, codebook: int, ids: Tensor) -> None:
        # With a single size for all codebooks there is one count that they share.
        counts = self._counts[min(codebook, len(self._counts) - 1)]
        counts += torch.bincount(ids.reshape(-1), minlength=len(counts))

    def counts(self, codebook: int = 0) -> Tensor:
        """Return how often each id of a codebook occurred, int64 ``(vocab_size,)``."""
        return self._counts[codebook].clone()

    def summaries(self) -> list[Usage]:
        """Return the usage of each codebook.

        Raises:
            ValueError: nothing was counted.
        """
        return [_summary(counts) for counts in self._counts]


def _summary(counts: Tensor) -> Usage:
    total = int(counts.sum())
    if not total:
        raise ValueError("no ids were counted, so there is no usage to speak of")
    shares = counts[counts > 0].to(torch.float64) / total
    entropy = max(0.0, float(-(shares * shares.log2()).sum()))
    used = len(shares)
    return Usage(len(counts), total, used, len(counts) - used, used / len(counts), entropy, math.pow(2, entropy))
