"""Models of labels, the whole way on the command line: idx files to pictures of a class, and back."""

import json
import struct

import numpy as np
import pytest
from PIL import Image

from tokenize_kit.cli.main import main
from trainers.autoregressive.model_folder import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["shirt", "dress", "sneaker"]
MODEL = [
    "--model.layers",
    "1",
    "--model.width",
    "32",
    "--model.heads",
    "2",
    "--device",
    "cpu",
    "--precision",
    "32-true",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Pictures of 2x2 pixels, each of the one shade of its class."""
    folder = tmp_path_factory.mktemp("labels")
    (folder / "data").mkdir()
    labels = np.arange(60, dtype=np.uint8) % 3
    pictures = np.zeros((60, 2, 2), np.uint8) + labels[:, None, None] * 100
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", *pictures.shape)
    (folder / "data/train-images-idx3-ubyte").write_bytes(head + pictures.tobytes())
    head = bytes([0, 0, 8, 1]) + struct.pack(">I", len(labels))
    (folder / "data/train-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    for command in (
        ["train", "labels", "--data", folder / "data", "--out", folder / "labels", "--names", *NAMES],
        ["create", "pixels", "--channels", "1", "--out", folder / "pixels"],
        ["encode", "--tokenizer", folder / "labels", "--tokenizer", folder / "pixels", "--data", folder / "data"],
    ):
        out = ["--out", folder / "shards"] if command[0] == "encode" else []
        assert main([str(word) for word in [*command, *out]]) == 0
    return folder


def train(shards, out, template, steps):
    command = ["train", "transformer", "--shards", str(shards / "shards"), "--template", template, "--out", str(out)]
    options = [
        "--steps",
        str(steps),
        "--batch-size",
        "8",
        "--validate-every",
        str(steps),
        "--validation-fraction",
        "0.2",
    ]
    assert main([*command, *options, *MODEL, "--optimizer.learning-rate", "0.02"]) == 0
    return str(out)


def test_a_class_is_drawn_by_its_name(shards, tmp_path, capsys):
    model = train(shards, tmp_path / "model", "label -> image", 60)
    loaded = load_model(model)
    assert loaded.vocabulary.stream("label").is_open is False
    assert not any("label:" in name or "<end:label>" in name for name in loaded.vocabulary.special_tokens)
    out = tmp_path / "samples"
    (tmp_path / "prompts.txt").write_text("".join(f"{name}\n" for name in (*NAMES, "1")))
    command = ["generate", "--model", model, "--temperature", "0.01"]
    assert main([*command, "--prompts", str(tmp_path / "prompts.txt"), "--out", str(out)]) == 0
    shades = [int(np.median(np.asarray(Image.open(path)))) for path in sorted(out.glob("*.png"))]
    assert shades == [0, 100, 200, 100]
    capsys.readouterr()
    assert main([*command, "--prompt", "sneakr", "--out", str(tmp_path / "none")]) == 1
    assert (
        "there is no label 'sneakr'; there is shirt, dress, sneaker; did you mean 'sneaker'?" in capsys.readouterr().err
    )


def test_a_picture_is_given_its_class(shards, tmp_path):
    model = train(shards, tmp_path / "model", "image -> label", 60)
    assert load_model(model).metrics["label/bits_per_label_quantised"] < 0.5
    out, picture = tmp_path / "samples", tmp_path / "picture.png"
    Image.fromarray(np.full((2, 2), 200, np.uint8)).save(picture)
    command = ["generate", "--model", model, "--prompt-file", str(picture), "--temperature", "0.01", "--out", str(out)]
    assert main(command) == 0
    assert (out / "sample_00000.txt").read_text() == "sneaker"
    assert json.loads((out / "samples.jsonl").read_text())["text"] == "sneaker"
