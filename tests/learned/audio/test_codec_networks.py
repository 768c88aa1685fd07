"""The networks of the codec: shapes, sizes, what sees what, precision, and their configuration."""

import pytest
import torch
from toys.neural_codec import FSQ, NETWORKS, RVQ, toy_codec, toy_config

from tokenize_kit.tokenizers.learned.audio.config import CodecConfig, CodecNetworkConfig
from tokenize_kit.tokenizers.learned.audio.model import Codec, fold_weight_norm
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig

EVERY = pytest.mark.parametrize("network", NETWORKS)
CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def encodec_config():
    """EnCodec at 24 kHz: mono, causal, 75 steps a second, up to 32 codebooks."""
    network = CodecNetworkConfig(body="strided", sample_rate=24_000, causal=True, weight_norm=True)
    return CodecConfig(network, QuantizerConfig(kind="rvq", codebooks=32, codebook_size=1024))


def dac_config():
    """DAC at 44.1 kHz: 9 codebooks with lookups in 8 dimensions."""
    network = CodecNetworkConfig(
        body="strided",
        sample_rate=44_100,
        weight_norm=True,
        width=64,
        decoder_width=96,
        latent_channels=1024,
        strides=(2, 4, 8, 8),
        latent_kernel=3,
        residual_kernel=7,
        dilations=(1, 3, 9),
        compression=1,
        activation="snake",
        lstm_layers=0,
    )
    quantizer = QuantizerConfig(
        kind="rvq", codebooks=9, codebook_size=1024, codebook_dim=8, l2_normalised=True, codebook_update="gradient"
    )
    return CodecConfig(network, quantizer)


@pytest.mark.parametrize(
    ("config", "millions"), [(encodec_config(), 14.9), (dac_config(), 76.7)], ids=["encodec", "dac"]
)
def test_the_sizes_are_those_of_the_papers(config, millions):
    with torch.device("meta"):
        model = Codec(config)
        samples = torch.empty(1, 1, 4 * config.network.hop)
        latents = model.latents(samples)
        assert latents.shape == (1, config.network.dim, 4)
        assert model.decoder(latents).shape == samples.shape
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert abs(count - millions) < 0.03 * millions


@EVERY
@CAUSAL
@pytest.mark.parametrize("channels", [1, 2])
def test_shapes_and_gradients(network, causal, channels):
    codec = Codec(toy_config(network, causal=causal, channels=channels, weight_norm=True))
    hop = codec.config.network.hop
    samples = noise(3, channels, 7 * hop)
    made = codec(samples)
    assert made.samples.shape == samples.shape
    assert made.samples.dtype == torch.float32
    assert made.ids.shape == (3, 7, 3)
    (made.samples.square().mean() + sum(made.losses.values())).backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    with pytest.raises(ValueError, match=f"{7 * hop - 1} samples is not a multiple of the hop {hop}"):
        codec(samples[..., 1:])


@EVERY
@CAUSAL
def test_nothing_sees_further_than_is_said_and_all_of_that_is_seen(network, causal):
    """Also in networks that are not causal: what comes later than ``needs`` has no influence, and its last place has some."""
    model = toy_codec(network, causal=causal).model.requires_grad_(False)
    hop = model.config.network.hop
    samples = noise(1, 1, 24 * hop).requires_grad_()
    latents = model.latents(samples)
    for step in (0, 4, 11):
        (gradient,) = torch.autograd.grad(latents[0, :, step].sum(), samples, retain_graph=True)
        seen = gradient[0, 0].nonzero().flatten()
        assert int(seen[-1]) == model.encoder.needs(step + 1) - 1
        assert bool((gradient[0, 0, step * hop : (step + 1) * hop] != 0).any())
        if causal:
            assert int(seen[-1]) < (step + 1) * hop + (7 if network == "frames" else 0)
    latents = latents.detach().requires_grad_()
    sound = model.decoder(latents)
    for place in (0, 5 * hop - 1, 5 * hop, 8 * hop + 3):
        (gradient,) = torch.autograd.grad(sound[0, 0, place], latents, retain_graph=True)
        seen = gradient[0].abs().sum(0).nonzero().flatten()
        # The first sample that a step may reach is sometimes beyond the edge of a window, where that is zero.
        assert int(seen[-1]) in (model.decoder.needs(place + 1) - 1, model.decoder.needs(place) - 1)
        assert place // hop in seen.tolist()
        if causal and network != "frames":
            assert int(seen[-1]) == place // hop


@EVERY
def test_folded_weights_compute_the_same(network):
    codec = Codec(toy_config(network, weight_norm=True)).eval()
    for parameter in codec.parameters():
        parameter.data.mul_(1.3)
    before = torch.random.get_rng_state()
    plain = fold_weight_norm(codec)
    assert torch.equal(torch.random.get_rng_state(), before)
    samples = noise(2, 1, 5 * codec.config.network.hop)
    with torch.no_grad():
        torch.testing.assert_close(plain.latents(samples), codec.latents(samples), atol=1e-6, rtol=0)
        latents = noise(2, 8, 5)
        torch.testing.assert_close(plain.decoder(latents), codec.decoder(latents), atol=1e-6, rtol=0)
    assert not [name for name in plain.state_dict() if "parametrizations" in name]
    assert [name for name in codec.state_dict() if "parametrizations" in name]
    assert plain.config == toy_config(network)
    assert not plain.training


@EVERY
def test_sounds_of_a_batch_do_not_see_each_other(network):
    codec = toy_codec(network).model
    samples = noise(4, 1, 9 * codec.config.network.hop)
    with torch.no_grad():
        latents = codec.latents(samples)
        torch.testing.assert_close(latents[2:3], codec.latents(samples[2:3]), atol=1e-5, rtol=0)
        torch.testing.assert_close(codec.decoder(latents)[1:2], codec.decoder(latents[1:2]), atol=1e-5, rtol=0)


@EVERY
def test_bfloat16_is_near(network):
    codec = toy_codec(network).model
    samples = noise(2, 1, 20 * codec.config.network.hop)
    with torch.no_grad():
        latents = codec.latents(samples)
        sound = codec.decoder(latents)
        with torch.autocast("cpu", torch.bfloat16):
            assert codec.latents(samples).sub(latents).square().mean().sqrt() < 0.05 * latents.std()
            near = codec.decoder(latents)
    assert near.dtype == torch.float32
    assert near.sub(sound).square().mean().sqrt() < 0.05 * sound.std()


def test_a_configuration_survives_json_and_says_what_is_wrong():
    for config in (toy_config("dac", FSQ), toy_config("frames", RVQ, channels=2), encodec_config(), dac_config()):
        assert CodecConfig.from_dict(config.to_dict()) == config
    assert encodec_config().network.hop == 320
    assert encodec_config().network.rate == 75
    assert CodecNetworkConfig(frame_hop=80, factor=3, window=400).hop == 240
    cases = [
        ({"strides": (2, 2)}, r"strides \(2, 2\) is not an option of the body frames; it is for strided"),
        ({"body": "strided", "window": 640}, "window 640 is not an option of the body strided; it is for frames"),
        ({"body": "waves"}, "body 'waves' is not one of strided, frames"),
        ({"channels": 3}, "channels 3 is not 1"),
        ({"sample_rate": 0}, "sample_rate 0 must be at least 1"),
        ({"window": 641}, "window 641 must be even"),
        ({"window": 318}, "window 318 is less than two frame_hop 160"),
        ({"factor": 0}, "factor 0 must be at least 1"),
        ({"encoder_blocks": (1, 2, 3)}, r"encoder_blocks \(1, 2, 3\) must be two numbers"),
        ({"body": "strided", "strides": ()}, r"strides \(\) must be at least 1"),
        ({"body": "strided", "dilations": (1, 0)}, r"dilations \(1, 0\) must be at least 1"),
        ({"body": "strided", "activation": "relu"}, "activation 'relu' is not one of elu, snake"),
        ({"body": "strided", "width": 9}, "width 9 is not a multiple of the compression 2"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            CodecNetworkConfig(**options)
    with pytest.raises(ValueError, match=r"unknown option 'stride' of CodecNetworkConfig; did you mean 'strides'\?"):
        CodecConfig.from_dict({"network": {"stride": [2]}, "quantizer": {}})
    with pytest.raises(ValueError, match=r"has the parts \['network', 'quantizer'\], got \['network'\]"):
        CodecConfig.from_dict({"network": {}})
