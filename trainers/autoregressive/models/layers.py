"""The parts of the Transformer: norms, positions, attention with its cache, feed-forward, and the block of them.

Shapes: B rows, T places, D width, H heads, K key-value heads, E size of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.autoregressive.models.attention import attend
from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.models.functional import place_heads, rms_norm, swiglu
from trainers.autoregressive.models.fused import compiled

KeyValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, (B, K, length, E) each, filled from the left."""
Memory = tuple[Tensor, Tensor, Tensor]
"""What cross attention reads: keys and values of one layer (B, K, S, E), and a mask (B, 1, T or 1, S) that says who sees them."""
Rotation = tuple[Tensor, Tensor]
"""Cosines (..., T, 1, E) and sines (..., T, 1, E/2) in float32, as `place_heads` wants them."""


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis and multiply by a learned gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (..., D)."""
        return (compiled(rms_norm) if torch.is_grad_enabled() else rms_norm)(x, self.weight, self.eps)


def make_norm(config: TransformerConfig) -> nn.Module:
    """Return the norm layer that the configuration names."""
    if config.norm == "rms":
        return RMSNorm(config.width, config.norm_eps)
    return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)


class Waves:
    """Sines and cosines of every place, made once for each device and kept in float32 whatever the model's dtype is."""

    def __init__(self, places: int, size: int, base: float) -> None:
        self.places = places
        self.size = size
        self.base = base
        self._tables: dict[torch.device, Rotation] = {}

    def angles(self, device: torch.device) -> Tensor:
        """Return the angles (places, size / 2): place / base^(2i / size), exact to float32."""
        exponent = torch.arange(0, self.size, 2, dtype=torch.float64, device=device) / self.size
        place = torch.arange(self.places, dtype=torch.float64, device=device)
        return torch.outer(place, self.base**-exponent)

    def rotation(self, device: torch.device) -> Rotation:
        """Return cosines (places, 1, size) and sines (places, 1, size / 2) in float32."""
        if device not in self._tables:
            # A table that is made while generating must serve a later training step too.
            with torch.inference_mode(False):
                angles = self.angles(device)
                cos, sin = angles.cos().float(), angles.sin().float()
                self._tables[device] = (torch.cat((cos, cos), -1)[:, None], sin[:, None])
        return self._tables[device]

    def axial(self, places: Tensor) -> Rotation:
        """Return cosines (B, T, 1, size) and sines (B, T, 1, size / 2) of places (B, T, 3).

        The pairs of a head belong to the axes in turn, so that each axis has slow and fast ones (as Qwen3-VL interleaves them).
        Where the places are the same along all axes it is `rotation`.
        """
        cos, sin = self.rotation(places.device)
        pair = torch.arange(self.size // 2, device=places.device)
        along = places[..., pair % places.shape[-1]]
        cos, sin = cos[along, 0, pair], sin[along, 0, pair]
        return torch.cat((cos, cos), -1)[:, :, None], sin[:, :, None]

    def sinusoids(self, device: torch.device) -> Tensor:
        """Return the table (places, size) of Vaswani et al.: sine and cosine in turn."""
        cos, sin = self.rotation(device)
        return torch.stack((sin[:, 0], cos[:, 0, : self.size // 2]), -1).flatten(1)


class NextPlace(nn.Module):
    """Tells a token where in its grid the id after it is: sines and cosines of its coordinates, and a matrix.

    A coordinate of -1, which is none, adds nothing.
    """

    WAVES = 16
    """Wavelengths a coordinate, from 2 pi places to a thousand times that."""

    def __init__(self, width: int, axes: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * axes * self.WAVES, width, bias=False)

    def forward(self, coordinates: Tensor) -> Tensor:
        """Return what is added to the embeddings of tokens, (B, T, D); ``coordinates`` is int64 (B, T, axes)."""
        exponent = torch.arange(self.WAVES, dtype=torch.float32, device=coordinates.device) / self.WAVES
        angles = coordinates.float()[..., None] * 1000.0**-exponent
        waves = torch.cat((angles.sin(), angles.cos()), -1) * (coordinates >= 0)[..., None]
        result: Tensor = self.enter(waves.flatten(-2).to(self.enter.weight.dtype))
        return result


class Attention(nn.Module):
    """Self-attention with grouped queries, one matrix for queries, keys and values."""

    def __init__(self, config: TransformerConfig, causal: bool) -> None:
        super().__init__()
        self.heads = config.heads
        self.kv_heads = config.key_value_heads
        self.head_dim = config.head_dim
        self.qk_norm_eps = config.norm_eps if config.qk_norm else None
        self.window = config.window
        self.causal = causal
        self.qkv = nn.Linear(config.width, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, E), keys (B, K, T, E) and values (B, K, T, E) of ``x`` (B, T, D)."""
        both = self.heads + self.kv_heads
        # Queries and keys lie side by side, so that one norm and one rotation serve both.
        joint, values = self.qkv(x).unflatten(-1, (-1, self.head_dim)).split((both, self.kv_heads), 2)
        if rotation is not None or self.qk_norm_eps is not None:
            cos, sin = (None, None) if rotation is None else rotation
            joint = place_heads(joint, cos, sin, self.qk_norm_eps)
        queries, keys = joint.split((self.heads, self.kv_heads), 2)
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)

    def forward(self, x: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        """Attend within ``x`` (B, T, D); ``mask`` (B or 1, 1, T, T) is True where a query sees a key, see `attend`."""
        queries, keys, values = self.project(x, rotation)
        seen = attend(queries, keys, values, mask, self.causal)
        result: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return result

    def step(self, x: Tensor, rotation: Rotation | None, mask: Tensor | None, cache: KeyValues, start: int) -> Tensor:
        """Attend from the places ``start`` to ``start + n`` of ``x`` (B, n, D) to all that is in the cache and themselves.

        Without a ``mask`` (B or 1, 1, n, start + n) either ``n`` is 1 or ``start`` is 0.
        """
        count = x.shape[1]
        stop = start + count
        queries, keys, values = self.project(x, rotation)
        all_keys, all_values = cache
        all_keys[:, :, start:stop] = keys
        all_values[:, :, start:stop] = values
        first = max(0, stop - self.window) if self.window is not None and count == 1 and mask is None else 0
        seen = F.scaled_dot_product_attention(
            queries,
            all_keys[:, :, first:stop],
            all_values[:, :, first:stop],
            attn_mask=mask,
            is_causal=mask is None and count > 1,
            enable_gqa=self.heads != self.kv_heads,
        )
        result: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return result


class CrossAttention(nn.Module):
    """Attention to what an encoder made of a condition, with grouped queries; nothing is rotated (Vaswani et al. 2017)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.key_value_heads, config.head_dim
        self.qk_norm_eps = config.norm_eps if config.qk_norm else None
        self.queries = nn.Linear(config.width, self.heads * self.head_dim, bias=config.bias)
        self.kv = nn.Linear(config.width, 2 * self.kv_heads * self.head_dim, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)

    def remember(self, encoded: Tensor) -> KeyValues:
        """Return keys and values of what is encoded (B, S, D)."""
        keys, values = self.kv(encoded).unflatten(-1, (-1, self.head_dim)).split((self.kv_heads, self.kv_heads), 2)
        if self.qk_norm_eps is not None:
            keys = place_heads(keys, None, None, self.qk_norm_eps)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Attend from ``x`` (B, T, D)."""
        queries = self.queries(x).unflatten(-1, (-1, self.head_dim))
        if self.qk_norm_eps is not None:
            queries = place_heads(queries, None, None, self.qk_norm_eps)
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
        hidden = config.feed_forward_width
        self.up = nn.Linear(config.width, hidden * (2 if config.mlp == "swiglu" else 1), bias=config.bias)
        self.down = nn.Linear(hidden, config.width, bias=config.bias)

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
        causal: whether no place sees a later one.
        cross: whether there is an encoder to attend to.
    """

    def __init__(self, config: TransformerConfig, causal: bool, cross: bool = False) -> None:
        super().__init__()
        self.post = config.norm_position == "post"
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, causal)
        self.cross_norm = make_norm(config) if cross else None
        self.cross = CrossAttention(config) if cross else None
        self.mlp_norm = make_norm(config)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self, x: Tensor, rotation: Rotation | None, mask: Tensor | None, memory: Memory | None = None
    ) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D); see `Attention.forward` and `CrossAttention.forward`."""
        return (compiled(_run) if torch.is_grad_enabled() else _run)(self, x, rotation, mask, memory)

    def step(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Tensor | None,
        cache: KeyValues,
        start: int,
        memory: Memory | None = None,
    ) -> Tensor:
        """Map the next places ``x`` (B, n, D) to (B, n, D); see `Attention.step`."""
        if self.post:
            x = self.attention_norm(x + self.attention.step(x, rotation, mask, cache, start))
        else:
            x = x + self.attention.step(self.attention_norm(x), rotation, mask, cache, start)
        return _after_attention(self, x, memory)


def _run(
    block: Block, x: Tensor, rotation: Rotation | None, mask: Tensor | None, memory: Memory | None = None
) -> Tensor:
    if block.post:
        x = block.attention_norm(x + block.dropout(block.attention(x, rotation, mask)))
    else:
        x = x + block.dropout(block.attention(block.attention_norm(x), rotation, mask))
    return _after_attention(block, x, memory)


def _after_attention(block: Block, x: Tensor, memory: Memory | None) -> Tensor:
    """Return what comes after self-attention: cross attention, if there is something to attend to, and feed-forward."""
    if block.cross is not None and block.cross_norm is not None and memory is not None:
        if block.post:
            x = block.cross_norm(x + block.dropout(block.cross(x, memory)))
        else:
            x = x + block.dropout(block.cross(block.cross_norm(x), memory))
    if block.post:
        return block.mlp_norm(x + block.dropout(block.mlp(x)))  # type: ignore[no-any-return]
    return x + block.dropout(block.mlp(block.mlp_norm(x)))  # type: ignore[no-any-return]
