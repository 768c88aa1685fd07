"""Parameter groups, optimisers and schedules."""

from __future__ import annotations

import math

import pytest
import torch

from trainers.autoregressive.models.config import preset
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.transformer import Transformer
from trainers.config import OptimizerConfig
from trainers.memory import keep_freed_memory
from trainers.optim import build_optimizers, learning_rate_factor, set_learning_rate


def small(**values: object) -> Transformer:
    torch.manual_seed(0)
    return Transformer(preset("tiny", vocab_size=20, context=8, layers=2, width=16, heads=2, **values))


def grouped(optimizers: list[torch.optim.Optimizer]) -> list[tuple[str, float, set[int]]]:
    return [
        (type(optimizer).__name__, group["weight_decay"], {id(parameter) for parameter in group["params"]})
        for optimizer in optimizers
        for group in optimizer.param_groups
    ]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_is_in_one_group(kind: str, tied: bool) -> None:
    model = small(tied_head=tied, bias=True)
    config = OptimizerConfig(optimizer=kind, weight_decay=0.3)  # type: ignore[arg-type]
    groups = grouped(build_optimizers(model, config, model.tables()))
    assert sum(len(ids) for _, _, ids in groups) == len(list(model.parameters()))
    where = {identity: (name, decay) for name, decay, ids in groups for identity in ids}
    tables = {id(table) for table in model.tables()}
    for parameter in model.parameters():
        name, decay = where[id(parameter)]
        assert decay == (0.3 if parameter.ndim == 2 else 0)
        muon = kind == "muon" and parameter.ndim == 2 and id(parameter) not in tables
        assert name == ("Muon" if muon else "AdamW")


def test_adamw_step_is_the_formula() -> None:
    model = torch.nn.Linear(3, 2)
    (optimizer,) = build_optimizers(model, OptimizerConfig(learning_rate=0.1, weight_decay=0.5, eps=1e-8))
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    model(torch.tensor([[1.0, -2.0, 3.0]])).sum().backward()
    optimizer.step()
    # In the first step the mean gradient over the root of the mean square is its sign.
    sign = torch.tensor([[1.0, -1.0, 1.0]]).expand(2, 3)
    torch.testing.assert_close(model.weight.detach(), weight * (1 - 0.1 * 0.5) - 0.1 * sign, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.bias.detach(), bias - 0.1, atol=1e-5, rtol=1e-5)


def test_muon_update_is_nearly_orthogonal_and_as_large_as_adamws() -> None:
    model = torch.nn.Linear(32, 64, bias=False)
    (optimizer,) = build_optimizers(model, OptimizerConfig(optimizer="muon", learning_rate=0.1, weight_decay=0))
    before = model.weight.detach().clone()
    torch.manual_seed(0)
    model.weight.grad = torch.randn(64, 32)
    optimizer.step()
    update = (before - model.weight.detach()) / 0.1
    # Five Newton-Schulz steps bring the singular values near 1 (0.7 to 1.2); Moonlight's factor is 0.2 * sqrt(64).
    values = torch.linalg.svdvals(update) / (0.2 * 8)
    assert 0.6 < float(values.min()) < float(values.max()) < 1.3
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2, rel=0.15)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_continued_run_takes_the_same_steps(kind: str) -> None:
    config = OptimizerConfig(optimizer=kind, warmup_steps=2)  # type: ignore[arg-type]
    ids = torch.randint(0, 20, (2, 9), generator=torch.Generator().manual_seed(0))

    def advance(model: Transformer, optimizers: list[torch.optim.Optimizer], steps: range) -> None:
        for step in steps:
            set_learning_rate(optimizers, learning_rate_factor(step, 8, config))
            model.loss(Inputs(ids[:, :-1]), ids[:, 1:]).total.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    whole = small()
    advance(whole, build_optimizers(whole, config, whole.tables()), range(8))
    first = small()
    optimizers = build_optimizers(first, config, first.tables())
    advance(first, optimizers, range(3))
    second = small()
    second.load_state_dict(first.state_dict())
    continued = build_optimizers(second, config, second.tables())
    for old, new in zip(optimizers, continued, strict=True):
        new.load_state_dict(old.state_dict())
    advance(second, continued, range(3, 8))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_warm_up_stable_decay() -> None:
    config = OptimizerConfig(schedule="wsd", warmup_steps=4, decay_fraction=0.25, final_fraction=0.2)
    factors = [learning_rate_factor(step, 20, config) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:15] == [1.0] * 11
    assert factors[15:] == pytest.approx([0.84, 0.68, 0.52, 0.36, 0.2])


def test_cosine() -> None:
    config = OptimizerConfig(schedule="cosine", warmup_steps=2, final_fraction=0.1)
    factors = [learning_rate_factor(step, 13, config) for step in range(13)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[-1] == pytest.approx(0.1)
    assert factors[7] == pytest.approx(0.55)
    expected = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(11)]
    assert factors[2:] == pytest.approx(expected)


def test_constant_and_short_runs() -> None:
    config = OptimizerConfig(schedule="constant", warmup_steps=1000)
    factors = [learning_rate_factor(step, 10, config) for step in range(10)]
    # The warm-up takes at most half of a short run.
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1])
    for schedule in ("wsd", "cosine", "constant"):
        only = OptimizerConfig(schedule=schedule)  # type: ignore[arg-type]
        assert 0 <= learning_rate_factor(0, 1, only) <= 1
    with pytest.raises(ValueError, match="step 10 is not one of the 10 steps"):
        learning_rate_factor(10, 10, config)


def test_learning_rates_follow_their_own_peak() -> None:
    model = small()
    config = OptimizerConfig(optimizer="muon", learning_rate=0.01, muon_learning_rate=0.04)
    optimizers = build_optimizers(model, config, model.tables())
    set_learning_rate(optimizers, 0.5)
    rates = {type(optimizer).__name__: optimizer.param_groups[0]["lr"] for optimizer in optimizers}
    assert rates == {"Muon": 0.02, "AdamW": 0.005}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer 'sgd' is not one of adamw, muon"),
        ({"schedule": "linear"}, "schedule 'linear' is not one of"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 must be positive"),
        ({"beta2": 1.0}, r"beta2 1.0 must be in \[0, 1\)"),
        ({"decay_fraction": 1.5}, "decay_fraction 1.5"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
    ],
)
def test_wrong_options_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**values)  # type: ignore[arg-type]


def test_memory_setting_is_accepted_by_glibc() -> None:
    import platform

    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
