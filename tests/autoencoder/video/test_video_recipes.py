"""The presets of video tokenizers, what they refuse, and what the command line tells of them."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from tokenize_kit.cli import main
from tokenize_kit.tokenizers.learned.quantizers import build_quantizer
from tokenize_kit.tokenizers.learned.video.config import VideoConfig
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
from trainers.autoencoder.video.config import PRESETS, SIZES, VideoLossConfig, video_recipe
from trainers.autoencoder.video.options import TrainVideoOptions, VideoLossOverrides, VideoNetworkOverrides
from trainers.autoencoder.video.train import VideoRun

SMALL = {"width": 8, "latent_channels": 8, "encoder_blocks": 1, "decoder_blocks": 1}


def options(**changes):
    return TrainVideoOptions(**{"data": ("a",), "out": "b", **changes})


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_a_model_that_gives_clips_and_pictures_back(preset):
    found = video_recipe(preset, network=SMALL)
    torch.manual_seed(0)
    model = VideoAutoencoder(found.model)
    for frames, steps in ((5, 2), (1, 1)):
        made = model(torch.rand(2, 3, frames, 16, 24) * 2 - 1)
        assert made.pixels.shape == (2, 3, frames, 16, 24)
        assert made.ids.shape[:4] == (2, steps, 2, 3)
    assert VideoConfig.from_dict(json.loads(json.dumps(found.model.to_dict()))) == found.model


def test_fsq_is_the_default_and_has_15360_codes_for_4x8x8_pixels():
    run = VideoRun(options(), None)
    network = run.recipe.model.network
    assert (network.temporal_factor, network.spatial_factor, network.frame_rate) == (4, 8, 12.0)
    assert run.recipe.model.quantizer.levels == (8, 8, 8, 6, 5)
    # 5 x 64 ids of 13.9 bits for 17 frames of 64 x 64.
    assert run.bits_per_pixel([15360]) == pytest.approx(5 * 64 * 13.907 / (17 * 64 * 64), rel=1e-4)


def test_the_tiny_network_has_about_two_and_a_half_million_parameters():
    with torch.device("meta"):
        model = VideoAutoencoder(video_recipe("fsq").model)
    assert 2.2e6 < sum(parameter.numel() for parameter in model.parameters()) < 3e6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_size_of_every_preset_is_a_network_of_the_same_factors(preset, size):
    network, quantizer = video_recipe(preset, size).model.network, video_recipe(preset, size).model.quantizer
    assert network == video_recipe("fsq", size).model.network
    with torch.device("meta"):
        if preset == "fsq":
            latents = VideoAutoencoder(VideoConfig(network, quantizer)).latents(torch.empty(1, 3, 9, 64, 64))
            assert latents.shape == (1, network.dim, 3, 8, 8)
        assert build_quantizer(quantizer, network.dim).codebook_sizes


def test_values_of_a_preset_can_be_changed_and_another_body_or_kind_begins_anew():
    found = video_recipe(
        "vqgan",
        frame_rate=24,
        channels=1,
        network={"width": 32, "temporal_factor": 2},
        quantizer={"kind": "lfq", "codebook_size": 64},
        loss={"judges": "both"},
        optimizer={"learning_rate": 0.5},
    )
    assert (found.model.network.frame_rate, found.model.network.channels, found.model.network.width) == (24, 1, 32)
    assert found.model.quantizer.codebook_dim is None
    assert (found.loss.judges, found.loss.discriminator, found.optimizer.learning_rate) == ("both", "hinge", 0.5)
    with pytest.raises(ValueError, match=r"no recipe 'x' of size 'tiny'; presets: fsq, lfq"):
        video_recipe("x")
    with pytest.raises(TypeError, match="did you mean 'l2_weight'"):
        video_recipe("fsq", loss={"l2_wight": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"l1_weight": -1}, "loss l1_weight -1 must not be negative"),
        ({"judges": "all"}, "loss judges 'all' is not one of clips, frames, both"),
        ({"discriminator": "least-squares"}, "is not one of none, hinge, non-saturating"),
        ({"l1_weight": 0, "l2_weight": 0}, "must be above 0"),
        ({"lecam_weight": 0.1}, "need a discriminator"),
        ({"discriminator_start": 2}, r"must be in \[0, 1\]"),
    ],
)
def test_losses_that_say_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        VideoLossConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_frames": 16}, r"--clip-frames 16 is not 1 \+ n \* 4 \(the tokenizer's temporal factor\); use 13 or 17"),
        ({"image_size": 60}, "--image-size 60 is not a multiple of 8"),
        ({"film_frames": 5}, "--film-frames 5 are fewer than the --clip-frames 17"),
        ({"picture_weight": 1.0}, r"--picture-weight 1.0 is a part of the steps and must be in \[0, 1\)"),
        ({"max_scale": 0.5}, "--max-scale 0.5 must be at least 1"),
        ({"max_scale": 2.0}, "needs an --image-size"),
        ({"batch_size": 0}, "--batch-size 0 must be at least 1"),
        ({"fps": 0.0}, "frame_rate 0.0 is outside"),
        ({"channels": 4, "loss": VideoLossOverrides(perceptual_weight=1.0)}, "is for grey and RGB frames"),
        ({"network": VideoNetworkOverrides(temporal_factor=3)}, "temporal_factor 3 is not one of 2, 4, 8"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(changes, message):
    with pytest.raises(ValueError, match=message):
        VideoRun(options(**changes), None)


def test_every_option_that_changes_the_result_is_in_the_identity():
    identity = VideoRun(options(), None).identity()
    kept = {*identity} | {"fps", "channels", "preset", "size"}  # those four are in the network and the recipe
    elsewhere = {"out", "films", "workers", "max_failures", "usage_floor", "on_collapse", "trust_shards", "keep"}
    elsewhere |= {"checkpoint_every", "log_every", "device", "strategy", "validation_keys", "track"}
    assert {field.name for field in dataclasses.fields(TrainVideoOptions)} == ((kept - {"command"}) | elsewhere)
    assert identity["network"]["frame_rate"] == 12.0


def test_the_help_tells_every_preset_and_the_options_of_clips(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["train", "video", "--help"]) == 0
    page = capsys.readouterr().out
    for words in (*PRESETS, "--clip-frames", "--fps", "--pictures", "--picture-weight", "--loss.difference-weight"):
        assert words in page
    assert "one, and a multiple of the temporal factor" in page


DOCUMENT = (Path(__file__).parents[3] / "docs" / "video.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_document_tells_the_codes_and_the_losses_of_each_preset(preset):
    codes, losses = re.search(rf"^\| `{preset}` \| (.*) \| (.*) \|$", DOCUMENT, re.MULTILINE).groups()
    found = video_recipe(preset)
    with torch.device("meta"):
        sizes = VideoAutoencoder(found.model).quantizer.codebook_sizes
    assert f"{sizes[0]:,} codes" in codes
    assert ("codebooks" in codes) == (len(sizes) > 1)
    assert ("discriminator" in losses) == (found.loss.discriminator != "none")
    assert ("doubled" in losses) == (found.loss.entropy_boost == 2)


@pytest.mark.parametrize("size", SIZES)
def test_the_document_tells_the_body_and_the_weights_of_each_size(size):
    body, millions = re.search(rf"^\| `{size}` \| (\w+) \| ([\d.]+) million \|$", DOCUMENT, re.MULTILINE).groups()
    found = video_recipe("fsq", size).model
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in VideoAutoencoder(found).parameters())
    assert (body, millions) == (found.network.body, f"{weights / 1e6:.1f}")
