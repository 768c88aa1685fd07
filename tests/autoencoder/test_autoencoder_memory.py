"""Memory of the training of a tokenizer: what cannot fit is refused before the data are read, and nothing else is."""

from pathlib import Path

import pytest
import torch

from tokenize_kit.cli.main import main
from tokenize_kit.tokenizers.learned.audio.model import Codec
from tokenize_kit.tokenizers.learned.image.model import Autoencoder
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
from trainers import memory
from trainers.autoencoder.audio.config import audio_recipe
from trainers.autoencoder.image.config import recipe
from trainers.autoencoder.memory import kept_by_layers, least_memory
from trainers.autoencoder.video.config import video_recipe


def image(preset, **network):
    config = recipe(preset, "tiny", channels=3, network=network, quantizer={}, loss={}, optimizer={}).model
    return lambda: Autoencoder(config)


def audio(preset, **network):
    config = audio_recipe(
        preset, "tiny", sample_rate=8000, channels=1, network=network, quantizer={}, loss={}, optimizer={}
    ).model
    return lambda: Codec(config)


def video(preset, **network):
    config = video_recipe(preset, network=network).model
    return lambda: VideoAutoencoder(config)


STRIDED = {
    **{
        "body": "strided",
        "width": 8,
        "strides": (2, 4),
        "dilations": (1, 3),
        "latent_channels": 16,
        "activation": "snake",
    },
    **{"compression": 2, "causal": False},
}
MODELS = {
    "image": (image("fsq", width=16), (3, 24, 40)),
    "attention and group norm": (image("vqvae", width=32, attention=True, norm="group"), (3, 64, 64)),
    "frames": (audio("dac", width=16), (1, 3200)),
    "causal frames": (audio("encodec", width=16), (1, 3200)),
    "strided": (audio("dac", **STRIDED), (1, 1600)),
    "videos": (video("fsq", width=16), (3, 9, 32, 32)),
}


def kept_of_a_step(model, samples, mixed):
    """The bytes that autograd keeps for the backward pass, weights left out."""
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        made = model.decoder(model.encoder(samples))
    assert made.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_the_estimate_of_an_autoencoder_is_below_what_a_step_keeps(name, mixed):
    build, shape = MODELS[name]
    model = build()
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    kept = kept_of_a_step(model, torch.rand(3, *shape), mixed)
    least = least_memory(build, (300, *shape), 2, mixed)
    # Of 100 times the rows there are 100 times the activations, which are then more than the gradients.
    assert 3 * weights < least <= 3 * weights + 100 * kept
    # And not so far below that it says nothing.
    assert least - 3 * weights > 100 * kept / 8
    # What is real and what has no values are the same to it.
    with torch.device("meta"):
        looked_at = kept_by_layers(build(), torch.empty(3, *shape))
    assert looked_at == kept_by_layers(model, torch.rand(3, *shape))


def test_averages_and_gradients_count():
    build, shape = MODELS["image"]
    weights = 4 * sum(parameter.numel() for parameter in build().parameters())
    assert least_memory(build, (1, 3, 8, 8), 0, False) == 2 * weights
    assert least_memory(build, (1, 3, 8, 8), 3, False) == 5 * weights
    few, many = (least_memory(build, (rows, *shape), 2, False) for rows in (1000, 2000))
    assert many - few == pytest.approx(few - 3 * weights)


def test_it_leaves_the_random_numbers_as_they_are():
    before = torch.random.get_rng_state()
    build, shape = MODELS["frames"]
    assert least_memory(build, (1, *shape), 2, False) is not None
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_that_cannot_be_looked_at_is_not_refused():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = self.decoder = lambda samples: samples.sum().item()

    assert least_memory(Odd, (1, 1, 4), 2, False) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "image --image-size 64 --batch-size 100000",
            "a batch is 100,000 pictures of 64 x 64 pixels; lower --batch-size",
        ),
        (
            "audio --sample-rate 8000 --batch-size 100000",
            "a batch is 100,000 pieces of 0.5 seconds; lower --batch-size",
        ),
        (
            "video --image-size 64 --batch-size 100000",
            "a batch is 100,000 clips of 17 frames of 64 x 64 pixels; lower --batch-size",
        ),
    ],
)
def test_what_cannot_fit_is_refused_before_the_data_are_read(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(memory, "available_memory", lambda device: 3_000_000_000)
    command = ["train", *words.split(), "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu", "--precision", "32-true", "--quiet"]) == 1
    said = capsys.readouterr().err
    assert "out of memory: this training needs " in said
    assert "GB at the least, and 3.0 GB are free; " in said
    assert message in said


def test_what_only_the_pictures_know_is_told_when_they_are_read(capsys, tmp_path, monkeypatch, emoji_tar):
    command = ["train", "image", "--data", str(emoji_tar), "--out", str(tmp_path / "out"), "--steps", "1", "--quiet"]
    command += ["--network.width", "8", "--device", "cpu", "--precision", "32-true", "--validation-fraction", "0"]
    monkeypatch.setattr(memory, "available_memory", lambda device: 1_000_000)
    assert main([*command, "--batch-size", "50000"]) == 1
    said = capsys.readouterr().err
    assert "a batch is 50,000 pictures of 48 x 48 pixels" in said, said
    # It made no step, so it keeps the smaller one from nothing.
    monkeypatch.undo()
    assert main([*command, "--batch-size", "2"]) == 0
    assert (Path(tmp_path) / "out" / "tokenizer_config.json").is_file()
