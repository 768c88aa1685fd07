"""Attention out of matrix products against torch's own in float32, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.autoregressive.models.fast import attention
from trainers.autoregressive.models.fast.attention import attend


def inputs(batch: int, heads: int, kv_heads: int, length: int, size: int) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(batch, heads, length, size), (batch, kv_heads, length, size), (batch, kv_heads, length, size)]
    return [torch.randn(shape).bfloat16().requires_grad_() for shape in shapes]


def packed_mask(batch: int, length: int) -> Tensor:
    documents = torch.randint(0, 3, (batch, length), generator=torch.Generator().manual_seed(1)).sort(-1).values
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return (causal & (documents[:, :, None] == documents[:, None]))[:, None]


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [7, 40, 70])  # one block; two with the probabilities kept; several without
def test_equals_torch(kv_heads: int, masked: bool, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 30)
    monkeypatch.setattr(attention, "KEPT_LENGTH", 60)
    monkeypatch.setattr(attention, "SCORES", 3 * 30 * 70)
    parts = inputs(2, 4, kv_heads, length, 16)
    mask = packed_mask(2, length) if masked else None
    above = torch.randn(2, 4, length, 16).bfloat16()
    ours = attend(*parts, mask)
    ours.backward(above)
    exact = [part.detach().float().requires_grad_() for part in parts]
    theirs = F.scaled_dot_product_attention(*exact, attn_mask=mask, is_causal=mask is None, enable_gqa=kv_heads != 4)
    theirs.backward(above.float())
    pairs = [(ours, theirs), *((part.grad, reference.grad) for part, reference in zip(parts, exact, strict=True))]
    for found, expected in pairs:
        assert found is not None
        assert expected is not None
        assert found.dtype == torch.bfloat16
        error = (found.float() - expected).norm() / expected.norm()
        assert error < 8e-3  # bfloat16 rounds by 2^-9 at most, and three such roundings follow each other


def test_later_places_are_not_seen() -> None:
    queries, keys, values = inputs(1, 2, 2, 9, 8)
    attend(queries, keys, values, None)[:, :, 4].sum().backward()
    assert keys.grad is not None
    assert values.grad is not None
    assert torch.count_nonzero(keys.grad[:, :, 5:]) == torch.count_nonzero(values.grad[:, :, 5:]) == 0
    assert torch.count_nonzero(values.grad[:, :, :5]) > 0
