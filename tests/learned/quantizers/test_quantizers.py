"""What every quantizer promises; a new kind is held to it by being registered (and in CONFIGS, if it has variants)."""

import subprocess
import sys
from dataclasses import fields
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokenize_kit.protocol import QUANTIZERS
from tokenize_kit.tokenizers.learned.quantizers import Kind, build_quantizer, register_quantizer
from tokenize_kit.tokenizers.learned.quantizers.config import (
    QuantizerConfig,
    QuantizerKind,
    kind_named,
    quantizer_kinds,
)
from tokenize_kit.tokenizers.learned.quantizers.fsq import FiniteScalarQuantizer

DIM = 6
CONFIGS = {
    **{kind: QuantizerConfig(kind) for kind in quantizer_kinds()},
    "fsq": QuantizerConfig("fsq", levels=(4, 3, 2)),
    "fsq without projection": QuantizerConfig("fsq", levels=(8, 5, 2, 3, 2, 2)),
    "lfq without projection": QuantizerConfig("lfq", codebook_size=64),
    "bsq in groups": QuantizerConfig("bsq", codebook_size=2**20, entropy_group_bits=7),
    "gumbel straight-through": QuantizerConfig("gumbel", codebook_size=32, straight_through=True),
    "simvq narrow": QuantizerConfig("simvq", codebook_size=32, codebook_dim=2, rotation_trick=True),
    "vq small": QuantizerConfig("vq", codebook_size=32, rotation_trick=True),
    "vq LlamaGen": QuantizerConfig(
        "vq", codebook_size=32, codebook_dim=3, l2_normalised=True, codebook_update="gradient"
    ),
    "vq normalised average": QuantizerConfig("vq", codebook_size=32, l2_normalised=True),
    "rvq plain": QuantizerConfig("rvq", codebook_size=16, codebooks=3, quantizer_dropout=0.5),
    "rvq DAC": QuantizerConfig(
        "rvq",
        codebook_size=16,
        codebooks=3,
        codebook_dim=2,
        l2_normalised=True,
        codebook_update="gradient",
        quantizer_dropout=0.5,
    ),
    **{
        f"library {options}": QuantizerConfig(
            "library", library_class=options.split()[0], library_options=tuple(options.split()[1:])
        )
        for options in (
            "VectorQuantize codebook_size=32 kmeans_init=true threshold_ema_dead_code=2 decay=0.9",
            "VectorQuantize codebook_size=32 codebook_dim=3 use_cosine_sim=true orthogonal_reg_weight=1 ema_update=false",
            "VectorQuantize codebook_size=32 learnable_codebook=true ema_update=false stochastic_sample_codes=true",
            "VectorQuantize codebook_size=32 directional_reparam=true threshold_ema_dead_code=1",
            "ResidualVQ num_quantizers=3 codebook_size=16 kmeans_init=true quantize_dropout=true threshold_ema_dead_code=1",
            "ResidualVQ num_quantizers=3 codebook_size=16 shared_codebook=true kmeans_init=true",
            "ResidualVQ num_quantizers=3 codebook_size=16 codebook_dim=4",
            "ResidualVQ num_quantizers=3 codebook_size=16 implicit_neural_codebook=true",
            "ResidualVQ num_quantizers=3 codebook_size=16 beam_size=3 eval_beam_size=2",
            "GroupedResidualVQ groups=2 num_quantizers=3 codebook_size=16 kmeans_init=true quantize_dropout=true",
            "SimVQ codebook_size=20",
            "SimVQ codebook_size=32 frozen_codebook_dim=3 rotation_trick=false",
            "ResidualSimVQ num_quantizers=3 codebook_size=16 quantize_dropout=true",
            "FSQ levels=8,5,3",
            "FSQ levels=4,3,2,2,2,2 preserve_symmetry=true orthogonal_rotation=true",
            "ResidualFSQ num_quantizers=3 levels=5,5,3 quantize_dropout=true",
            "GroupedResidualFSQ groups=2 num_quantizers=2 levels=5,5,3",
            "LFQ codebook_size=64",
            "LFQ codebook_size=32 spherical=true commitment_loss_weight=0.25 frac_per_sample_entropy=0.5",
            "ResidualLFQ num_quantizers=3 codebook_size=16 quantize_dropout=true",
            "GroupedResidualLFQ groups=3 num_quantizers=2 codebook_size=16",
        )
    },
}


def latents(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def trained(config, dim=DIM, steps=3):
    """A quantizer that has been through its start and a few updates, in training mode."""
    torch.manual_seed(0)
    quantizer = build_quantizer(config, dim)
    for step in range(steps):
        quantizer(latents(16, dim, 4, 5, seed=step))
    return quantizer


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def test_every_kind_of_the_type_is_registered():
    assert set(get_args(QuantizerKind)) == set(quantizer_kinds())


def test_every_option_belongs_to_a_kind():
    used = {name for kind in quantizer_kinds() for name in kind_named(kind).options}
    assert used == {field.name for field in fields(QuantizerConfig)} - {"kind"}


def test_options_load_no_torch():
    code = "import sys, tokenize_kit.tokenizers.learned.quantizers.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "vg"}, "'vg' is not one of vq, simvq"),
        (
            {"kind": "fsq", "codebook_size": 8},
            "codebook_size 8 is not an option of the quantizer fsq; it is for vq, simvq",
        ),
        ({"kind": "vq", "levels": (8, 5)}, r"levels \(8, 5\) is not an option of the quantizer vq; it is for fsq"),
        ({"kind": "vq", "codebooks": 2}, "it is for rvq"),
        ({"kind": "simvq", "kmeans_init": False}, "it is for vq, rvq"),
        ({"kind": "vq", "straight_through": False}, "it is for gumbel"),
        ({"kind": "bsq", "codebook_size": 1000}, "1000 is not a power of two"),
        ({"kind": "fsq", "levels": (8, 1)}, "at least 2"),
        ({"kind": "vq", "codebook_size": 1}, "codebook_size 1 must be at least 2"),
        ({"kind": "vq", "ema_decay": 1.0}, r"ema_decay 1.0 must be in \[0, 1\)"),
        ({"kind": "vq", "ema_decay": 0.9, "codebook_update": "gradient"}, "ema_decay 0.9 is for codebook_update 'ema'"),
        ({"kind": "rvq", "l2_normalised": True}, "needs a codebook_dim"),
        ({"kind": "rvq", "quantizer_dropout": 1.5}, r"quantizer_dropout 1.5 must be in \[0, 1\]"),
        ({"kind": "lfq", "entropy_temperature": 0.0}, "entropy_temperature 0.0 must be positive"),
        ({"kind": "vq", "codebook_update": "sgd"}, "'sgd' is not one of ema, gradient"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        QuantizerConfig(**options)


@pytest.mark.parametrize("training", [True, False])
def test_shapes_and_types(config, training):
    quantizer = trained(config).train(training)
    codes, ids, losses = quantizer(latents(2, DIM, 4, 3))
    axis = (len(quantizer.codebook_sizes),) if quantizer.codebook_axis else ()
    assert codes.shape == (2, DIM, 4, 3)
    assert codes.dtype == torch.float32
    assert ids.shape == (2, 4, 3, *axis)
    assert ids.dtype == torch.int64
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    assert set(losses) <= {"commitment", "codebook", "entropy", "kl", "library"}


def test_any_number_of_axes(config):
    quantizer = trained(config).eval()
    flat = latents(2, DIM, 24)
    for shape in ((24,), (4, 6), (2, 3, 4)):
        ids = quantizer.encode(flat.view(2, DIM, *shape))
        assert ids.shape[: 1 + len(shape)] == (2, *shape)
        assert torch.equal(ids.reshape(2, 24, *ids.shape[1 + len(shape) :]), quantizer.encode(flat))
        assert quantizer.decode(ids).shape == (2, DIM, *shape)


def test_encode_is_forward_and_decode_is_its_inverse(config):
    quantizer = trained(config).eval()
    for shape in ((3, DIM, 4, 5), (1, DIM, 1, 2), (2, DIM, 40, 30)):
        z = latents(*shape, seed=5)
        codes, ids, _ = quantizer(z)
        assert torch.equal(quantizer.encode(z), ids)
        assert torch.equal(quantizer.decode(ids), codes)


def test_ids_do_not_depend_on_batch_mates(config):
    quantizer = trained(config).eval()
    z = latents(40, DIM, 1, 3, seed=6)
    together = quantizer.encode(z)
    assert torch.equal(torch.cat([quantizer.encode(part) for part in z.split(1)]), together)
    assert torch.equal(torch.cat([quantizer(part).ids for part in z.split(1)]), together)


def test_memory_layout_does_not_matter(config):
    quantizer = trained(config).eval()
    z = latents(4, DIM, 5, 6)
    assert torch.equal(quantizer.encode(z.to(memory_format=torch.channels_last)), quantizer.encode(z))


def test_bfloat16_around_it_changes_nothing(config):
    quantizer = trained(config).eval()
    z = latents(8, DIM, 8, 8)
    plain = quantizer(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = quantizer(z)
        ids = quantizer.encode(z)
        decoded = quantizer.decode(ids)
    assert torch.equal(inside.ids, plain.ids)
    assert torch.equal(ids, plain.ids)
    assert torch.equal(inside.codes, plain.codes)
    assert torch.equal(decoded, plain.codes)


def test_evaluation_changes_no_state_and_is_deterministic(config):
    quantizer = trained(config).eval()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    random = torch.get_rng_state()
    first, second = (quantizer(latents(4, DIM, 5, 6)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(first.codes, second.codes)
    assert all(torch.equal(quantizer.state_dict()[name], tensor) for name, tensor in before.items())


def test_resumed_training_goes_on_to_the_bit(config, tmp_path):
    def step(quantizer, number):
        torch.manual_seed(number)
        quantizer.anneal(number / 10)
        codes, ids, losses = quantizer(latents(16, DIM, 4, 5, seed=number))
        return codes, ids, *losses.values()

    whole = trained(config)
    save_file(whole.state_dict(), tmp_path / "quantizer.safetensors")
    torch.manual_seed(99)
    resumed = build_quantizer(config, DIM)
    resumed.load_state_dict(load_file(tmp_path / "quantizer.safetensors"), strict=True)
    for number in range(3, 6):
        for one, other in zip(step(whole, number), step(resumed, number), strict=True):
            assert torch.equal(one, other)
    assert all(torch.equal(whole.state_dict()[name], tensor) for name, tensor in resumed.state_dict().items())


def test_the_decoders_gradient_reaches_every_latent(config):
    quantizer = trained(config)
    z = latents(4, DIM, 4, 5).requires_grad_()
    (quantizer(z).codes * latents(4, DIM, 4, 5, seed=7)).sum().backward()
    assert z.grad.isfinite().all()
    assert (z.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("z", [0.0, 1e4, -1e4, 1e-8])
def test_extreme_latents_give_finite_numbers(config, z):
    quantizer = trained(config)
    values = torch.full((4, DIM, 4, 5), z, requires_grad=True)
    codes, ids, losses = quantizer(values)
    (codes.mean() + sum(losses.values())).backward()
    assert codes.isfinite().all()
    assert values.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in quantizer.parameters())
    assert ids.min() >= 0
    assert ids.max() < quantizer.codebook_sizes[0]


def test_no_tokens_give_no_ids(config):
    quantizer = trained(config).eval()
    ids = quantizer.encode(torch.zeros(0, DIM, 4, 5))
    assert ids.shape[:3] == (0, 4, 5)
    assert quantizer.decode(ids).shape == (0, DIM, 4, 5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_encode_refuses_latents_that_are_not_finite(config, bad):
    z = latents(1, DIM, 2, 2)
    z[0, 1, 1, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        trained(config).eval().encode(z)


def test_latents_of_another_width_are_refused(config):
    with pytest.raises(ValueError, match=rf"\(2, 7, 3\): the quantizer expects \(batch, {DIM}, ...\)"):
        trained(config)(latents(2, 7, 3))


def test_ids_out_of_range_are_refused(config):
    quantizer = trained(config).eval()
    ids = quantizer.encode(latents(1, DIM, 2, 2))
    size = quantizer.codebook_sizes[0]
    for wrong in (-1, size):
        broken = ids.clone()
        broken.view(-1)[1] = wrong
        with pytest.raises(ValueError, match=rf"id {wrong} is not in 0\.\.{size - 1}"):
            quantizer.decode(broken)
    with pytest.raises(ValueError, match="whole numbers"):
        quantizer.decode(ids.float())


def test_every_id_decodes_to_a_code_of_its_own(config):
    quantizer = trained(config).eval()
    count = min(quantizer.codebook_sizes[0], 512)
    ids = torch.arange(count).view(1, count)
    if quantizer.codebook_axis:
        ids = ids[..., None].expand(1, count, len(quantizer.codebook_sizes))
    assert len(quantizer.decode(ids).detach()[0].t().unique(dim=0)) == count


def test_a_package_can_bring_a_kind(monkeypatch):
    monkeypatch.setattr(QUANTIZERS, "_registered", {})
    register_quantizer("mine", Kind(f"{FiniteScalarQuantizer.__module__}:FiniteScalarQuantizer", {"levels": (3, 2)}))
    assert quantizer_kinds()[-1] == "mine"
    assert build_quantizer(QuantizerConfig("mine"), DIM).codebook_sizes == (6,)
    with pytest.raises(ValueError, match="codebooks 2 is not an option of the quantizer mine; it is for rvq"):
        QuantizerConfig("mine", codebooks=2)
    with pytest.raises(ValueError, match=r"levels \(2, 2\) is not an option of the quantizer vq; it is for fsq, mine"):
        QuantizerConfig("vq", levels=(2, 2))
    with pytest.raises(ValueError, match="a quantizer named 'vq' is already registered"):
        register_quantizer("vq", kind_named("fsq"))
