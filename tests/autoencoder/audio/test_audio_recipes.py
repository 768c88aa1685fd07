"""Presets of `train audio`: what they are made of, and what replaces what."""

import math

import pytest
import torch

from tokenize_kit.tokenizers.learned.audio.config import CodecConfig
from tokenize_kit.tokenizers.learned.audio.model import Codec
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig
from trainers.autoencoder.audio.config import PRESETS, SIZES, AudioLossConfig, audio_recipe


def weights(config):
    """How many weights a codec has; a normalised one counts once."""
    with torch.device("meta"):
        model = Codec(config)
    return sum(value.numel() for name, value in model.named_parameters() if not name.endswith("original0"))


def bits_per_second(config):
    options = config.quantizer.options()
    return config.network.rate * options["codebooks"] * math.log2(options["codebook_size"])


def test_the_base_networks_are_those_of_the_papers():
    # EnCodec's 14.9 million have a convolution in the skips of the residual units, which SoundStream's and ours have not.
    assert weights(audio_recipe("encodec", "base").model) == pytest.approx(14.85e6, rel=0.02)
    assert weights(audio_recipe("dac", "base").model) == pytest.approx(76.7e6, rel=0.002)
    rates = {preset: bits_per_second(audio_recipe(preset, "base").model) for preset in PRESETS}
    assert rates["soundstream"] == rates["encodec"] == 6000
    assert rates["dac"] == pytest.approx(7752, abs=1)


@pytest.mark.parametrize("preset", PRESETS)
def test_tiny_presets_are_at_6_kbits_or_less_and_small(preset):
    chosen = audio_recipe(preset)
    assert bits_per_second(chosen.model) <= 6000
    assert chosen.model.network.sample_rate == 16_000
    assert weights(chosen.model) < 10e6


@pytest.mark.parametrize("size", SIZES)
def test_causal_where_the_paper_is(size):
    causal = {preset: audio_recipe(preset, size).model.network.causal for preset in PRESETS}
    assert causal == {"soundstream": True, "encodec": True, "dac": False}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_survives_json(preset, size):
    model = audio_recipe(preset, size, channels=2, sample_rate=32_000).model
    assert CodecConfig.from_dict(model.to_dict()) == model
    assert (model.network.channels, model.network.sample_rate) == (2, 32_000)


def test_what_is_given_replaces_the_presets_values():
    chosen = audio_recipe("dac", network={"width": 64}, loss={"mel_weight": 3.0}, optimizer={"learning_rate": 0.5})
    assert chosen.model.network.width == 64
    assert chosen.model.network.window == audio_recipe("dac").model.network.window
    assert (chosen.loss.mel_weight, chosen.optimizer.learning_rate) == (3.0, 0.5)
    # Another kind or body begins with its own defaults.
    assert audio_recipe("dac", quantizer={"kind": "vq"}).model.quantizer == QuantizerConfig(kind="vq")
    learned = audio_recipe("dac", quantizer={"codebook_update": "gradient"}).model.quantizer
    assert (learned.ema_decay, learned.codebooks) == (None, 12)
    network = audio_recipe("encodec", network={"body": "strided"}).model.network
    assert (network.body, network.causal, network.sample_rate, network.width) == ("strided", True, 16_000, None)
    network = audio_recipe("dac", "base", network={"body": "frames"}).model.network
    assert (network.body, network.weight_norm, network.sample_rate, network.strides) == ("frames", True, 44_100, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mel_weight": -1.0}, "mel_weight -1.0 must not be negative"),
        ({"mel_weight": 0.0}, "must be above 0"),
        ({"waveform": "l3"}, "waveform 'l3' is not one of l1, l2"),
        ({"discriminator_start": 1.5}, r"discriminator_start 1.5 is a part of the run and must be in \[0, 1\]"),
        ({"quantizer_start": 1.0}, "would never train the codebooks"),
        ({"feature_matching_weight": 2.0}, "needs a discriminator"),
        ({"discriminator": "hinge", "discriminator_weight": 0.0}, "teaches nothing"),
        ({"discriminator_width": 0}, "discriminator_width 0 must be at least 1"),
        ({"discriminator_learning_rate": 0.0}, "discriminator_learning_rate 0.0 must be positive"),
    ],
)
def test_losses_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AudioLossConfig(**values)


def test_unknown_recipes_are_refused():
    with pytest.raises(ValueError, match="no recipe 'mimi' of size 'tiny'; presets: soundstream, encodec, dac"):
        audio_recipe("mimi")
    with pytest.raises(TypeError, match="mel_wait"):
        audio_recipe("dac", loss={"mel_wait": 1.0})
