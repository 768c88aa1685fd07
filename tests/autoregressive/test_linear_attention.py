from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from toys.repeats import TOKENS, VOCAB, loss_after_learning

from trainers.autoregressive.models.fast.chunks import linear_attention
from trainers.autoregressive.models.fast.short_convolution import short_convolution
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.linear_attention import LinearAttention, LinearAttentionConfig, LinearMixer

KINDS = ["plain", "decay", "delta", "gated-delta"]
every_kind = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.usefixtures("one_thread")


def small(kind: str, **more: Any) -> LinearAttention:
    """A model with weights as if trained."""
    torch.manual_seed(0)
    values = {"vocab_size": VOCAB, "context": 80, "layers": 2, "width": 32, "heads": 2, "kind": kind}
    model = LinearAttention.from_config(values | more)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.15)
    return model


def token_by_token(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    state: torch.Tensor,
    log_decay: torch.Tensor | None,
    beta: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `linear_attention` says, as a loop over tokens, heads and rows."""
    rows, length, heads, _ = v.shape
    read, after = [], []
    for row in range(rows):
        for head in range(heads):
            matrix, shared = state[row, head], head if q.shape[2] > 1 else 0
            for place in range(length):
                key, query, value = k[row, place, shared], q[row, place, shared], v[row, place, head]
                if log_decay is not None:
                    matrix = log_decay[row, place, head].exp() * matrix
                if beta is not None:
                    value = beta[row, place, head] * (value - matrix.T @ key)
                matrix = matrix + torch.outer(key, value)
                read.append(matrix.T @ query)
            after.append(matrix)
    return torch.stack(read).view(rows, heads, length, -1).transpose(1, 2), torch.stack(after).view_as(state)


@pytest.mark.parametrize("length", [1, 3, 4, 13])
@pytest.mark.parametrize("shared", [False, True], ids=["heads", "shared"])
@every_kind
def test_chunks_equal_a_loop_over_tokens(kind: str, shared: bool, length: int) -> None:
    generator = torch.Generator().manual_seed(length)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    q, k = drawn(2, length, 1 if shared else 3, 5), drawn(2, length, 1 if shared else 3, 5)
    v, state = drawn(2, length, 3, 6), drawn(2, 3, 5, 6)
    decay, strength = drawn(2, length, 3), drawn(2, length, 3)
    leaves = [q, k, v, state, *([decay] if "decay" in kind or "gated" in kind else [])]
    leaves += [strength] if "delta" in kind else []
    given = (
        q,
        F.normalize(k, dim=-1),
        v,
        state,
        F.logsigmoid(decay) if "decay" in kind or "gated" in kind else None,
        strength.sigmoid() if "delta" in kind else None,
    )
    ours, expected = linear_attention(*given, chunk=4), token_by_token(*given)
    torch.testing.assert_close(ours, expected, atol=1e-11, rtol=1e-11)
    pull = [drawn(*part.shape).detach() for part in ours]
    torch.testing.assert_close(
        torch.autograd.grad(ours, leaves, pull, retain_graph=True),
        torch.autograd.grad(expected, leaves, pull),
        atol=1e-10,
        rtol=1e-10,
    )


def test_delta_rule_replaces_what_stands_at_a_key() -> None:
    key = torch.tensor([0.6, 0.8]).view(1, 1, 1, 2).expand(1, 2, 1, 2)
    values = torch.tensor([[1.0, 2.0], [5.0, -1.0]]).view(1, 2, 1, 2)
    state = torch.zeros(1, 1, 2, 2)
    replaced, _ = linear_attention(key, key, values, state, beta=torch.ones(1, 2, 1))
    added, _ = linear_attention(key, key, values, state)
    torch.testing.assert_close(replaced[0, :, 0], torch.tensor([[1.0, 2.0], [5.0, -1.0]]))
    torch.testing.assert_close(added[0, :, 0], torch.tensor([[1.0, 2.0], [6.0, 1.0]]))


def test_equal_keys_over_a_long_chunk_are_exact() -> None:
    # Powers of the matrix that is inverted have entries of 6e8 here, which a series would subtract from each other.
    key = F.normalize(torch.ones(1, 64, 1, 8), dim=-1)
    values = torch.randn(1, 64, 1, 4, generator=torch.Generator().manual_seed(0))
    read, _ = linear_attention(key, key, values, torch.zeros(1, 1, 8, 4), beta=torch.ones(1, 64, 1), chunk=64)
    torch.testing.assert_close(read, values, atol=1e-5, rtol=1e-5)


def test_fast_decay_neither_overflows_nor_loses_its_gradient() -> None:
    q, k, v = torch.randn(3, 1, 64, 1, 8, generator=torch.Generator().manual_seed(0))
    decay = torch.full((1, 64, 1), -50.0, requires_grad=True)
    read, state = linear_attention(q, k, v, torch.zeros(1, 1, 8, 8), decay)
    # All that is before is forgotten.
    torch.testing.assert_close(read, (q * k).sum(-1, keepdim=True) * v)
    torch.testing.assert_close(state[0, 0], torch.outer(k[0, -1, 0], v[0, -1, 0]))
    (gradient,) = torch.autograd.grad(read.sum() + state.sum(), decay)
    assert torch.isfinite(gradient).all()


def test_plain_is_a_normalised_sum_over_all_before() -> None:
    mixer = LinearMixer(LinearAttentionConfig(width=12, heads=2, kind="plain", convolution=0)).double()
    torch.nn.init.eye_(mixer.out.weight)
    x = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    q, k, v = (part.view(2, 9, 2, 6).transpose(1, 2) for part in mixer.enter(x).split((12, 12, 12), -1))
    weights = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT).tril()
    expected = (weights / weights.sum(-1, keepdim=True)) @ v
    found, _ = mixer(x, mixer.start(2, x), None)
    torch.testing.assert_close(found.view(2, 9, 2, 6).transpose(1, 2), expected, atol=1e-12, rtol=1e-12)


def test_short_convolution_equals_the_library() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    expected = F.silu(F.conv1d(x.mT, weight.T[:, None], groups=3).mT)
    found = short_convolution(x, weight)
    torch.testing.assert_close(found, expected)
    pull = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(found, (x, weight), pull), torch.autograd.grad(expected, (x, weight), pull)
    )


@every_kind
def test_state_after_real_tokens_alone(kind: str) -> None:
    model = small(kind).double()
    ids = torch.randint(0, VOCAB, (4, 70), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([70, 33, 1, 0])
    x = model.embedding(ids)
    begun = model.start(4, x)
    _, before = model.body(x[:, :5], Inputs(ids[:, :5]), begun, None)
    _, after = model.body(x, Inputs(ids), before, lengths)
    for row, length in enumerate(lengths.tolist()):
        own = tuple(part[row : row + 1] for part in before)
        alone = (
            model.body(x[row : row + 1, :length], Inputs(ids[row : row + 1, :length]), own, None)[1] if length else own
        )
        torch.testing.assert_close(tuple(part[row : row + 1] for part in after), alone, atol=1e-10, rtol=1e-10)


def test_generation_carries_the_same_at_any_length() -> None:
    model = small("gated-delta")
    cache = model.new_cache(1, 80)
    sizes = []
    for count in (1, 70):
        model.step(Inputs(torch.zeros(1, count, dtype=torch.int64)), cache)
        sizes.append(sum(part.untyped_storage().nbytes() for part in cache.state))
    # Two blocks of two heads of 16 by 16, and 3 tokens of 96 channels, in float32.
    assert sizes == [2 * 4 * (2 * 16 * 16 + 3 * 96)] * 2


@every_kind
def test_learns_to_repeat(kind: str) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "context": TOKENS, "layers": 2, "width": 32, "heads": 2, "kind": kind}
    assert loss_after_learning(LinearAttention.from_config(sizes)) < 1.0


def test_bad_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="width 30 is not a multiple of heads 4"):
        LinearAttentionConfig(width=30, heads=4)
    with pytest.raises(ValueError, match="did you mean 'gated-delta'"):
        LinearAttention.from_config({"kind": "gated-dleta"})
    assert LinearAttentionConfig(width=30, heads=4, head_size=8).channels == 8
