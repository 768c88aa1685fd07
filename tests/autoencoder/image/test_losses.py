import math

import pytest
import torch
from torch import nn

from trainers.autoencoder.losses import (
    LogitAverages,
    adaptive_weight,
    annealed,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    l1,
    l2,
    lecam,
    move_average,
    non_saturating_discriminator,
    non_saturating_generator,
    ramp,
)
from trainers.checkpoints import load_module, module_tensors

# Two pictures of two patches each.
REAL = torch.tensor([[2.0, 0.5], [-1.0, 3.0]]).view(2, 1, 1, 2)
FAKE = torch.tensor([[-2.0, 0.0], [0.5, -0.5]]).view(2, 1, 1, 2)


def close(one, other):
    assert float(one) == pytest.approx(other, rel=1e-6)


def softplus(value):
    return math.log1p(math.exp(value))


def test_reconstruction_errors_are_sums_over_pictures_of_means_over_pixels():
    made, real = torch.tensor([[1.0, 2.0], [0.0, 4.0]]).view(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    close(l1(made, real), (1 + 2) / 2 + (0 + 4) / 2)
    close(l2(made, real), (1 + 4) / 2 + (0 + 16) / 2)


def test_bfloat16_pictures_are_compared_in_float32():
    made, real = torch.full((1, 1, 1, 300), 1.0, dtype=torch.bfloat16), torch.full((1, 1, 1, 300), 0.5)
    assert l1(made, real).dtype == torch.float32
    close(l2(made, real), 0.25)


def test_hinge():
    # 1 - real, clipped: 0, 0.5 | 2, 0; 1 + fake, clipped: 0, 1 | 1.5, 0.5.
    close(hinge_discriminator(REAL, FAKE), 0.5 * ((0.25 + 1.0) + (0.5 + 1.0)))
    close(hinge_generator(FAKE), 1.0 + 0.0)


def test_non_saturating():
    real = (softplus(-2) + softplus(-0.5)) / 2 + (softplus(1) + softplus(-3)) / 2
    fake = (softplus(-2) + softplus(0)) / 2 + (softplus(0.5) + softplus(-0.5)) / 2
    close(non_saturating_discriminator(REAL, FAKE), real + fake)
    close(non_saturating_generator(FAKE), (softplus(2) + softplus(0)) / 2 + (softplus(-0.5) + softplus(0.5)) / 2)


def test_lecam_holds_each_side_near_the_past_of_the_other():
    # real - (-0.25), clipped: 2.25, 0.75 | 0, 3.25; 1.0 - fake: 3, 1 | 0.5, 1.5.
    expected = (2.25**2 + 0.75**2 + 0 + 3.25**2) / 2 + (3**2 + 1**2 + 0.5**2 + 1.5**2) / 2
    close(lecam(REAL, FAKE, torch.tensor(1.0), torch.tensor(-0.25)), expected)


def test_the_moving_averages_of_lecam_move_once_a_step_over_all_its_batches():
    averages = LogitAverages(decay=0.9)
    averages.observe(REAL[:1], FAKE[:1])
    averages.observe(torch.full((2, 1, 1, 2), 5.0), torch.full((2, 1, 1, 2), -1.0))
    assert float(averages.real) == 0
    averages.update()
    close(averages.real, 0.1 * (1.25 + 5 + 5) / 3)
    close(averages.fake, 0.1 * (-1 - 1 - 1) / 3)
    averages.observe(REAL, FAKE)
    averages.update()
    close(averages.real, 0.9 * 0.1 * 11.25 / 3 + 0.1 * 1.125)
    with pytest.raises(RuntimeError, match="observe"):
        averages.update()
    close(move_average(torch.tensor(2.0), torch.tensor(4.0), 0.75), 2.5)


def test_the_moving_averages_are_in_a_checkpoint_and_loaded_by_equal_names():
    averages, other = LogitAverages(), LogitAverages()
    averages.observe(REAL, FAKE)
    averages.update()
    tensors = module_tensors(averages)
    assert set(tensors) == {"real", "fake"}
    load_module(other, tensors, "here")
    assert torch.equal(other.real, averages.real)
    assert float(other.real) != 0
    with pytest.raises(ValueError, match="lacks the tensor 'fake'"):
        load_module(other, {"real": tensors["real"]}, "here")


def test_adaptive_weight_is_the_quotient_of_the_gradients_of_the_means():
    torch.manual_seed(0)
    layer, inputs = nn.Linear(3, 2), torch.randn(5, 3)
    out = layer(inputs)
    reconstruction, generator = out.square().sum(), -0.01 * out.sum()
    weight = adaptive_weight(reconstruction, generator, layer.weight, 5)
    # d sum(out²) = 2 outᵀ x, d(-0.01 sum(out)) = -0.01 · 1ᵀ x; both divided by the five pictures.
    one = (2 * out.detach().T @ inputs / 5).norm()
    other = (-0.01 * torch.ones(2, 5) @ inputs / 5).norm()
    close(weight, float(one / (other + 1e-4)))
    assert not weight.requires_grad
    assert layer.weight.grad is None
    (reconstruction + weight * generator).backward()
    assert layer.weight.grad is not None


def test_adaptive_weight_is_bounded():
    layer = nn.Linear(1, 1)
    nn.init.ones_(layer.weight)
    out = layer(torch.ones(1, 1))
    close(adaptive_weight(1e6 * out.sum(), 0.0 * out.sum(), layer.weight, 1), 1e4)


def test_feature_matching():
    real = [torch.tensor([[1.0, -3.0], [0.0, 0.0]]).view(2, 1, 1, 2), torch.full((2, 1, 2, 2), 4.0)]
    made = [torch.tensor([[2.0, -3.0], [0.5, 0.0]]).view(2, 1, 1, 2), torch.full((2, 1, 2, 2), 5.0)]
    # First layer: a picture with error 0.5 and size 2, a silent one with error 0.25 over the floor; second: 1 over 4, twice.
    first, second = 0.5 / 2 + 0.25 / 0.1, 2 * 1 / 4
    close(feature_matching(made, real, floor=0.1), (first + second) / 2)


def test_gradients_go_where_they_should():
    def leaf():
        return torch.randn(2, 1, 3, 3, requires_grad=True)

    real, fake, real_average, fake_average = leaf(), leaf(), torch.ones((), requires_grad=True), torch.zeros(())
    lecam(real, fake, real_average, fake_average).backward()
    assert real_average.grad is None
    assert real.grad is not None
    made, goal = leaf(), leaf()
    feature_matching([made], [goal]).backward()
    assert goal.grad is None
    assert made.grad.abs().sum() > 0


def test_losses_of_parts_add_up_to_that_of_the_batch():
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(5, 1, 3, 3, generator=generator) for _ in range(2))
    for loss in (
        l1,
        l2,
        hinge_discriminator,
        non_saturating_discriminator,
        lambda a, b: hinge_generator(b),
        lambda a, b: non_saturating_generator(b),
        lambda a, b: lecam(a, b, torch.tensor(0.3), torch.tensor(-0.1)),
        lambda a, b: feature_matching([a], [b]),
    ):
        assert torch.allclose(loss(real, fake), loss(real[:2], fake[:2]) + loss(real[2:], fake[2:]))


def test_ramp_starts_late_and_rises_in_a_line():
    assert [ramp(step, 3, 4) for step in range(9)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [ramp(step, 2, 0) for step in range(4)] == [0, 0, 1, 1]
    assert ramp(0, 0, 0) == 1


def test_the_entropy_loss_is_stronger_at_first():
    assert [annealed(step, 2.0, 4) for step in range(6)] == [2, 1.75, 1.5, 1.25, 1, 1]
    assert annealed(0, 3.0, 2000) == 3
    assert annealed(0, 3.0, 0) == 1
