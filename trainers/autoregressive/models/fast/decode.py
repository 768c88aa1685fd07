"""One token at a time: the Transformer's step for generation, with as few operations as possible.

A step multiplies a few vectors with every matrix, so what bounds it is reading the matrices, and each further operation costs as
much as reading a small one. At 8 rows of a model of 14 M parameters in float32 products took four fifths of a step, at a third of
what memory gives; `packed` brings them to that. Against the modules in `layers` half of the operations are saved besides: weights
are looked up once for a cache, queries, keys and values are rotated together, keys and values are stored together, and the
residual is added by the matrix product. The contract test compares it with the whole forward pass.

Compiled, it becomes a few fused loops over the weights. That takes ten seconds or more once, and a C++ compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.autoregressive.models.cache import KeyValues
from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.models.fast.packed import Packed

if TYPE_CHECKING:
    from trainers.autoregressive.models.layers import Block

_WORK = 768
"""Scores from which on `attend_one` multiplies matrices."""


class BlockWeights(NamedTuple):
    """The parameters of one block."""

    attention_gain: Tensor
    attention_shift: Tensor | None
    qkv: Tensor
    qkv_bias: Tensor | None
    heads_gain: Tensor | None
    """Of QK-norm, (H + K, E)."""
    out: Tensor
    out_bias: Tensor | None
    mlp_gain: Tensor
    mlp_shift: Tensor | None
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None

    @classmethod
    def of(cls, block: Block) -> Self:
        """Look up the weights of a block, without copies."""
        attention, mlp = block.attention, block.mlp
        gain = attention.place.gain(attention.heads, attention.kv_heads)
        before = [*weight_and_bias(block.attention_norm), *weight_and_bias(attention.qkv)]
        modules = (attention.out, block.mlp_norm, mlp.up, mlp.down)
        after = [part for module in modules for part in weight_and_bias(module)]
        return cls(*cast(Any, [*before, None if gain is None else gain.detach(), *after]))


class StepWeights(NamedTuple):
    """All that a step reads besides the cache."""

    embedding: Tensor
    places: Tensor | None
    """Added to the embedding, (context, D); None with rotary positions."""
    cos: Tensor | None
    """Cosines (context, 1, E) in float32; None without rotary positions."""
    sin: Tensor | None
    """Sines (context, 1, E) with the sign of each half."""
    blocks: list[BlockWeights]
    gain: Tensor | None
    shift: Tensor | None
    head: Tensor

    @classmethod
    def of(cls, model: Any, device: torch.device) -> Self:
        """Look up what a step reads, without copies."""
        cos = sin = places = None
        if model.config.rotated:
            cos, sines = model.waves.rotation(device)
            sin = torch.cat((-sines, sines), -1)
        elif model.positions is not None:
            places = model.positions.weight.detach()
        else:
            places = model.waves.sinusoids(device).to(model.embedding.weight.dtype)
        blocks = [BlockWeights.of(cast("Block", block)) for block in model.blocks]
        embedding, head = model.embedding.weight.detach(), model.head_weight.detach()
        return cls(embedding, places, cos, sin, blocks, *weight_and_bias(model.norm), head)


def knows(model: Any) -> bool:
    """Return whether `decode` computes what a Transformer does: it knows of a token its id and its number alone, and the
    head is a matrix.

    A step looks at all keys of the window, in every layer.
    """
    plain = model.config.positions != "axial" and model.config.attention == "full"
    return bool(plain and model.next_place is None and model.encoder is None and model.mixture is None)


def weight_and_bias(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Return the two parameters of a linear layer or norm as they are, without a gradient; None for one that it lacks."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    return (None if weight is None else weight.detach()), (None if bias is None else bias.detach())


class PackedBlock(NamedTuple):
    """The matrices of one block, for products of a few rows."""

    qkv: Packed
    out: Packed
    up: Packed
    down: Packed


class PackedWeights(NamedTuple):
    """The matrices of all blocks, and the head."""

    blocks: list[PackedBlock]
    head: Packed

    @classmethod
    def of(cls, weights: StepWeights) -> Self:
        """Lay the matrices of a model out."""
        blocks = [
            PackedBlock(
                Packed(block.qkv, block.qkv_bias),
                Packed(block.out, block.out_bias),
                Packed(block.up, block.up_bias),
                Packed(block.down, block.down_bias),
            )
            for block in weights.blocks
        ]
        return cls(blocks, Packed(weights.head, None))


def decode(
    weights: StepWeights,
    packed: PackedWeights,
    config: TransformerConfig,
    ids: Tensor,
    place: int,
    cache: list[KeyValues],
    padding: Tensor | None = None,
) -> Tensor:
    """Return the logits (B, V) after the tokens ``ids`` (B,) at ``place``, and store their keys and values.

    Args:
        weights: of the model.
        packed: its matrices.
        config: of the model.
        ids: int64 (B,).
        place: how many tokens the cache holds.
        cache: keys and values of each layer.
        padding: int64 (B,), how many of these are padding; None means none.
    """
    stop = place + 1
    first = 0 if config.window is None else max(0, stop - config.window)
    x = F.embedding(ids, weights.embedding)
    if config.embedding_scale != 1:
        x = x * config.embedding_scale
    seen = None if padding is None else (torch.arange(first, stop, device=ids.device) >= padding[:, None])[:, None]
    # A row's own place, which is its number without padding.
    where = Place(place if padding is None else place - padding, place, first, stop, seen)
    return logits_of(through(weights, packed, config, x, where, cache), packed, config)


class Place(NamedTuple):
    """Where the one new place of each row is."""

    own: int | Tensor
    """Its position, (B,) if rows differ."""
    stored: int | Tensor
    """Where its keys and values go, (B,) if rows differ."""
    first: int
    """The first key of the cache that is looked at."""
    stop: int
    """The key after the last one."""
    seen: Tensor | None
    """bool (B, 1, stop - first), which of them a row sees; None means all."""

    @classmethod
    def of_rows(cls, counts: Sequence[int], window: int | None, device: torch.device) -> Self:
        """Return the place after ``counts`` places of each row."""
        least, stop = min(counts), max(counts) + 1
        first = 0 if window is None else max(0, least + 1 - window)
        if least + 1 == stop:
            return cls(least, least, first, stop, None)
        own = torch.tensor(counts, device=device)
        key = torch.arange(first, stop, device=device)
        seen = key <= own[:, None]
        if window is not None:
            seen &= key > own[:, None] - window
        return cls(own, own, first, stop, seen[:, None])


def logits_of(hidden: Tensor, packed: PackedWeights, config: TransformerConfig) -> Tensor:
    """Return the logits (B, V) of states (B, D)."""
    return _cap(packed.head(hidden), config.logit_soft_cap)


def through(
    weights: StepWeights,
    packed: PackedWeights,
    config: TransformerConfig,
    x: Tensor,
    where: Place,
    cache: list[KeyValues],
) -> Tensor:
    """Return what the blocks and the last norm make of one place of each row, (B, D), and store its keys and values.

    Args:
        weights: of the model.
        packed: its matrices.
        config: of the model.
        x: (B, D), what is embedded, without its position.
        where: the place.
        cache: keys and values of each layer.
    """
    heads, kv_heads, size = config.heads, config.key_value_heads, config.head_dim
    eps, rms = config.norm_eps, config.norm == "rms"
    both, batch = heads + kv_heads, len(x)
    own, first, stop = where.own, where.first, where.stop
    if weights.places is not None:
        x = x + weights.places[own]
    cos = sin = None
    if weights.cos is not None and weights.sin is not None:
        cos, sin = weights.cos[own], weights.sin[own]
    post = config.norm_position == "post"
    for block, matrices, (keys, values) in zip(weights.blocks, packed.blocks, cache, strict=True):
        h = x if post else _norm(x, block.attention_gain, block.attention_shift, eps, rms)
        joint = matrices.qkv(h).view(batch, both + kv_heads, size)
        turned = joint[:, :both]
        if config.qk_norm:
            turned = F.rms_norm(turned, (size,), None, eps)
            if block.heads_gain is not None:
                turned = (turned * block.heads_gain).to(h.dtype)
        if cos is not None and sin is not None:
            turned = torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin).to(h.dtype)
        for stored, new in ((keys, turned[:, heads:]), (values, joint[:, both:])):
            if isinstance(where.stored, int):
                stored.select(2, where.stored).copy_(new)
            else:
                stored[torch.arange(batch, device=x.device), :, where.stored] = new.to(stored.dtype)
        seen = attend_one(turned[:, :heads], keys[:, :, first:stop], values[:, :, first:stop], where.seen)
        x = matrices.out.added(seen, x)
        h = x = _norm(x, block.attention_gain, block.attention_shift, eps, rms) if post else x
        if not post:
            h = _norm(x, block.mlp_gain, block.mlp_shift, eps, rms)
        x = matrices.down.added(_activate(matrices.up(h), config.mlp), x)
        if post:
            x = _norm(x, block.mlp_gain, block.mlp_shift, eps, rms)
    if weights.gain is not None:
        x = _norm(x, weights.gain, weights.shift, eps, rms)
    return x


def attend_one(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return what one query a head sees of all keys, (B, H * E).

    In bfloat16 on a CPU products of matrices take half of the time of torch's kernel, as soon as there is something to multiply.

    Args:
        queries: (B, H, E).
        keys: (B, K, S, E), a part of a cache.
        values: (B, K, S, E).
        mask: bool (B, 1, S), True where a row sees a key, each row one at least; None means all.
    """
    batch, heads, size = queries.shape
    kv_heads, length = keys.shape[1:3]
    work = batch * heads * length
    if queries.dtype == torch.bfloat16 and queries.device.type == "cpu" and work >= _WORK:
        rows = (queries * size**-0.5).reshape(batch * kv_heads, -1, size)
        scores = torch.bmm(rows, keys.flatten(0, 1).transpose(1, 2))
        if mask is not None:
            scores = (
                scores.view(batch, kv_heads, -1, length).masked_fill_(~mask[:, None], float("-inf")).view_as(scores)
            )
        chances = scores.softmax(-1)
        return torch.bmm(chances, values.flatten(0, 1)).view(batch, heads * size)
    seen = F.scaled_dot_product_attention(
        queries.unsqueeze(2),
        keys,
        values,
        attn_mask=None if mask is None else mask[:, None],
        enable_gqa=heads != kv_heads,
    )
    return seen.view(batch, heads * size)


def decode_one(
    weights: StepWeights, config: TransformerConfig, ids: Tensor, place: Tensor, cache: list[KeyValues]
) -> Tensor:
    """Do what `decode` does for one row, in a form whose shapes do not change, for the compiler: float32 inside.

    Args:
        weights: of the model.
        config: of the model.
        ids: int64 (1,).
        place: int64 (1,).
        cache: keys and values of each layer.
    """
    heads, kv_heads, size = config.heads, config.key_value_heads, config.head_dim
    both = heads + kv_heads
    length = cache[0][0].shape[2]
    key = torch.arange(length, device=ids.device)
    seen = key <= place
    if config.window is not None:
        seen = seen & (key > place - config.window)
    # Tensors of one index, never numbers: those would end the compiled graph.
    x = weights.embedding.index_select(0, ids)[0].float() * config.embedding_scale
    if weights.places is not None:
        x = x + weights.places.index_select(0, place)[0].float()
    x = _stored(x)
    cos = None if weights.cos is None else weights.cos.index_select(0, place)[0]
    sin = None if weights.sin is None else weights.sin.index_select(0, place)[0]
    post = config.norm_position == "post"
    for block, (keys, values) in zip(weights.blocks, cache, strict=True):
        h = x if post else _stored(_plain_norm(x, block.attention_gain, block.attention_shift, config))
        joint = _matvec(h, block.qkv, block.qkv_bias).view(both + kv_heads, size)
        turned = joint[:both]
        if config.qk_norm:
            turned = turned * torch.rsqrt(turned.square().mean(-1, keepdim=True) + config.norm_eps)
            if block.heads_gain is not None:
                turned = turned * block.heads_gain.float()
        if cos is not None and sin is not None:
            turned = turned * cos + turned.roll(size // 2, -1) * sin
        keys.index_copy_(2, place, turned[None, heads:, None].to(keys.dtype))
        values.index_copy_(2, place, joint[None, both:, None].to(values.dtype))
        queries = turned[:heads].view(kv_heads, heads // kv_heads, 1, size) * size**-0.5
        scores = (queries * keys[0, :, None].float()).sum(-1).masked_fill(~seen, float("-inf"))
        mixed = (scores.softmax(-1)[..., None] * values[0, :, None].float()).sum(2).view(-1)
        x = _stored(x + _matvec(mixed, block.out, block.out_bias))
        if post:
            x = _stored(_plain_norm(x, block.attention_gain, block.attention_shift, config))
        h = x if post else _stored(_plain_norm(x, block.mlp_gain, block.mlp_shift, config))
        h = _stored(_activate(_matvec(h, block.up, block.up_bias), config.mlp))
        x = _stored(x + _matvec(h, block.down, block.down_bias))
        if post:
            x = _stored(_plain_norm(x, block.mlp_gain, block.mlp_shift, config))
    if weights.gain is not None:
        x = _stored(_plain_norm(x, weights.gain, weights.shift, config))
    logits = _matvec(x, weights.head, None).to(weights.head.dtype)
    return _cap(logits, config.logit_soft_cap)[None]


def _norm(x: Tensor, gain: Tensor, shift: Tensor | None, eps: float, rms: bool) -> Tensor:
    if rms:
        return F.rms_norm(x, gain.shape, gain, eps)
    return F.layer_norm(x, gain.shape, gain, shift, eps)


def _activate(x: Tensor, kind: str) -> Tensor:
    if kind == "swiglu":
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up
    if kind == "gelu":
        return F.gelu(x, approximate="tanh")
    x = F.relu(x)
    return x.square() if kind == "relu2" else x


def _cap(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _matvec(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``weight @ x`` in float32, as a plain loop: faster than the library's product of one row."""
    y = (weight.float() * x).sum(-1)
    return y if bias is None else y + bias.float()


def _stored(x: Tensor) -> Tensor:
    """Return ``x`` itself, and have the compiler compute it once: it would compute it anew for every row that reads it."""
    return x.as_strided(x.shape, x.stride())


def _plain_norm(x: Tensor, gain: Tensor, shift: Tensor | None, config: TransformerConfig) -> Tensor:
    if config.norm == "layer":
        x = x - x.mean()
    y = x * torch.rsqrt(x.square().mean() + config.norm_eps) * gain.float()
    return y if shift is None else y + shift.float()
