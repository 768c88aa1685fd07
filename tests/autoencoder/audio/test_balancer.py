import os
import socket

import pytest
import torch
from torch import distributed, multiprocessing, nn

from trainers.autoencoder.audio.balancer import Balancer, balanced_scales
from trainers.checkpoints import load_module, module_tensors

WEIGHTS = {"mel": 3.0, "waveform": 1.0, "generator": 4.0}
STEPS = 5
LATE = 2
"""The step in which the generator's loss sets in."""


def decoder():
    torch.manual_seed(0)
    return nn.Conv1d(2, 1, 3, padding=1)


def batch(step, size=10):
    return torch.randn(size, 2, 8, generator=torch.Generator().manual_seed(step))


def terms(made, step):
    """Losses whose gradients have very different sizes, which change; each is a sum over sounds."""
    found = {"waveform": 1e-3 * made.abs().mean((1, 2)).sum(), "mel": 50.0 * (step + 1) * made.square().sum()}
    if step >= LATE:
        found["generator"] = made.sin().sum()
    return found


def by_hand(steps, decay, weights=WEIGHTS, size=1.0):
    """The paper's arithmetic in lists: the balanced gradients with respect to what was made, and the averages."""
    network, past, results = decoder(), {name: [] for name in weights}, []
    for step in range(steps):
        made = network(batch(step)).detach().requires_grad_()
        losses = terms(made, step)
        pull = torch.zeros_like(made)
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, made)
            past[name].append(sum(float(one.norm()) for one in gradient) / len(gradient))
            fading = [decay ** (len(past[name]) - 1 - index) for index in range(len(past[name]))]
            average = sum(f * norm for f, norm in zip(fading, past[name], strict=True)) / sum(fading)
            pull += size * weights[name] / sum(weights[other] for other in losses) / average * gradient
        results.append(pull)
    return results


def train(balancer, parts, first=0, steps=STEPS):
    """Balance the losses of each step on the parts of its batch; return the gradients of the decoder summed over the parts."""
    network, results = decoder(), []
    for step in range(first, steps):
        network.zero_grad()
        for part in parts:
            made = network(batch(step)[part])
            balancer(terms(made, step), made).total.backward()
        balancer.update()
        results.append(network.weight.grad.clone())
    return results


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_it_is_the_arithmetic_of_the_paper(decay):
    balancer, network = Balancer(WEIGHTS, size=2.0, decay=decay), decoder()
    for step, expected in enumerate(by_hand(STEPS, decay, size=2.0)):
        made = network(batch(step)).detach().requires_grad_()
        losses = terms(made, step)
        total, scales = balancer(losses, made)
        balancer.update()
        (gradient,) = torch.autograd.grad(total, made)
        assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-6)
        value = sum((scales[name] * loss).item() for name, loss in losses.items())
        assert total.item() == pytest.approx(value, rel=1e-6)
        assert set(scales) == set(losses)


def test_the_total_has_the_gradient_of_the_scaled_losses_in_the_network():
    network, balancer = decoder(), Balancer(WEIGHTS)
    made = network(batch(0))
    losses = terms(made, LATE)
    total, scales = balancer(losses, made)
    expected = torch.autograd.grad(
        sum(scales[name] * losses[name] for name in losses), network.weight, retain_graph=True
    )
    (gradient,) = torch.autograd.grad(total, network.weight)
    assert torch.allclose(gradient, expected[0], rtol=1e-4)


def test_parts_of_the_gradient_are_those_of_the_weights_among_the_losses_that_are_there():
    made = torch.randn(1, 1, 6, requires_grad=True)
    for step, parts in (
        (0, {"mel": 0.75, "waveform": 0.25}),
        (LATE, {"mel": 3 / 8, "waveform": 1 / 8, "generator": 0.5}),
    ):
        losses = terms(made, step)
        scales = Balancer(WEIGHTS)(losses, made).scales
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, made, retain_graph=True)
            assert (scales[name] * gradient).norm().item() == pytest.approx(parts[name], rel=1e-5)


def test_a_factor_changes_a_weight_for_one_step():
    made = torch.randn(2, 1, 6, requires_grad=True)
    losses = terms(made, LATE)
    one = Balancer(WEIGHTS)(losses, made, {"generator": 0.25}).scales
    other = Balancer({**WEIGHTS, "generator": 1.0})(losses, made).scales
    for name in losses:
        assert one[name].item() == pytest.approx(other[name].item(), rel=1e-6)
    without = Balancer(WEIGHTS)(losses, made, {"generator": 0.0})
    rest = Balancer(WEIGHTS)({name: losses[name] for name in ("mel", "waveform")}, made)
    assert without.scales["generator"].item() == 0
    assert torch.allclose(*(torch.autograd.grad(x.total, made)[0] for x in (without, rest)))


def test_a_gradient_that_grows_is_not_scaled_by_what_it_was():
    made = torch.randn(1, 1, 6, requires_grad=True)
    balancer = Balancer({"mel": 1.0})
    for strength in (1e-6, 1.0):
        total = balancer({"mel": strength * made.sum()}, made).total
        balancer.update()
    (gradient,) = torch.autograd.grad(total, made)
    assert gradient.norm().item() < 2.01


def test_a_loss_that_is_missing_keeps_its_average():
    made = torch.randn(3, 1, 6, requires_grad=True)
    balancer = Balancer(WEIGHTS)
    balancer(terms(made, LATE), made)
    balancer.update()
    before = balancer.norm_generator.clone()
    assert before[1].item() == 1
    balancer(terms(made, 0), made)
    balancer.update()
    assert torch.equal(balancer.norm_generator, before)
    assert balancer.norm_mel[1].item() == pytest.approx(1.999)


def test_a_loss_without_a_gradient_counts_nothing():
    made = torch.zeros(2, 1, 6, requires_grad=True)
    total, scales = Balancer(WEIGHTS)({"mel": made.square().sum() + 7, "waveform": made.sum()}, made)
    assert scales["mel"].item() == 0
    assert torch.autograd.grad(total, made)[0].isfinite().all()
    assert balanced_scales({"mel": torch.zeros(())}, WEIGHTS)["mel"].item() == 0


def test_a_broken_gradient_is_not_hidden():
    made = torch.zeros(1, 1, 2, requires_grad=True)
    total = Balancer({"mel": 1.0})({"mel": made.sqrt().sum()}, made).total
    assert not torch.autograd.grad(total, made)[0].isfinite().all()


def test_with_accumulation_the_averages_are_those_of_the_whole_batch():
    whole, parts = Balancer(WEIGHTS, decay=0.9), Balancer(WEIGHTS, decay=0.9)
    train(whole, [slice(None)])
    train(parts, [slice(0, 3), slice(3, 10)])
    for name, buffer in whole.state_dict().items():
        assert torch.allclose(parts.state_dict()[name], buffer, rtol=1e-5)


def test_a_run_that_is_continued_from_its_checkpoint_is_the_same_to_the_bit():
    unbroken = Balancer(WEIGHTS, decay=0.9)
    expected = train(unbroken, [slice(None)])
    first, second = Balancer(WEIGHTS, decay=0.9), Balancer(WEIGHTS, decay=0.9)
    train(first, [slice(None)], steps=3)
    tensors = module_tensors(first)
    assert set(tensors) == {"norm_mel", "norm_waveform", "norm_generator"}
    load_module(second, tensors, "here")
    for one, other in zip(train(second, [slice(None)], first=3), expected[3:], strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(tensor, unbroken.state_dict()[name]) for name, tensor in second.state_dict().items())


def test_what_makes_no_sense_is_refused():
    made = torch.zeros(1, 1, 2, requires_grad=True)
    with pytest.raises(ValueError, match="weights for mel, not for hinge"):
        Balancer({"mel": 1.0})({"mel": made.sum(), "hinge": made.sum()}, made)
    with pytest.raises(ValueError, match="got no loss"):
        Balancer({"mel": 1.0})({}, made)
    with pytest.raises(ValueError, match="must be positive"):
        Balancer({"mel": 0.0})
    with pytest.raises(ValueError, match=r"decay 1\.0"):
        Balancer({"mel": 1.0}, decay=1.0)
    with pytest.raises(RuntimeError, match="without a balanced loss"):
        Balancer({"mel": 1.0}).update()


def work(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    balancer = Balancer(WEIGHTS, decay=0.9)
    # Parts of unequal size.
    gradients = train(balancer, [slice(0, 7) if rank == 0 else slice(7, 10)])
    torch.save((gradients, balancer.state_dict()), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_balance_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (port, str(tmp_path)), nprocs=2)
    (one, state), (other, same) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    balancer = Balancer(WEIGHTS, decay=0.9)
    for first, second, whole in zip(one, other, train(balancer, [slice(None)]), strict=True):
        assert torch.allclose(first + second, whole, rtol=1e-4, atol=1e-6)
    for name, buffer in balancer.state_dict().items():
        assert torch.equal(state[name], same[name])
        assert torch.allclose(state[name], buffer, rtol=1e-5)
