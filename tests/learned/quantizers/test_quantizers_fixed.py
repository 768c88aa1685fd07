"""Quantizers without a codebook to search: levels, signs, categories."""

import math

import pytest
import torch
from vector_quantize_pytorch import FSQ, LFQ

from tokenize_kit.tokenizers.learned.quantizers import QuantizerConfig, build_quantizer
from tokenize_kit.tokenizers.learned.quantizers.lfq import batch_entropy, bits_entropy, entropy_loss


def latents(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(kind, dim=4, **options):
    torch.manual_seed(0)
    return build_quantizer(QuantizerConfig(kind, **options), dim)


# ---- fsq


@pytest.mark.parametrize("levels", range(2, 9))
def test_every_level_is_reachable_and_none_else(levels):
    quantizer = built("fsq", dim=2, levels=(levels, 3)).eval()
    line = torch.linspace(-9, 9, 4001)
    ids = quantizer.encode(torch.stack([line, torch.zeros_like(line)])[None])[0] % levels
    assert ids.unique().tolist() == list(range(levels))
    assert (ids.diff() >= 0).all()
    # Zero is in the middle: the levels around it, and as many levels below as above, or one more below.
    middle = int(quantizer.encode(torch.tensor([[[1e-3], [0.0]]]))) % levels
    assert middle == levels // 2


@pytest.mark.parametrize("levels", [(2, 3, 4, 5), (6, 7, 8), (8, 2)])
def test_all_ids_come_back_from_their_codes(levels):
    quantizer = built("fsq", dim=len(levels), levels=levels).eval()
    ids = torch.arange(math.prod(levels))[None]
    codes = quantizer.decode(ids)
    assert len(codes[0].t().unique(dim=0)) == math.prod(levels)
    steps = codes[0].t() * (torch.tensor(levels) // 2)
    assert torch.equal(steps, steps.round())
    assert torch.equal(quantizer._ids(steps)[None], ids)


def test_ids_of_a_large_codebook_are_exact():
    # 2^40 codes: float32 holds whole numbers up to 2^24 only, bfloat16 up to 2^8.
    quantizer = built("fsq", dim=20, levels=(4,) * 20).eval()
    z = latents(1, 20, 1000) * 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes, ids, _ = quantizer(z)
        again = quantizer.decode(ids)
    assert ids.max() > 2**38
    assert torch.equal(again, codes)
    digits = (codes[0].t() * 2 + 2).long()
    assert ids[0].tolist() == [sum(int(d) * 4**place for place, d in enumerate(row)) for row in digits]


def test_half_precision_latents_are_quantized_in_float32():
    quantizer = built("fsq", dim=5, levels=(7, 5, 5, 5, 5)).eval()
    z = latents(4, 5, 200).bfloat16()
    assert torch.equal(quantizer.encode(z), quantizer.encode(z.float()))
    assert quantizer(z).codes.dtype == torch.float32


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 4, 6, 7)])
def test_fsq_equals_the_reference(levels):
    ours, theirs = built("fsq", dim=4, levels=levels), FSQ(list(levels))
    z = (latents(2, 4, 300) * 2).requires_grad_()
    their_codes, their_ids = theirs(z.mT)
    codes, ids, losses = ours(z)
    assert torch.equal(ids, their_ids.long())
    assert torch.allclose(codes.mT, their_codes)
    assert losses == {}
    weights = latents(2, 4, 300, seed=1)
    gradients = [torch.autograd.grad((out * weights).sum(), z)[0] for out in (codes, their_codes.mT)]
    assert torch.allclose(*gradients, atol=1e-6)


# ---- lfq, bsq


def all_codes(bits, scale=1.0):
    return ((torch.arange(1 << bits)[:, None] >> torch.arange(bits - 1, -1, -1)) & 1).double() * 2 * scale - scale


@pytest.mark.parametrize("bits", [1, 2, 5, 6])
def test_entropies_equal_brute_force_over_all_codes(bits):
    values = latents(40, bits).double() * 0.1
    shares = (2 * values @ all_codes(bits).t() / 0.3).softmax(1)
    each = -(shares * shares.log()).sum(1).mean()
    mean = shares.mean(0)
    together = -(mean * mean.log()).sum()
    logits = 4 * values / 0.3
    assert torch.allclose(bits_entropy(logits.float()).double(), each, rtol=1e-5)
    assert torch.allclose(batch_entropy(logits.float()).double(), together, rtol=1e-5)
    assert torch.allclose(entropy_loss(logits.float(), [bits]).double(), each - together, atol=1e-5)


def test_the_entropy_of_the_batch_is_not_the_sum_over_bits():
    # Two codes that differ in both bits: one bit of entropy, where the bits on their own have one each.
    logits = torch.tensor([[20.0, 20.0], [-20.0, -20.0]])
    assert math.isclose(float(batch_entropy(logits)), math.log(2), rel_tol=1e-5)
    assert math.isclose(float(-entropy_loss(logits, [1, 1])), 2 * math.log(2), rel_tol=1e-5)
    assert abs(float(bits_entropy(logits))) < 1e-6


@pytest.mark.parametrize("kind", ["lfq", "bsq"])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_lfq_and_bsq_equal_the_reference(kind, temperature):
    ours = built(kind, dim=6, codebook_size=64, entropy_temperature=temperature)
    theirs = LFQ(dim=6, codebook_size=64, spherical=kind == "bsq", commitment_loss_weight=1.0)
    z = (latents(2, 6, 50) * 0.3).requires_grad_()
    codes, ids, losses = ours(z)
    result, parts = theirs(z.mT, inv_temperature=1 / temperature, return_loss_breakdown=True)
    assert torch.equal(ids, result.indices.long())
    assert torch.allclose(codes.mT, result.quantized, atol=1e-6)
    assert torch.allclose(losses["commitment"], parts.commitment)
    entropy = parts.per_sample_entropy - parts.batch_entropy
    assert torch.allclose(losses["entropy"], entropy, atol=2e-3)
    gradients = [torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in (losses["entropy"], entropy)]
    assert torch.allclose(*gradients, atol=1e-3 * float(gradients[0].abs().max()))


def test_groups_divide_the_bits_evenly_and_bound_the_entropy():
    z = latents(4, 10, 50)
    losses = {
        limit: float(
            built("lfq", dim=10, codebook_size=1024, entropy_group_bits=limit, entropy_temperature=1.0)(z).losses[
                "entropy"
            ]
        )
        for limit in (10, 7, 1)
    }
    assert built("lfq", dim=10, codebook_size=1024, entropy_group_bits=7)._groups == [5, 5]
    assert built("lfq", dim=10, codebook_size=1024, entropy_group_bits=4)._groups == [3, 3, 4]
    # A larger batch entropy is a lower loss.
    assert losses[10] > losses[7] > losses[1]


def test_entropy_loss_spreads_the_codes_and_sharpens_them():
    z = torch.nn.Parameter(latents(1, 6, 512) * 0.02 + 0.05)
    quantizer = built("lfq", dim=6, codebook_size=64, entropy_temperature=0.3)
    optimizer = torch.optim.Adam([z], lr=0.02)
    before = len(quantizer(z).ids.unique())
    for _ in range(150):
        optimizer.zero_grad()
        quantizer(z).losses["entropy"].backward()
        optimizer.step()
    loss = quantizer(z).losses["entropy"]
    assert before < 16
    assert len(quantizer(z).ids.unique()) == 64
    assert loss < -0.9 * math.log(64)


def test_bsq_codes_have_length_one():
    quantizer = built("bsq", dim=6, codebook_size=64).eval()
    lengths = quantizer.decode(torch.arange(64)[None])[0].norm(dim=0)
    assert torch.allclose(lengths, torch.ones(64))


@pytest.mark.parametrize("kind", ["lfq", "bsq"])
def test_commitment_of_signs_reaches_the_latents(kind):
    z = latents(2, 6, 9).requires_grad_()
    quantizer = built(kind, dim=6, codebook_size=64)
    codes, _, losses = quantizer(z)
    values = z / z.norm(dim=1, keepdim=True) if kind == "bsq" else z
    expected = torch.autograd.grad((values - codes.detach()).square().mean(), z, retain_graph=True)[0]
    assert torch.allclose(torch.autograd.grad(losses["commitment"], z)[0], expected, atol=1e-7)


# ---- gumbel


def test_temperature_follows_a_cosine_from_start_to_end():
    quantizer = built("gumbel", codebook_size=8, gumbel_temperature_start=2.0, gumbel_temperature_end=0.5)
    assert quantizer.temperature == 2.0
    for progress, expected in (
        (0.0, 2.0),
        (0.5, 1.25),
        (1.0, 0.5),
        (0.25, 0.5 + 1.5 * (1 + math.sqrt(0.5)) / 2),
        (0.0, 2.0),
    ):
        quantizer.anneal(progress)
        assert math.isclose(quantizer.temperature, expected)


def test_kl_is_that_to_the_uniform_distribution():
    quantizer = built("gumbel", codebook_size=8)
    z = latents(2, 4, 5)
    logits = quantizer.project(z.mT).double()
    uniform = torch.distributions.Categorical(logits=torch.zeros(8).double())
    expected = torch.distributions.kl_divergence(torch.distributions.Categorical(logits=logits), uniform).mean()
    assert math.isclose(quantizer(z).losses["kl"].item(), expected.item(), rel_tol=1e-5)
    quantizer.project.weight.data.zero_()
    quantizer.project.bias.data.zero_()
    assert abs(quantizer(z).losses["kl"].item()) < 1e-6


def test_gumbel_entropy_is_that_of_the_mean_over_the_batch():
    quantizer = built("gumbel", codebook_size=8)
    z = latents(2, 4, 5)
    mean = quantizer.project(z.mT).softmax(-1).reshape(-1, 8).mean(0).double()
    expected = -torch.distributions.Categorical(probs=mean).entropy()
    assert math.isclose(quantizer(z).losses["entropy"].item(), expected.item(), rel_tol=1e-5)


def test_samples_follow_the_distribution_of_the_logits():
    quantizer = built("gumbel", codebook_size=4, straight_through=True)
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    quantizer.project.weight.data.zero_()
    quantizer.project.bias.data.copy_(shares.log())
    counts = torch.bincount(quantizer(latents(1, 4, 20000)).ids.flatten(), minlength=4) / 20000
    assert torch.allclose(counts, shares, atol=0.015)


def test_straight_through_shows_the_decoder_one_code_with_the_gradient_of_the_mixture():
    z = latents(1, 4, 30)
    results = {}
    for hard in (False, True):
        quantizer = built("gumbel", codebook_size=8, straight_through=hard)
        torch.manual_seed(1)
        latent = z.clone().requires_grad_()
        codes, ids, _ = quantizer(latent)
        results[hard] = codes, quantizer.decode(ids), torch.autograd.grad(codes.sum(), latent)[0]
    assert torch.allclose(results[True][0], results[True][1], atol=1e-6)
    assert not torch.allclose(results[False][0], results[False][1], atol=0.1)
    assert torch.allclose(results[True][2], results[False][2], atol=1e-6)


def test_a_low_temperature_makes_the_mixture_one_code():
    quantizer = built("gumbel", codebook_size=8, gumbel_temperature_end=1e-4)
    quantizer.anneal(1.0)
    codes, ids, _ = quantizer(latents(1, 4, 50))
    assert torch.allclose(codes, quantizer.decode(ids), atol=1e-3)
