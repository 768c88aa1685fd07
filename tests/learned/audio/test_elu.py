"""The exponential linear unit without gradients, beside torch's."""

import pytest
import torch
import torch.nn.functional as F

from tokenize_kit.tokenizers.learned.audio.networks.activations import Elu

VALUES = torch.cat([torch.logspace(-12, 4, 2001), -torch.logspace(-12, 4, 2001), torch.tensor([0.0, -0.0])])


def test_it_is_torchs_within_the_rounding_of_a_number_near_one():
    x = VALUES.clone()
    with torch.no_grad():
        y = Elu()(x)
    assert torch.equal(x, VALUES)
    assert torch.equal(y[x >= 0], x[x >= 0])
    assert (y.double() - F.elu(x.double())).abs().max() <= 2**-23
    assert y.min() == -1


def test_what_is_no_number_stays_none():
    with torch.no_grad():
        y = Elu()(torch.tensor([float("nan"), float("inf"), float("-inf")]))
    assert y[0].isnan()
    assert y[1:].tolist() == [float("inf"), -1]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_with_gradients_it_is_torchs(kind):
    x = VALUES.to(kind).requires_grad_()
    y = Elu()(x)
    assert torch.equal(y, F.elu(x))
    (gradient,) = torch.autograd.grad(y.float().sum(), x)
    (expected,) = torch.autograd.grad(F.elu(x).float().sum(), x)
    assert torch.equal(gradient, expected)
