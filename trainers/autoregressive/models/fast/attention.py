"""Attention out of batched matrix products, for training in bfloat16 on a CPU.

There torch's `scaled_dot_product_attention` computes in small tiles, which leaves most of the speed of the processor's
bfloat16 products unused: at 256 places forward and backward together take three times as long as the products below, at 1,024
twice. `attend` takes this way where it pays and torch's kernel everywhere else; the tests compare the two.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 256
"""Queries at a time; the keys after the last of them are not looked at, which saves up to half of the work."""
SCORES = 2**22
"""About how many scores are held at a time: 8 MB."""
KEPT_LENGTH = 2 * BLOCK
"""Up to this length the probabilities are kept for the backward pass; beyond it they would be most of the memory, and are
computed again."""


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = True, ahead: bool = False
) -> Tensor:
    """Return for each query the values, weighted by the softmax of its products with the keys, (B, H, T, E).

    Args:
        queries: (B, H, T, E).
        keys: (B, K, S, E), where K divides H: each is shared by H / K queries. Without a mask S is T, or T is 1.
        values: (B, K, S, E).
        mask: boolean (B or 1, 1, T, S), True where a query sees a key; None means all up to itself, or all if not ``causal``.
        causal: whether no query sees a later key where there is no mask.
        ahead: whether a query may see a later key where there is one.
    """
    square = queries.shape[2] == keys.shape[2]
    never_ahead = causal if mask is None else not ahead
    if square and never_ahead and queries.device.type == "cpu" and queries.dtype == torch.bfloat16:
        result: Tensor = _Attend.apply(queries, keys, values, mask)
        return result
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        is_causal=causal and mask is None and queries.shape[2] > 1,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


class _Attend(torch.autograd.Function):
    """Heads that share keys are one matrix of more rows: (N, G, T, E) with N = B * K and G = H / K."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        batch, heads, length, size = queries.shape
        number = batch * keys.shape[1]
        rows = queries.reshape(number, -1, length, size)
        keys, values = keys.reshape(number, length, size), values.reshape(number, length, size)
        out = torch.empty_like(rows)
        kept = []
        bias = _bias(mask, length, queries)
        for part, start, stop in _parts(rows):
            chances = _probabilities(rows, keys, bias, part, start, stop)
            _block(out, part, start, stop).copy_(
                torch.bmm(chances, values[part, :stop]).view(len(chances), -1, stop - start, size)
            )
            if length <= KEPT_LENGTH:
                kept.append(chances)
        ctx.save_for_backward(rows, keys, values, bias, *kept)
        ctx.shape = queries.shape
        return out.view(batch, heads, length, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, keys, values, bias, *kept = ctx.saved_tensors
        batch, _, length, size = ctx.shape
        grad = grad.reshape(rows.shape)
        grad_rows = torch.empty_like(rows)
        # Several blocks of queries add to the gradient of one key, so those sums are in float32.
        kind = rows.dtype if length <= BLOCK else torch.float32
        grad_keys, grad_values = torch.zeros_like(keys, dtype=kind), torch.zeros_like(values, dtype=kind)
        for index, (part, start, stop) in enumerate(_parts(rows)):
            chances = kept[index] if kept else _probabilities(rows, keys, bias, part, start, stop)
            above = _block(grad, part, start, stop).reshape(len(chances), -1, size)
            below = torch.bmm(above, values[part, :stop].transpose(1, 2))
            below = torch._softmax_backward_data(below, chances, -1, below.dtype)
            asked = _block(rows, part, start, stop).reshape(len(chances), -1, size)
            _block(grad_rows, part, start, stop).copy_(
                torch.bmm(below, keys[part, :stop]).view(len(chances), -1, stop - start, size)
            )
            for sum_, product in (
                (grad_keys, torch.bmm(below.transpose(1, 2), asked)),
                (grad_values, torch.bmm(chances.transpose(1, 2), above)),
            ):
                if length <= BLOCK:
                    sum_[part] = product
                else:
                    sum_[part, :stop] += product
        scale = size**-0.5
        kept_shape = (batch, -1, length, size)
        return (
            grad_rows.mul_(scale).view(kept_shape),
            grad_keys.mul_(scale).to(keys.dtype).view(kept_shape),
            grad_values.to(values.dtype).view(kept_shape),
            None,
        )


def _parts(rows: Tensor) -> list[tuple[slice, int, int]]:
    """Return which of N, and from which query to before which, is computed at a time."""
    number, group, length, _ = rows.shape
    block = min(BLOCK, length)
    many = max(1, SCORES // (group * block * length))
    return [
        (slice(first, first + many), start, min(length, start + block))
        for first in range(0, number, many)
        for start in range(0, length, block)
    ]


def _block(rows: Tensor, part: slice, start: int, stop: int) -> Tensor:
    return rows[part, :, start:stop]


def _bias(mask: Tensor | None, length: int, like: Tensor) -> Tensor:
    """Return what is added to the scores, (B or 1, T, T): 0, and -inf where a key is not seen."""
    hidden = (
        torch.ones(length, length, dtype=torch.bool, device=like.device).triu(1)[None] if mask is None else ~mask[:, 0]
    )
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))


def _probabilities(rows: Tensor, keys: Tensor, bias: Tensor, part: slice, start: int, stop: int) -> Tensor:
    """Return the softmax of the scores of some queries, (part of N, G * queries, stop)."""
    asked = _block(rows, part, start, stop)
    number, group, count, size = asked.shape
    added = bias[:, start:stop, :stop]
    if len(bias) > 1:
        each = len(rows) // len(bias)
        added = added[torch.arange(len(rows), device=rows.device)[part] // each]
    if group > 1:
        added = added.repeat(1, group, 1)
    scores = torch.baddbmm(
        added, asked.reshape(number, group * count, size), keys[part, :stop].transpose(1, 2), alpha=size**-0.5
    )
    return torch.softmax(scores, -1, out=scores)
