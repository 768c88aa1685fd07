from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from toys.repeats import TOKENS, VOCAB, loss_after_learning

from trainers.autoregressive.models.fast.diagonal import diagonal_convolution
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.state_space import (
    DiagonalMixer,
    SelectiveMixer,
    StateSpace,
    StateSpaceConfig,
    spectrum,
)

KINDS = ["s4d", "selective"]
every_kind = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.usefixtures("one_thread")


def small(kind: str, **more: Any) -> StateSpace:
    """A model with weights as if trained."""
    torch.manual_seed(0)
    values = {"vocab_size": VOCAB, "context": 80, "layers": 2, "width": 32, "state": 8, "kind": kind}
    model = StateSpace.from_config(values | ({"head_size": 16} if kind == "selective" else {}) | more)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.15)
    return model


def drawn_space(length: int, rows: int = 2, channels: int = 3, count: int = 4) -> tuple[torch.Tensor, ...]:
    """An input, powers, a mixture and a state in float64."""
    generator = torch.Generator().manual_seed(length)

    def drawn(*shape: int, kind: torch.dtype = torch.complex128) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=kind)

    log_power = torch.complex(-drawn(channels, count).abs(), 3 * drawn(channels, count).real)
    x = drawn(rows, length, channels, kind=torch.float64)
    return tuple(part.requires_grad_() for part in (x, log_power, drawn(channels, count), drawn(rows, channels, count)))


def token_by_token(
    x: torch.Tensor, log_power: torch.Tensor, mix: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    y = []
    for place in range(x.shape[1]):
        state = log_power.exp() * state + x[:, place, :, None]
        y.append(2 * (mix * state).sum(-1).real)
    return torch.stack(y, 1), state


@pytest.mark.parametrize("length", [1, 3, 4, 13])
def test_chunks_equal_a_loop_over_tokens(length: int) -> None:
    leaves = x, log_power, mix, state = drawn_space(length)
    ours = diagonal_convolution(x, log_power, mix, state, chunk=4)
    expected = token_by_token(x, log_power, mix, state)
    torch.testing.assert_close(ours, expected, atol=1e-11, rtol=1e-11)
    pull = [torch.randn_like(part.detach()) for part in ours]
    torch.testing.assert_close(
        torch.autograd.grad(ours, leaves, pull), torch.autograd.grad(expected, leaves, pull), atol=1e-10, rtol=1e-10
    )


def test_chunks_equal_the_fourier_transform_of_the_whole_kernel() -> None:
    x, log_power, mix, state = (part.detach() for part in drawn_space(70))
    kernel = 2 * (mix[..., None] * (log_power[..., None] * torch.arange(70)).exp()).sum(1).real
    expected = torch.fft.irfft(torch.fft.rfft(x.mT, 140) * torch.fft.rfft(kernel, 140), 140)[..., :70].mT
    y, _ = diagonal_convolution(x, log_power, mix, torch.zeros_like(state))
    torch.testing.assert_close(y, expected, atol=1e-11, rtol=1e-11)


def test_zero_order_hold_is_the_exact_answer_to_a_constant() -> None:
    torch.manual_seed(0)
    mixer = DiagonalMixer(StateSpaceConfig(width=4, state=6, kind="s4d")).double()
    log_power, mix = mixer.recurrence(torch.float64)
    y, _ = diagonal_convolution(
        torch.ones(1, 40, 4, dtype=torch.float64), log_power, mix, torch.zeros(1, 4, 3, dtype=torch.complex128)
    )
    # Of s' = a s + 1 with a = -1/2 + i pi n at the time 40 d, from 0.
    poles = torch.complex(torch.full((3,), -0.5, dtype=torch.float64), math.pi * torch.arange(3, dtype=torch.float64))
    times = 40 * mixer.log_step.double().exp()[:, None]
    solution = ((poles * times).exp() - 1) / poles
    weights = torch.view_as_complex(mixer.mix.view(4, 3, 2))
    torch.testing.assert_close(y[0, -1], 2 * (weights * solution).sum(-1).real, atol=1e-5, rtol=1e-5)


def test_spectra_of_the_paper() -> None:
    assert spectrum("lin", 3).tolist() == pytest.approx([0, math.pi, 2 * math.pi])
    # N / pi (N / (2 n + 1) - 1) with N = 64.
    assert spectrum("inv", 32)[[0, 1, 31]].tolist() == pytest.approx([1283.425, 414.217, 0.3234], rel=1e-3)


def test_selective_equals_its_recurrence() -> None:
    torch.manual_seed(0)
    mixer = SelectiveMixer(StateSpaceConfig(width=8, head_size=4, state=3, convolution=0)).double()
    torch.nn.init.eye_(mixer.out.weight)
    x = torch.randn(1, 37, 8, dtype=torch.float64)
    inside, enters, leaves, gate, steps = torch.split(mixer.enter(x)[0], [8, 3, 3, 8, 2], -1)
    state, expected = torch.zeros(2, 3, 4, dtype=torch.float64), []
    for place in range(37):
        step = F.softplus(steps[place] + mixer.decay.bias)
        value = inside[place].view(2, 4)
        state = torch.exp(-mixer.decay.log_rate.exp() * step)[:, None, None] * state
        state = state + step[:, None, None] * enters[place][:, None] * value[:, None]
        expected.append((leaves[place] @ state + mixer.skip[:, None] * value).flatten())
    found, _ = mixer(x, mixer.start(1, x), None)
    torch.testing.assert_close(found[0], mixer.norm(torch.stack(expected) * F.silu(gate)), atol=1e-12, rtol=1e-12)


@every_kind
def test_state_after_real_tokens_alone(kind: str) -> None:
    model = small(kind).double()
    ids = torch.randint(0, VOCAB, (5, 70), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([70, 64, 33, 1, 0])
    x = model.embedding(ids)
    _, before = model.body(x[:, :5], Inputs(ids[:, :5]), model.start(5, x), None)
    _, after = model.body(x, Inputs(ids), before, lengths)
    for row, length in enumerate(lengths.tolist()):
        own = tuple(part[row : row + 1] for part in before)
        alone = (
            model.body(x[row : row + 1, :length], Inputs(ids[row : row + 1, :length]), own, None)[1] if length else own
        )
        torch.testing.assert_close(tuple(part[row : row + 1] for part in after), alone, atol=1e-10, rtol=1e-10)


@every_kind
def test_pieces_equal_the_whole(kind: str) -> None:
    model = small(kind).double()
    ids = torch.randint(0, VOCAB, (2, 80), generator=torch.Generator().manual_seed(1))
    cache = model.new_cache(2, 80)
    pieces = [model.step(Inputs(part), cache) for part in torch.split(ids, [33, 1, 32, 1, 13], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model.logits(Inputs(ids)), atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize(("kind", "below"), [("s4d", 1.6), ("selective", 0.5)])
def test_learns_to_repeat(kind: str, below: float) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "context": TOKENS, "layers": 2, "width": 32, "state": 16}
    heads = {"head_size": 16} if kind == "selective" else {}
    assert loss_after_learning(StateSpace.from_config({**sizes, **heads, "kind": kind})) < below


def test_bad_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="width 30 is not a multiple of head_size 64"):
        StateSpaceConfig(width=30)
    with pytest.raises(ValueError, match="convolution 2 is for the kind selective, not for s4d; leave it out"):
        StateSpaceConfig(kind="s4d", convolution=2)
    with pytest.raises(ValueError, match="spectrum inv is for the kind s4d, not for selective; leave it out"):
        StateSpaceConfig(spectrum="inv")
    with pytest.raises(ValueError, match="state 5 must be even for s4d"):
        StateSpaceConfig(kind="s4d", state=5)
    with pytest.raises(ValueError, match="did you mean 'selective'"):
        StateSpace.from_config({"kind": "selectiv"})
