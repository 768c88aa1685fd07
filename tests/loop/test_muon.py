"""Muon against torch's own on matrices, convolutions against the matrices that they are, and its state in checkpoints."""

import copy

import pytest
import torch
from torch import nn

from trainers.checkpoints import load_optimizer, optimizer_tensors
from trainers.config import OptimizerConfig
from trainers.muon import Muon, orthogonal
from trainers.optim import build_optimizers

SHAPES = [(12, 12), (6, 20), (20, 6), (6, 20), (1, 9), (9, 1)]


def parameters(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train(optimizer, weights, steps, first=0):
    """Make steps with gradients that depend on the number of the step alone; sizes from tiny to large."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(100 + step)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator) * 10.0 ** (step % 5 - 3)
        optimizer.step()


def test_it_equals_that_of_torch_on_matrices(monkeypatch):
    monkeypatch.setattr("trainers.muon.has_bfloat16", lambda device: True)
    ours, theirs = parameters(SHAPES), parameters(SHAPES)
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}
    train(Muon(ours, **options), ours, 8)
    train(torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **options), theirs, 8)
    for one, other, start in zip(ours, theirs, parameters(SHAPES), strict=True):
        assert torch.allclose(one, other, atol=1e-5), tuple(one.shape)
        assert float((one - start).detach().square().mean()) ** 0.5 > 0.01, "the steps are not lost in the tolerance"


def test_float32_gives_nearly_the_update_of_bfloat16(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    gradient = torch.randn(24, 40, generator=generator)
    updates = []
    for native in (True, False):
        monkeypatch.setattr("trainers.muon.has_bfloat16", lambda device, native=native: native)
        (update,) = orthogonal([gradient])
        assert update.dtype == torch.float32
        updates.append(update)
    assert 0 < float((updates[0] - updates[1]).abs().max()) < 0.02


def test_the_update_has_singular_values_near_one_whatever_the_gradient():
    generator = torch.Generator().manual_seed(1)
    for rows, columns in [(16, 16), (8, 40), (40, 8)]:
        gradient = torch.randn(rows, columns, generator=generator)
        for scale in (1e-4, 1.0, 1e5):
            values = torch.linalg.svdvals(orthogonal([gradient * scale])[0])
            # Jordan's quintic ends between 0.7 and 1.2 for values that were not tiny; (16, 16) has tiny ones.
            assert float(values.max()) < 1.3
            assert float(values.median()) > 0.6
    assert torch.equal(orthogonal([torch.zeros(3, 4)]), torch.zeros(1, 3, 4)), "no NaN from a gradient of zero"


def test_a_convolution_is_the_matrix_of_its_outputs_by_the_rest():
    shape = (6, 5, 3, 3)
    (convolution,), (matrix,) = parameters([shape]), parameters([shape])
    flat = nn.Parameter(matrix.detach().flatten(1).clone())
    lasting = nn.Parameter(convolution.detach().clone().contiguous(memory_format=torch.channels_last))
    options = {"lr": 0.02, "weight_decay": 0.1}
    optimizers = [Muon([weight], **options) for weight in (convolution, flat, lasting)]
    for step in range(4):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        convolution.grad, flat.grad = gradient, gradient.flatten(1)
        lasting.grad = gradient.contiguous(memory_format=torch.channels_last)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(convolution.flatten(1), flat)
    # The layout in memory is kept and does not matter.
    assert lasting.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(lasting, convolution)


def test_several_of_one_shape_together_are_as_one_by_one():
    shapes = [(8, 12), (8, 3, 2, 2), (8, 12), (5, 5)]
    together, alone = parameters(shapes), parameters(shapes)
    train(Muon(together, lr=0.02, weight_decay=0.1), together, 1)
    for number, weight in enumerate(alone):
        generator = torch.Generator().manual_seed(100)
        gradients = [torch.randn(other.shape, generator=generator) * 1e-3 for other in alone]
        weight.grad = gradients[number]
        Muon([weight], lr=0.02, weight_decay=0.1).step()
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_a_parameter_without_a_gradient_stays_as_it_is():
    moved, resting = parameters([(4, 4), (4, 4)])
    before = resting.detach().clone()
    moved.grad = torch.ones(4, 4)
    optimizer = Muon([moved, resting], lr=0.1, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(resting, before)
    assert resting not in optimizer.state


def test_the_state_survives_a_checkpoint_to_the_bit():
    shapes = [(6, 8), (6, 2, 2, 2), (6, 8)]
    whole, parts = parameters(shapes), parameters(shapes)
    for weights in (whole, parts):
        weights[1].data = weights[1].data.contiguous(memory_format=torch.channels_last)
    options = {"lr": 0.02, "weight_decay": 0.1}
    train(Muon(whole, **options), whole, 6)
    first = Muon(parts, **options)
    train(first, parts, 3)
    tensors = {name: value.clone() for name, value in optimizer_tensors(first).items()}
    assert sorted(tensors) == ["0.momentum_buffer", "1.momentum_buffer", "2.momentum_buffer"]
    second = Muon(parts, **options)
    load_optimizer(second, tensors)
    train(second, parts, 3, first=3)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    fresh = copy.deepcopy(parameters(shapes))
    train(Muon(fresh, **options), fresh, 3)
    train(Muon(fresh, **options), fresh, 3, first=3)
    assert not torch.equal(fresh[0], whole[0]), "forgetting the state would show"


def test_vectors_are_refused_and_left_to_adamw_when_optimisers_are_built():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1, weight_decay=0.0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1), nn.Linear(5, 2))
    muon, adamw = build_optimizers(model, OptimizerConfig(optimizer="muon"), model[2].parameters())
    assert [tuple(p.shape) for group in muon.param_groups for p in group["params"]] == [(4, 3, 3, 3), (5, 4, 1, 1)]
    held = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert held == {id(p) for p in (model[0].bias, model[1].bias, model[2].weight, model[2].bias)}
