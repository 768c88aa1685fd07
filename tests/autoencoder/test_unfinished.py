"""Tokenizers of trainings that are not finished, own lists of what is held out, and which weights are kept."""

import dataclasses
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tokenize_kit.cli import main
from tokenize_kit.protocol import load_tokenizer
from trainers.autoencoder.audio.options import CodecNetworkOverrides, TrainAudioOptions
from trainers.autoencoder.audio.train import train_audio
from trainers.autoencoder.data import NumberedBatches
from trainers.autoencoder.image.options import LossOverrides, NetworkOverrides, TrainImageOptions
from trainers.autoencoder.image.train import train_image
from trainers.autoencoder.options import QuantizerOverrides
from trainers.autoencoder.unfinished import is_unfinished, open_unfinished
from trainers.checkpoints import last_checkpoint

COMMON = {"steps": 6, "validate_every": 2, "checkpoint_every": 2, "device": "cpu", "precision": "32-true"}


@pytest.fixture(scope="module")
def pictures(emoji_tar, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    with tarfile.open(emoji_tar) as tar:
        members = [member for member in tar if member.name.endswith(".png")][:12]
        for number, member in enumerate(members):
            (folder / f"{number:02}.png").write_bytes(tar.extractfile(member).read())
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", np.sin(np.arange(4000) * (0.02 + 0.01 * number)) / 2, 8000)
    return folder


def image_options(data, out, **changes):
    network = NetworkOverrides(
        width=8, multipliers=(1,), encoder_blocks=(0,), decoder_blocks=(1,), patch=4, latent_channels=8
    )
    values = {"data": (str(data),), "out": str(out), "image_size": 16, "network": network, "batch_size": 4}
    return TrainImageOptions(**{**values, **COMMON, "validation_fraction": 0.3, **changes})


def audio_options(data, out, **changes):
    network = CodecNetworkOverrides(
        window=64, frame_hop=16, width=8, latent_channels=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1)
    )
    quantizer = QuantizerOverrides(codebooks=2, codebook_size=16, codebook_dim=4)
    values = {"data": (str(data),), "out": str(out), "preset": "encodec", "network": network, "quantizer": quantizer}
    values |= {"sample_rate": 8000, "batch_size": 2, "crop_seconds": 0.1, "validation_seconds": 0.2}
    return TrainAudioOptions(**{**values, **COMMON, "validation_fraction": 0.4, **changes})


def killed(train, options, monkeypatch, step):
    whole = NumberedBatches.batch

    def batch(self, index):
        if index == step:
            raise KeyboardInterrupt
        return whole(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(NumberedBatches, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            train(options)


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_a_training_that_goes_on_is_evaluated_with_its_best_weights_so_far(
    kind, pictures, sounds, tmp_path, monkeypatch, capsys
):
    train, options = {
        "image": (train_image, image_options(pictures, tmp_path / "run", keep="last")),
        "audio": (train_audio, audio_options(sounds, tmp_path / "run", keep="last", ema=0.5)),
    }[kind]
    data = pictures if kind == "image" else sounds
    killed(train, options, monkeypatch, 5)
    checkpoint = last_checkpoint(Path(options.out) / "checkpoints")
    assert is_unfinished(options.out)
    assert is_unfinished(checkpoint)
    opened, note = open_unfinished(options.out)
    assert (
        note == f"the training in {options.out} is not finished (step 4 of 6); this is the best of its weights so far"
    )
    other, note = open_unfinished(checkpoint)
    assert note == f"the weights are those of step 4 of 6, from {checkpoint}"
    # The last validation and the last checkpoint were at one step.
    assert opened.fingerprint == other.fingerprint
    words = ["evaluate", "--tokenizer", options.out, "--data", str(data), "--json"]
    words += ["--image-size", "16"] if kind == "image" else []
    assert main(words) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["fingerprint"] == opened.fingerprint
    assert "is not finished (step 4 of 6)" in captured.err
    (Path(options.out) / "best.safetensors").unlink()
    assert open_unfinished(options.out)[0].fingerprint == opened.fingerprint
    # Finished, the folder is the tokenizer, and its checkpoint still opens.
    train(options)
    assert not is_unfinished(options.out)
    last = last_checkpoint(Path(options.out) / "checkpoints")
    assert open_unfinished(last)[0].fingerprint == load_tokenizer(options.out).fingerprint


def test_what_has_no_weights_yet_or_is_of_something_else_is_refused(pictures, tmp_path, monkeypatch):
    options = image_options(pictures, tmp_path / "run")
    killed(train_image, options, monkeypatch, 1)
    with pytest.raises(FileNotFoundError, match="has no weights yet"):
        open_unfinished(options.out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"format_version": 2, "shards": "x"}')
    with pytest.raises(ValueError, match="no training of a tokenizer"):
        open_unfinished(tmp_path / "other")


def test_the_listed_samples_are_held_out_and_measured(pictures, sounds, tmp_path, capsys):
    (tmp_path / "keys.txt").write_text("03.png\n07.png\n99.png\n")
    options = image_options(pictures, tmp_path / "run", validation_keys=str(tmp_path / "keys.txt"), steps=1)
    result = train_image(options)
    assert (result.pictures, result.validation_pictures) == (10, 2)
    assert train_image(options).resumed_from == 1
    with pytest.raises(ValueError, match="validation_keys was"):
        train_image(dataclasses.replace(options, validation_keys=None))
    with pytest.raises(ValueError, match="give one of them"):
        image_options(pictures, tmp_path, validation_keys="a", validation_data=("b",))
    (tmp_path / "none.txt").write_text("nothing\n")
    with pytest.raises(ValueError, match="none of its 1 keys is that of a sample"):
        train_image(image_options(pictures, tmp_path / "x", validation_keys=str(tmp_path / "none.txt")))
    assert not (tmp_path / "x" / "run.json").exists()
    (tmp_path / "sounds.jsonl").write_text('{"key": "2.wav"}\n')
    listed = {"validation_keys": str(tmp_path / "sounds.jsonl"), "steps": 1}
    made = train_audio(audio_options(sounds, tmp_path / "codec", **listed))
    assert (made.sounds, made.validation_sounds) == (5, 1)
    # The evaluation divides the samples in the same way.
    for part, count in (("held-out", 2), ("train", 10)):
        words = ["evaluate", "--tokenizer", options.out, "--data", str(pictures), "--image-size", "16", "--json"]
        assert main([*words, "--part", part, "--validation-keys", options.validation_keys]) == 0
        captured = capsys.readouterr()
        found = json.loads(captured.out)
        assert (found["samples"], found["part"]) == (count, f"{part}, keys of {options.validation_keys}")
        assert "1 of the 3 keys in" in captured.err
    assert main([*words, "--part", "held-out", "--validation-keys", str(tmp_path / "none.txt")]) == 1
    assert "none of its 1 keys is that of a sample" in capsys.readouterr().err
    assert main([*words, "--validation-keys", options.validation_keys]) == 1
    assert "--part held-out or train" in capsys.readouterr().err


@pytest.mark.parametrize(("keep", "best"), [(None, False), ("best", True), ("last", False)])
def test_with_a_discriminator_the_last_weights_are_kept_unless_the_best_are_asked_for(pictures, tmp_path, keep, best):
    loss = LossOverrides(discriminator="hinge", discriminator_start=0.0, discriminator_weight=0.5)
    options = image_options(pictures, tmp_path / "run", keep=keep, loss=loss, steps=6, validate_every=1)
    result = train_image(options)
    lines = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    name = next(name for name in lines[-1] if name.startswith("validation/"))
    scores = {line["step"]: line[name] for line in lines if name in line}
    assert result.best_step == (min(scores, key=scores.get) if best else 6)
