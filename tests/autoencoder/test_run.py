"""What ties the folder of a run to its options: runs that were begun with earlier versions go on."""

import json

import pytest

from trainers.autoencoder.audio.options import TrainAudioOptions
from trainers.autoencoder.audio.train import AudioRun
from trainers.autoencoder.image.options import NetworkOverrides, TrainImageOptions
from trainers.autoencoder.image.train import ImageRun
from trainers.autoencoder.options import OptimizerOverrides, QuantizerOverrides
from trainers.checkpoints import RUN_FILE, claim_folder

LOOP = {
    **{"steps": 2000, "accumulate": 1, "clip": 1.0, "seed": 0, "validate_every": None, "devices": 1},
    **{"precision": "auto", "ema": None, "deterministic": True},
}
UNUSED = dict.fromkeys(
    (
        *("codebook_size", "codebook_dim", "levels", "codebooks", "l2_normalised", "codebook_update", "ema_decay"),
        *("kmeans_init", "dead_code_threshold", "rotation_trick", "entropy_temperature", "entropy_group_bits"),
        *("gumbel_temperature_start", "gumbel_temperature_end", "straight_through", "quantizer_dropout"),
    )
)
MUON = {
    **{"optimizer": "muon", "learning_rate": 0.003, "muon_learning_rate": None, "weight_decay": 0.01, "beta1": 0.9},
    **{"beta2": 0.95, "eps": 1e-08, "momentum": 0.95, "schedule": "wsd", "warmup_steps": 50, "decay_fraction": 0.7},
    "final_fraction": 0.0,
}
IMAGE = {
    **{"command": "train image", "data": ["a"], "image_size": 16, "channels": 3, "crop": "random", "max_scale": 1.0},
    **{"flip": False, "batch_size": 64, "validation_fraction": 0.05, "validation_data": []},
    **{"validation_pictures": 1024, "media_field": None, "init_from": None},
    **LOOP,
    "network": {
        **{"channels": 3, "width": 8, "multipliers": [1, 3], "encoder_blocks": [0, 1], "decoder_blocks": [1, 2]},
        **{"patch": 2, "attention": False, "norm": "rms", "latent_channels": 64},
    },
    "quantizer": {"kind": "fsq", **UNUSED, "levels": [8, 6]},
    "loss": {
        **{"pixel": "l2", "pixel_weight": 1.0, "perceptual_weight": 0.0, "perceptual_path": None},
        **{"commitment_weight": 0.25, "codebook_weight": 1.0, "entropy_weight": 0.1, "entropy_boost": 1.0},
        **{"entropy_boost_part": 0.1, "kl_weight": 0.0, "discriminator": "none", "discriminator_weight": 0.5},
        **{"discriminator_start": 0.5, "discriminator_ramp": 0.1, "discriminator_learning_rate": 0.0002},
        **{"adaptive_weight": False, "lecam_weight": 0.0, "feature_matching_weight": 0.0},
    },
    "optimizer": MUON,
}
AUDIO = {
    **{"command": "train audio", "data": ["a"], "crop_seconds": 0.5, "silence_db": -60.0, "batch_size": 24},
    **{"validation_fraction": 0.05, "validation_data": [], "validation_sounds": 32, "validation_seconds": 10.0},
    **{"media_field": None, "init_from": None},
    **LOOP,
    "network": {
        **{"body": "frames", "sample_rate": 16000, "channels": 1, "causal": True, "weight_norm": False},
        **dict.fromkeys(("width", "latent_channels", "decoder_width", "strides", "kernel", "latent_kernel")),
        **dict.fromkeys(("residual_kernel", "dilations", "compression", "activation", "lstm_layers")),
        **{"window": 640, "frame_hop": 160, "factor": 2},
        **dict.fromkeys(("encoder_blocks", "decoder_blocks", "block", "block_kernel", "expansion")),
    },
    "quantizer": {
        **{"kind": "rvq", **UNUSED, "codebook_size": 1024, "codebook_dim": 8, "codebooks": 12, "l2_normalised": True},
        **{"dead_code_threshold": 0.5, "quantizer_dropout": 0.2},
    },
    "loss": {
        **{"mel_weight": 1.0, "waveform": "l1", "waveform_weight": 4.0, "stft_weight": 0.0, "commitment_weight": 0.25},
        **{"codebook_weight": 1.0, "entropy_weight": 0.1, "discriminator": "none", "discriminator_weight": 1.0},
        **{"feature_matching_weight": 0.0, "feature_matching": "absolute", "discriminator_start": 0.0},
        **{"discriminator_ramp": 0.0, "discriminator_learning_rate": 0.0002, "discriminator_network": "tiny"},
        **{"discriminator_width": None, "balancer": False, "quantizer_start": 0.0},
    },
    "optimizer": MUON | {"learning_rate": 0.016, "final_fraction": 0.1},
}
"""As the version before wrote them."""


def image_run(out):
    network, quantizer = NetworkOverrides(width=8), QuantizerOverrides(levels=(8, 6))
    options = TrainImageOptions(data=("a",), out=str(out), image_size=16, network=network, quantizer=quantizer)
    return ImageRun(options, None)


def audio_run(out):
    options = TrainAudioOptions(
        data=("a",), out=str(out), preset="encodec", optimizer=OptimizerOverrides(final_fraction=0.1)
    )
    return AudioRun(options, None)


@pytest.mark.parametrize(("run", "expected"), [(image_run, IMAGE), (audio_run, AUDIO)])
def test_the_identity_of_a_run_is_what_it_was(tmp_path, run, expected):
    (tmp_path / RUN_FILE).write_text(json.dumps({"format_version": 2, **expected}))
    identity = run(tmp_path).identity()
    assert identity == expected
    assert list(identity) == list(expected)
    claim_folder(tmp_path, identity)
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate was .*, now 0\.5"):
        claim_folder(tmp_path, identity | {"optimizer": identity["optimizer"] | {"learning_rate": 0.5}})


def test_an_option_that_a_run_did_not_know_is_none_for_it(tmp_path):
    claim_folder(tmp_path, {"steps": 3, "loss": {"weight": 1.0}})
    claim_folder(tmp_path, {"steps": 3, "loss": {"weight": 1.0, "margin": None}, "ema": None})
    with pytest.raises(ValueError, match=r"loss\.margin was None, now 2"):
        claim_folder(tmp_path, {"steps": 3, "loss": {"weight": 1.0, "margin": 2}})
    with pytest.raises(ValueError, match=r"ema was None, now 0\.5"):
        claim_folder(tmp_path, {"steps": 3, "loss": {"weight": 1.0}, "ema": 0.5})
