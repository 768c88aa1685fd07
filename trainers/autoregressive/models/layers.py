"""The parts of the Transformer: norms, attention with an optional cache, feed-forward, and the block of them.

Shapes: B rows, T places, D width, H heads, K key-value heads, E size of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.autoregressive.models.cache import KeyValues, LayerCache, Memory, RowsCache
from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.models.fast.attention import attend
from trainers.autoregressive.models.fast.fused import Fusion, fused
from trainers.autoregressive.models.fast.patterns import Sparse
from trainers.autoregressive.models.fast.pointwise import place_heads, rms_norm, swiglu
from trainers.autoregressive.models.forms import Form
from trainers.autoregressive.models.positions import Rotation


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis and multiply by a learned gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.fusion: Fusion | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., D)."""
        return fused(rms_norm, self.fusion)(x, self.weight, self.eps)


def make_norm(config: TransformerConfig) -> nn.Module:
    """Return the norm layer that the configuration names."""
    if config.norm == "rms":
        return RMSNorm(config.width, config.norm_eps)
    return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)


class HeadNorm(nn.Module):
    """QK-norm and rotation of queries and keys, which may lie side by side."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps if config.qk_norm else None
        self.queries = nn.Parameter(torch.ones(config.head_dim)) if config.qk_norm_gain else None
        self.keys = nn.Parameter(torch.ones(config.head_dim)) if config.qk_norm_gain else None

    def gain(self, queries: int, keys: int) -> Tensor | None:
        """Return the gain of so many heads of queries and of keys after them, (queries + keys, E), or None."""
        if self.queries is None or self.keys is None:
            return None
        return torch.cat((self.queries.expand(queries, -1), self.keys.expand(keys, -1)))

    def forward(self, x: Tensor, queries: int, keys: int, rotation: Rotation | None) -> Tensor:
        """Place ``x`` (B, T, queries + keys, E)."""
        cos, sin = (None, None) if rotation is None else rotation
        gain = self.gain(queries, keys)
        if gain is None:
            return x if cos is None and self.eps is None else place_heads(x, cos, sin, self.eps)
        # A gain lies between norm and rotation.
        x = (place_heads(x, None, None, self.eps) * gain).to(x.dtype)
        return x if cos is None else place_heads(x, cos, sin, None)


class Attention(nn.Module):
    """Self-attention with grouped queries, one matrix for queries, keys and values."""

    def __init__(self, config: TransformerConfig, form: Form, window: int | None) -> None:
        super().__init__()
        self.heads = config.heads
        self.kv_heads = config.key_value_heads
        self.head_dim = config.head_dim
        self.window = window
        self.causal, self.ahead = form.causal, form.ahead
        both = self.heads + 2 * self.kv_heads
        self.qkv = nn.Linear(config.width, both * self.head_dim, bias=config.bias_of("qkv"))
        self.place = HeadNorm(config)
        self.out = nn.Linear(self.heads * self.head_dim, config.width, bias=config.bias_of("out"))

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, E), keys (B, K, T, E) and values (B, K, T, E) of ``x`` (B, T, D)."""
        both = self.heads + self.kv_heads
        # Queries and keys lie side by side, so that one norm and one rotation serve both.
        joint, values = self.qkv(x).unflatten(-1, (-1, self.head_dim)).split((both, self.kv_heads), 2)
        joint = self.place(joint, self.heads, self.kv_heads, rotation)
        queries, keys = joint.split((self.heads, self.kv_heads), 2)
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Tensor | Sparse | None,
        cache: LayerCache | RowsCache | None = None,
    ) -> Tensor:
        """Attend from ``x`` (B, T, D) to itself, and to what is in the cache before it.

        Args:
            x: the places.
            rotation: of them.
            mask: (B or 1, 1, T, S), True where a query sees a key; see `fast.attention.attend` for None. Or how to attend without
                one, where there is no cache.
            cache: takes the keys and values, after those that it has; S places then.
        """
        queries, keys, values = self.project(x, rotation)
        if cache is not None:
            keys, values = cache.add(keys, values)
            if self.window is not None and mask is None and x.shape[1] == 1:
                first = max(0, keys.shape[2] - self.window)
                keys, values = keys[:, :, first:], values[:, :, first:]
        if isinstance(mask, Sparse):
            seen = mask.attend(queries, keys, values)
        else:
            seen = attend(queries, keys, values, mask, self.causal, self.ahead)
        result: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return result


class CrossAttention(nn.Module):
    """Attention to what an encoder made of a condition, with grouped queries; nothing is rotated (Vaswani et al. 2017)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.key_value_heads, config.head_dim
        bias = config.bias_of("qkv")
        self.queries = nn.Linear(config.width, self.heads * self.head_dim, bias=bias)
        self.kv = nn.Linear(config.width, 2 * self.kv_heads * self.head_dim, bias=bias)
        self.place = HeadNorm(config)
        self.out = nn.Linear(self.heads * self.head_dim, config.width, bias=config.bias_of("out"))

    def remember(self, encoded: Tensor) -> KeyValues:
        """Return keys and values of what is encoded (B, S, D)."""
        keys, values = self.kv(encoded).unflatten(-1, (-1, self.head_dim)).split((self.kv_heads, self.kv_heads), 2)
        return self.place(keys, 0, self.kv_heads, None).transpose(1, 2), values.transpose(1, 2)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Attend from ``x`` (B, T, D)."""
        queries = self.place(self.queries(x).unflatten(-1, (-1, self.head_dim)), self.heads, 0, None)
        keys, values, mask = memory
        seen = F.scaled_dot_product_attention(
            queries.transpose(1, 2), keys, values, attn_mask=mask, enable_gqa=self.heads != self.kv_heads
        )
        result: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """Two linear layers with an activation between, gated for swiglu (gate and rest in one matrix)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        hidden, bias = config.feed_forward_width, config.bias_of("mlp")
        self.up = nn.Linear(config.width, hidden * (2 if config.mlp == "swiglu" else 1), bias=bias)
        self.down = nn.Linear(hidden, config.width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., D) to (..., D)."""
        x = self.up(x)
        if self.kind == "swiglu":
            x = swiglu(x)
        elif self.kind == "gelu":
            x = F.gelu(x, approximate="tanh")
        elif self.kind == "relu2":
            x = F.relu(x).square()
        else:
            x = F.relu(x)
        result: Tensor = self.down(x)
        return result


class Block(nn.Module):
    """Attention and feed-forward, each beside a residual path; in a decoder cross attention between the two.

    Args:
        config: of the model.
        form: what a token sees.
        cross: whether there is an encoder to attend to.
        window: how far it sees, see `patterns.Pattern`; None means everything.
    """

    def __init__(self, config: TransformerConfig, form: Form, cross: bool = False, window: int | None = None) -> None:
        super().__init__()
        self.post = config.norm_position == "post"
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, form, window)
        self.cross_norm = make_norm(config) if cross else None
        self.cross = CrossAttention(config) if cross else None
        self.mlp_norm = make_norm(config)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.fusion: Fusion | None = None

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Tensor | Sparse | None,
        memory: Memory | None = None,
        cache: LayerCache | RowsCache | None = None,
        counted: Tensor | None = None,
    ) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D), or to (N, D) where only ``counted`` of the B * T places are needed (N,).

        See `Attention.forward` and `CrossAttention.forward` for the others.
        """
        return fused(_run, self.fusion)(self, x, rotation, mask, memory, cache, counted)


def _run(
    block: Block,
    x: Tensor,
    rotation: Rotation | None,
    mask: Tensor | Sparse | None,
    memory: Memory | None,
    cache: LayerCache | RowsCache | None,
    counted: Tensor | None,
) -> Tensor:
    x = _beside(block, x, block.attention_norm, lambda h: block.attention(h, rotation, mask, cache))
    if block.cross is not None and memory is not None:
        cross, norm = block.cross, block.cross_norm
        assert norm is not None
        x = _beside(block, x, norm, lambda h: cross(h, memory))
    if counted is not None:
        x = x.flatten(0, 1).index_select(0, counted)
    return _beside(block, x, block.mlp_norm, block.mlp)


def _beside(block: Block, x: Tensor, norm: nn.Module, layer: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``x`` with what a layer makes of it, normalised before or after."""
    if block.post:
        return norm(x + block.dropout(layer(x)))  # type: ignore[no-any-return]
    return x + block.dropout(layer(norm(x)))  # type: ignore[no-any-return]
