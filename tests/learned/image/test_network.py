"""Encoder and decoder: shapes, how far they look, how they start, and what their configuration refuses."""

import json
from math import prod

import pytest
import torch
from torch import nn
from toys.autoencoder import awakened

from tokenize_kit.tokenizers.learned.image.config import AutoencoderConfig, NetworkConfig
from tokenize_kit.tokenizers.learned.image.model import Autoencoder
from tokenize_kit.tokenizers.learned.image.network import Attention, Decoder, Encoder, ResidualBlock, receptive_radius
from tokenize_kit.tokenizers.learned.pixels import from_pixels, to_pixels
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig
from trainers.autoencoder.image.config import PRESETS, recipe


def config(**changes):
    defaults = {
        "width": 8,
        "multipliers": (1, 2),
        "encoder_blocks": (0, 1),
        "decoder_blocks": (1, 1),
        "latent_channels": 6,
    }
    return NetworkConfig(**defaults | changes)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("patch", "levels", "factor"), [(1, 2, 2), (2, 1, 2), (2, 2, 4), (4, 1, 4), (1, 4, 8), (4, 3, 16), (3, 2, 6)]
)
@torch.no_grad()
def test_the_shapes_are_those_of_the_factor(channels, patch, levels, factor):
    network = config(
        channels=channels,
        patch=patch,
        multipliers=(1,) * levels,
        encoder_blocks=(0,) * levels,
        decoder_blocks=(1,) * levels,
    )
    assert network.downsample_factor == factor
    pictures = torch.rand(2, channels, 2 * factor, 3 * factor)
    maps = Encoder(network)(pictures)
    assert maps.shape == (2, 6, 2, 3)
    assert Decoder(network)(maps).shape == pictures.shape


def test_residual_blocks_and_attention_start_as_the_identity():
    x = torch.randn(2, 16, 5, 4)
    for norm in ("rms", "group"):
        for block in (ResidualBlock(16, norm), Attention(16, norm)):
            assert torch.equal(block(x), x)
            assert not torch.equal(awakened(block)(x), x)


LOCAL = [
    {},
    {"patch": 1, "multipliers": (1, 1, 2), "encoder_blocks": (1, 0, 1), "decoder_blocks": (0, 1, 0)},
    {"patch": 4, "multipliers": (1,), "encoder_blocks": (2,), "decoder_blocks": (0,)},
    {"encoder_blocks": (0, 0), "decoder_blocks": (0, 0)},
    {"patch": 1, "encoder_blocks": (2, 1), "decoder_blocks": (2, 1)},
]
SPAN = 19
MIDDLE = SPAN // 2


def reached(changed):
    """Return the smallest distance from the middle, in ids, such that nothing farther away has changed."""
    rows, columns = changed.nonzero(as_tuple=True)
    return int(torch.maximum((rows - MIDDLE).abs(), (columns - MIDDLE).abs()).max())


@pytest.mark.parametrize("changes", LOCAL)
@torch.no_grad()
def test_what_is_beyond_the_radius_does_not_reach_an_id_and_what_is_inside_does(changes):
    network = config(**changes)
    assert network.local
    encoding, decoding = receptive_radius(network)
    encoder, decoder = awakened(Encoder(network)), awakened(Decoder(network), 1)
    f = network.downsample_factor
    pictures = torch.rand(1, 3, SPAN * f, SPAN * f, generator=torch.Generator().manual_seed(2)) * 2 - 1
    # All pixels of one id: which ids see any of them?
    other = pictures.clone()
    other[:, :, MIDDLE * f : (MIDDLE + 1) * f, MIDDLE * f : (MIDDLE + 1) * f] *= -1
    assert reached((encoder(other) != encoder(pictures))[0].any(0)) == encoding
    # And which pixels see one id?
    maps = encoder(pictures)
    changed = maps.clone()
    changed[:, :, MIDDLE, MIDDLE] *= -1
    difference = (decoder(changed) != decoder(maps))[0].any(0)
    assert reached(difference.unfold(0, f, f).unfold(1, f, f).any(-1).any(-1)) == decoding


def test_the_gradient_of_an_id_agrees_with_the_radius():
    network = config()
    f = network.downsample_factor
    pictures = torch.rand(1, 3, SPAN * f, SPAN * f, requires_grad=True)
    awakened(Encoder(network))(pictures)[0, :, MIDDLE, MIDDLE].sum().backward()
    seen = (pictures.grad[0] != 0).any(0).unfold(0, f, f).unfold(1, f, f).any(-1).any(-1)
    assert reached(seen) == receptive_radius(network)[0]


@pytest.mark.parametrize("changes", [{"norm": "group"}, {"attention": True}])
@torch.no_grad()
def test_group_norm_and_attention_see_the_whole_picture(changes):
    network = config(**changes)
    assert not network.local
    f = network.downsample_factor
    pictures = torch.rand(1, 3, SPAN * f, SPAN * f) * 2 - 1
    encoder, decoder = awakened(Encoder(network)), awakened(Decoder(network))
    maps = encoder(pictures)
    # Of many places one is little; far beyond any radius are the ten ids of a side that do not change.
    pictures[:, :, : 9 * f, : 9 * f] *= -1
    assert not torch.equal(encoder(pictures)[0, :, -1, -1], maps[0, :, -1, -1])
    changed = maps.clone()
    changed[:, :, :9, :9] *= -1
    assert not torch.equal(decoder(changed)[0, :, -1, -1], decoder(maps)[0, :, -1, -1])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_base_presets_have_the_shapes_of_the_papers_without_computing(preset, channels):
    chosen = recipe(preset, "base", channels=channels).model
    with torch.device("meta"):
        model = Autoencoder(chosen)
        pictures = torch.empty(2, channels, 256, 256)
        maps = model.encoder(pictures)
        assert maps.shape == (2, 256, 16, 16)
        assert model.decoder(maps).shape == pictures.shape
    assert chosen.network.downsample_factor == 16
    sizes = {"vqvae": 8192, "vqgan": 16384, "dvae": 8192, "fsq": 15360, "lfq": 2**18}
    assert model.quantizer.codebook_sizes == (sizes[preset],)
    # VQGAN f16 has 72 million without the quantizer (its decoder 42); strided convolutions there, 1x1 ones here.
    parameters = sum(p.numel() for part in (model.encoder, model.decoder) for p in part.parameters())
    assert 40e6 < parameters < 80e6


def test_another_kind_of_quantizer_begins_with_its_own_defaults():
    assert recipe("fsq", quantizer={"kind": "vq"}).model.quantizer == QuantizerConfig(kind="vq")
    assert recipe("vqgan", quantizer={"codebook_size": 64}).model.quantizer.codebook_dim == 8
    assert prod(recipe("fsq", "base").model.quantizer.levels) == 15360
    with pytest.raises(ValueError, match="no recipe 'vqganx'"):
        recipe("vqganx")


def test_a_configuration_survives_json():
    for preset in PRESETS:
        for size in ("tiny", "base"):
            chosen = recipe(preset, size).model
            assert AutoencoderConfig.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["network"].update(widht=3), "unknown option 'widht' of NetworkConfig; did you mean 'width'"),
        (
            lambda v: v["quantizer"].update(levles=[3]),
            "unknown option 'levles' of QuantizerConfig; did you mean 'levels'",
        ),
        (lambda v: v.update(decoder={}), r"has the parts \['network', 'quantizer'\], got"),
        (lambda v: v.pop("network"), r"has the parts \['network', 'quantizer'\], got \['quantizer'\]"),
        (lambda v: v["network"].update(channels=2), r"channels 2 is not 1 \(grey\), 3 \(RGB\) or 4"),
        (
            lambda v: v["network"].update(encoder_blocks=[1]),
            r"encoder_blocks \(1,\) must have a number for each of the 2",
        ),
        (lambda v: v["network"].update(decoder_blocks=[1, -1]), r"decoder_blocks \(1, -1\)"),
        (lambda v: v["network"].update(multipliers=[]), r"multipliers \(\) must be one or more positive"),
        (lambda v: v["network"].update(patch=0), "patch 0 must be at least 1"),
        (lambda v: v["network"].update(norm="batch"), "norm 'batch' is not one of rms, group"),
    ],
)
def test_wrong_configurations_are_refused_with_what_is_wrong(change, message):
    values = AutoencoderConfig(config(), QuantizerConfig(kind="fsq")).to_dict()
    change(values)
    with pytest.raises(ValueError, match=message):
        AutoencoderConfig.from_dict(values)


def test_attention_needs_a_width_that_divides_into_heads():
    with pytest.raises(ValueError, match="attention over 200 channels needs a multiple of 64; change the width"):
        Encoder(config(width=200, multipliers=(1, 1), attention=True))
    assert [Attention(channels, "rms").heads for channels in (8, 96, 128, 192)] == [1, 1, 2, 3]


def test_group_norm_takes_any_width():
    from tokenize_kit.tokenizers.learned.image.network import make_norm

    assert [make_norm(channels, "group").num_groups for channels in (8, 48, 128, 37, 51)] == [8, 24, 32, 1, 17]


def test_pixels_of_a_picture_survive_the_way_to_floats_and_back():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(from_pixels(to_pixels(levels)), levels)
    assert (float(to_pixels(levels).min()), float(to_pixels(levels).max())) == (-1.0, 1.0)
    assert from_pixels(torch.tensor([-7.0, 7.0, 0.0])).tolist() == [0, 255, 128]


def test_a_model_encodes_what_its_forward_pass_quantizes():
    torch.manual_seed(0)
    chosen = AutoencoderConfig(config(), QuantizerConfig(kind="rvq", codebooks=2, codebook_size=16))
    model = awakened(Autoencoder(chosen))
    pictures = torch.rand(3, 3, 8, 12) * 2 - 1
    made = model(pictures)
    assert made.ids.shape == (3, 2, 3, 2)
    assert torch.equal(model.encode(pictures), made.ids)
    assert torch.allclose(model.decode(made.ids), made.pixels, atol=1e-5)
    assert isinstance(model.decoder.last_weight, nn.Parameter)
    assert made.pixels.requires_grad
    assert not model.decode(made.ids).requires_grad
