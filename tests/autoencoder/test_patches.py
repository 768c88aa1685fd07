import pytest
import torch
from torch import nn

from trainers.autoencoder.patches import DiscriminatorConfig, PatchDiscriminator, discriminator_config


def build(**changes):
    torch.manual_seed(0)
    return PatchDiscriminator(DiscriminatorConfig(**{"width": 4, "layers": 2} | changes))


def test_the_geometry_is_that_of_vqgan():
    network = PatchDiscriminator(DiscriminatorConfig())
    verdict = network(torch.zeros(1, 3, 256, 256))
    assert verdict.logits.shape == (1, 1, 30, 30)
    assert [tuple(features.shape) for features in verdict.features] == [
        (1, 64, 128, 128),
        (1, 128, 64, 64),
        (1, 256, 32, 32),
        (1, 512, 31, 31),
    ]
    # As many weights as taming-transformers' NLayerDiscriminator with its defaults; group norms have the gains of batch norms.
    convolutions = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert sum(parameter.numel() for parameter in network.parameters()) == convolutions + 64 + 2 * (128 + 256 + 512) + 1


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_logit_sees_its_patch_and_nothing_else(layers):
    network = build(layers=layers, norm="none").double()
    size = 2 * network.config.patch
    size += -size % 2**layers
    picture = torch.randn(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    logits = network(picture).logits
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    seen = picture.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert int(seen[-1] - seen[0]) + 1 == network.config.patch == len(seen)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_smallest_picture_has_one_logit_a_smaller_one_is_refused(layers):
    network = build(layers=layers)
    size = network.config.smallest
    assert network(torch.zeros(1, 3, size, size)).logits.shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=f"at least {size}, not"):
        network(torch.zeros(1, 3, size, size - 1))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        network(torch.zeros(1, 1, size, size))


def test_a_verdict_does_not_depend_on_batch_mates():
    network = build()
    pictures = torch.randn(4, 3, 28, 28)
    alone = network(pictures[1:2]).logits
    assert torch.allclose(network(pictures).logits[1:2], alone, atol=1e-5)
    assert not list(network.buffers())


def test_weights_start_as_in_pix2pix():
    network = build(width=32, layers=3)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [module.bias is None for module in convolutions] == [False, True, True, True, False]
    weights = torch.cat([module.weight.flatten() for module in convolutions])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    gains = torch.cat([module.weight for module in network.modules() if isinstance(module, nn.GroupNorm)])
    assert gains.mean().item() == pytest.approx(1, abs=0.005)
    assert gains.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    ("size", "layers", "patches"), [(12, 1, 4), (28, 2, 5), (64, 2, 14), (128, 3, 14), (256, 3, 30)]
)
def test_a_discriminator_for_each_size_of_picture(size, layers, patches):
    config = discriminator_config(size, channels=1)
    assert config.layers == layers
    assert PatchDiscriminator(config)(torch.zeros(1, 1, size, size)).logits.shape[-1] == patches


def test_impossible_discriminators_are_refused():
    with pytest.raises(ValueError, match="use at least 6"):
        discriminator_config(4)
    with pytest.raises(ValueError, match="layers 0"):
        DiscriminatorConfig(layers=0)
    with pytest.raises(ValueError, match="'batch' is not one of group, none"):
        DiscriminatorConfig(norm="batch")


def test_bfloat16_verdicts_are_close_to_those_of_float32():
    network = build(width=32)
    pictures = torch.randn(2, 3, 28, 28)
    exact = network(pictures).logits
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(pictures).logits
    assert rough.dtype == torch.bfloat16
    assert ((rough.float() - exact).norm() / exact.norm()).item() < 0.05


def test_it_learns_to_tell_two_kinds_of_pictures_apart():
    network = build(width=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.5, 0.9))
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        noise = torch.rand(8, 3, 16, 16, generator=generator) * 2 - 1
        smooth = nn.functional.avg_pool2d(noise, 3, 1, 1)
        loss = (1 - network(noise).logits).relu().mean() + (1 + network(smooth).logits).relu().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fresh = torch.rand(8, 3, 16, 16, generator=generator) * 2 - 1
    assert float((network(fresh).logits > 0).float().mean()) > 0.9
    assert float((network(nn.functional.avg_pool2d(fresh, 3, 1, 1)).logits < 0).float().mean()) > 0.9
