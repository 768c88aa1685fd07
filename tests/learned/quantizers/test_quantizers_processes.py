"""Two processes with half a batch each learn the codebook that one process learns from the whole batch."""

import os

import pytest
import torch
from torch import distributed, multiprocessing

from tokenize_kit.tokenizers.learned.quantizers import QuantizerConfig, build_quantizer

CONFIGS = {
    "vq": QuantizerConfig("vq", codebook_size=12),
    "vq normalised": QuantizerConfig("vq", codebook_size=12, l2_normalised=True),
    "vq gradient": QuantizerConfig("vq", codebook_size=12, codebook_update="gradient"),
    "rvq": QuantizerConfig("rvq", codebook_size=6, codebooks=2),
    "lfq": QuantizerConfig("lfq", codebook_size=16, entropy_temperature=0.5),
    **{
        f"library {options}": QuantizerConfig(
            "library", library_class=options.split()[0], library_options=tuple(options.split()[1:])
        )
        for options in (
            "VectorQuantize codebook_size=12",
            "VectorQuantize codebook_size=12 use_cosine_sim=true rotation_trick=false",
            "ResidualVQ num_quantizers=2 codebook_size=6",
            "GroupedResidualVQ groups=2 num_quantizers=2 codebook_size=6",
        )
    },
}
DRAWN = {
    f"library {options}": QuantizerConfig(
        "library", library_class=options.split()[0], library_options=tuple(options.split()[1:])
    )
    for options in (
        "VectorQuantize codebook_size=12 kmeans_init=true threshold_ema_dead_code=2",
        "ResidualVQ num_quantizers=3 codebook_size=6 kmeans_init=true threshold_ema_dead_code=2 quantize_dropout=true",
        "GroupedResidualVQ groups=2 num_quantizers=2 codebook_size=6 kmeans_init=true threshold_ema_dead_code=2",
    )
}
"""Where the library draws otherwise from two processes than from one: the two must agree all the same."""
STEPS = 4


def batch(step):
    return torch.randn(10, 4, 6, generator=torch.Generator().manual_seed(step))


def run(config, part, rank=0):
    """Train for a few steps on a part of each batch; codes die on the way. Returns the state and the gradient of z."""
    torch.manual_seed(0)
    quantizer = build_quantizer(config, 4)
    gradients = []
    for step in range(STEPS):
        if step == 2:
            for name, buffer in quantizer.named_buffers():
                if name.endswith("shares"):
                    buffer[:2] = 0.0
        # As in training, every process draws its own numbers.
        torch.manual_seed(step + 100 * rank)
        z = batch(step)[part].requires_grad_()
        losses = quantizer(z).losses
        loss = next(losses[kind] for kind in ("entropy", "commitment", "library") if kind in losses)
        gradients.append(torch.autograd.grad(loss, z)[0])
    return dict(quantizer.state_dict()), gradients


def work(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    # Parts of unequal size.
    part = slice(0, 7) if rank == 0 else slice(7, 10)
    torch.save({name: run(config, part, rank) for name, config in {**CONFIGS, **DRAWN}.items()}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_learn_what_one_does(two_processes, name):
    state, _ = run(CONFIGS[name], slice(None))
    first, second = (results[name][0] for results in two_processes)
    assert set(state) == set(first)
    for key, tensor in state.items():
        assert torch.equal(first[key], second[key]), key
        assert torch.allclose(first[key], tensor, atol=1e-6), key


def test_the_gradient_of_the_batch_entropy_is_that_of_the_joint_batch(two_processes):
    _, whole = run(CONFIGS["lfq"], slice(None))
    for step in range(STEPS):
        # Gradients are averaged over processes by their size: 7 and 3 of 10.
        joint = torch.cat([two_processes[0]["lfq"][1][step] * 0.7, two_processes[1]["lfq"][1][step] * 0.3])
        assert torch.allclose(joint, whole[step], atol=1e-6)


@pytest.mark.parametrize("name", DRAWN)
def test_two_processes_agree_on_what_the_library_draws(two_processes, name):
    first, second = (results[name][0] for results in two_processes)
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key
    started = [tensor for key, tensor in first.items() if key.endswith("initted")]
    assert started
    assert all(started)
