"""Attention patterns: which of the keys that its form shows a query looks at, layer by layer.

- ``full``: all of them, or with ``window`` the nearest.
- ``strided``: layers alternate between the ``stride`` nearest places and the places that are whole strides away, which in a
  picture of rows of ``stride`` places are those above it (Sparse Transformer, Child et al. 2019, arXiv 1904.10509, section 4.2).
  Two layers together reach everything.
- ``fixed``: every layer sees the block of ``stride`` places that a token is in, and the last ``summary_columns`` places of every
  block, in which the blocks tell each other what they hold. Blocks are counted in each document. The paper lets halves alternate
  here too; but all queries of a block share the keys of both, so that one softmax over their union costs no more.

A pattern takes away from what a form shows and never adds. Here it is a mask, which `fast.patterns` does without where it can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.models.masks import Span


@dataclass(frozen=True)
class Columns:
    """The keys that are a multiple of ``stride`` places away."""

    stride: int

    def keeps(self, span: Span) -> Tensor:
        """Return which keys a query looks at, bool (B or 1, queries, keys)."""
        return span.apart % self.stride == 0


@dataclass(frozen=True)
class Blocks:
    """The keys of the query's own block of ``stride`` places, and the last ``columns`` places of every block."""

    stride: int
    columns: int

    def keeps(self, span: Span) -> Tensor:
        """Return which keys a query looks at, bool (B or 1, queries, keys)."""
        return self.same_block(span) | self.summary(span.own_places)[:, None]

    def same_block(self, span: Span) -> Tensor:
        """Return which keys are in the block of a query, if they are of its document, bool (B or 1, queries, keys)."""
        block = span.own_places.div(self.stride, rounding_mode="floor")
        return span.at_queries(block)[..., None] == block[:, None]

    def summary(self, own: Tensor) -> Tensor:
        """Return which places tell of their block; ``own`` (B or 1, T) counts in each document."""
        return own % self.stride >= self.stride - self.columns


class Pattern(NamedTuple):
    """What one layer looks at."""

    window: int | None
    """Only keys that are fewer than so many places away."""
    far: Columns | Blocks | None
    """And of them only these."""


def pattern_of(config: TransformerConfig, layer: int) -> Pattern:
    """Return the pattern of layer number ``layer``."""
    if config.attention == "strided":
        return Pattern(None, Columns(config.stride_length)) if layer % 2 else Pattern(config.stride_length, None)
    if config.attention == "fixed":
        return Pattern(None, Blocks(config.stride_length, config.summary_columns))
    return Pattern(config.window, None)
