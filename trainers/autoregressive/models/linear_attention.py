"""Linear attention: what a head has seen is one matrix, which keys write to and queries read from.

    plain         S = S + k v^T, read as S^T q over the sum of q.k, both elu(x) + 1 (Katharopoulos et al. 2020, arXiv 2006.16236)
    decay         S = a S + k v^T with a decay a of each token and head
    delta         S = S + b k (v - S^T k)^T: replaces what stands at the key (Schlag et al. 2021, arXiv 2102.11174)
    gated-delta   both (Gated DeltaNet, Yang et al. 2024, arXiv 2412.06464)

All but the plain one have queries and keys of unit length, and a norm and a gate after reading. What is seen is everything
before, as much of it as the matrix holds; a step of generation costs the same at any length. Trained in chunks
(`fast.chunks`), which cost a token the same at any length too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.autoregressive.models.fast.chunks import linear_attention
from trainers.autoregressive.models.fast.pointwise import place_heads
from trainers.autoregressive.models.layers import RMSNorm
from trainers.autoregressive.models.mixers import (
    NORM_EPS,
    HeadDecay,
    Mixer,
    MixerConfig,
    MixerModel,
    ShortConvolution,
    are_real,
    at_least_float32,
)
from trainers.autoregressive.models.stateful import State

READ_EPS = 1e-3
"""Of the norm after reading. What a query reads at keys that it is nearly orthogonal to is small: the norm shall leave it so, and
not blow up its rounding."""


@dataclass(frozen=True)
class LinearAttentionConfig(MixerConfig):
    """A stack of blocks with linear attention."""

    kind: Literal["plain", "decay", "delta", "gated-delta"] = "gated-delta"
    """How a token changes the matrix of a head."""
    heads: int = 8
    """Number of matrices in a block."""
    head_size: int | None = None
    """Channels of the queries, keys and values of a head; None divides ``width`` among the heads."""
    convolution: int = 4
    """How many tokens the convolution sees that queries, keys and values come through; 0 leaves it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "heads", "head_size")
        self.at_least(0, "convolution")
        if self.head_size is None and self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not a multiple of heads {self.heads}; change one, or give head_size"
            )

    @property
    def channels(self) -> int:
        """Channels of a head."""
        return self.width // self.heads if self.head_size is None else self.head_size


class LinearAttention(MixerModel):
    """A stack of blocks with linear attention over ids."""

    configuration = LinearAttentionConfig

    def __init__(self, config: LinearAttentionConfig) -> None:
        super().__init__(config, LinearMixer)


class LinearMixer(Mixer):
    """Linear attention of several heads."""

    def __init__(self, config: LinearAttentionConfig) -> None:
        super().__init__()
        self.heads, self.channels, self.plain = config.heads, config.channels, config.kind == "plain"
        inner = self.heads * self.channels
        decays, deletes = config.kind in ("decay", "gated-delta"), config.kind in ("delta", "gated-delta")
        # Queries, keys and values; the gate; for each head how strongly the matrix decays and is replaced.
        self.sizes = (3 * inner, 0 if self.plain else inner, self.heads * decays, self.heads * deletes)
        self.enter = nn.Linear(config.width, sum(self.sizes), bias=False)
        self.convolution = ShortConvolution(3 * inner, config.convolution) if config.convolution else None
        self.decay = HeadDecay(self.heads) if decays else None
        self.norm = None if self.plain else RMSNorm(self.channels, READ_EPS)
        self.out = nn.Linear(inner, config.width, bias=False)

    def start(self, rows: int, like: Tensor) -> State:
        """Return zeros: the matrix of each head (R, H, E, E), plain with a column for the sum of keys, and the convolution's."""
        columns = self.channels + 1 if self.plain else self.channels
        matrix = like.new_zeros(rows, self.heads, self.channels, columns, dtype=at_least_float32(like.dtype))
        return (matrix,) if self.convolution is None else (matrix, self.convolution.start(rows, like))

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """See `Mixer.forward`."""
        matrix, *carried = state
        real = are_real(lengths, x.shape[1])
        joint, gate, fading, strength = self.enter(x).split(self.sizes, -1)
        if self.convolution is not None:
            joint, carried[0] = self.convolution(joint, carried[0], lengths)
        both, values = joint.to(matrix.dtype).unflatten(-1, (-1, self.channels)).split((2 * self.heads, self.heads), 2)
        if self.plain:
            both = F.elu(both) + 1
            # The sum of keys is what is read of a value that is always 1.
            values = torch.cat((values, values.new_ones(*values.shape[:-1], 1)), -1)
        else:
            both = place_heads(both, None, None, NORM_EPS)
        queries, keys = both.chunk(2, 2)
        if not self.plain:
            keys = keys * self.channels**-0.5
        if real is not None:
            keys = keys * real[..., None]
        log_decay = None if self.decay is None else self.decay(fading, real)[0]
        beta = strength.to(matrix.dtype).sigmoid() if self.sizes[3] else None
        read, matrix = linear_attention(queries, keys, values, matrix, log_decay, beta)
        if self.norm is None:
            # A row may be padding alone: nothing over nothing is 0.
            read = read[..., :-1] / read[..., -1:].clamp(min=1e-6)
        else:
            read = self.norm(read) * F.silu(gate).view(read.shape)
        mixed: Tensor = self.out(read.flatten(-2).to(x.dtype))
        return mixed, (matrix, *carried)
