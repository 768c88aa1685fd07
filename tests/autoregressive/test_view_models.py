"""Models of views: coarse to fine and grey to colour, the whole way on the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from tokenize_kit.cli.main import main
from tokenize_kit.media.image import read_image
from tokenize_kit.modalities.image import IMAGE
from tokenize_kit.protocol import change_of
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from trainers.autoregressive.model_folder import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = ["--steps", "2", "--batch-size", "2", "--validate-every", "2", "--validation-fraction", "0.2"]
MODEL = ["--model.layers", "1", "--model.width", "16", "--model.heads", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    generator = np.random.default_rng(0)
    (folder / "files").mkdir()
    for number in range(12):
        Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8)).save(folder / f"files/{number}.png")
    PixelTokenizer(3).save(folder / "pixels")
    command = ["encode", "--tokenizer", folder / "pixels", "--data", folder / "files", "--out", folder / "shards"]
    views = ["--image-size", "4", "--view", "small=resize:2", "--view", "grey=grey"]
    assert main([str(word) for word in [*command, *views]]) == 0
    return folder


@pytest.mark.parametrize("template", ["image@small -> image", "image@grey -> image", "image@grey:spiral image@small"])
def test_a_picture_is_brought_to_the_view_that_prompts_for_it(shards, tmp_path, template, capsys):
    model, out = str(tmp_path / "model"), tmp_path / "samples"
    command = ["train", "transformer", "--shards", str(shards / "shards"), "--template", template, "--out", model]
    assert main([*command, *TRAINING, *MODEL]) == 0
    loaded = load_model(model)
    first = loaded.template.streams[0]
    picture = shards / "files/3.png"
    assert main(["generate", "--model", model, "--prompt-file", str(picture), "--count", "2", "--out", str(out)]) == 0
    operations = {"image@small": "resize:2", "image@grey": "grey"}[first]
    assert f"changed by {operations}" in capsys.readouterr().err
    square = IMAGE.resize(read_image(picture.read_bytes(), 3), 4)
    expected = PixelTokenizer(3).encode(change_of(IMAGE, operations)(square)).numpy()
    for line in (out / "samples.jsonl").read_text().splitlines():
        grids = loaded.template.parse_ids(json.loads(line)["ids"], loaded.vocabulary)
        np.testing.assert_array_equal(grids[first], expected)
    target = loaded.template.target[-1]
    names = sorted(path.name for path in out.glob("sample_*.png"))
    tail = "" if len(loaded.template.target) == 1 else f".{target}"
    assert f"sample_00000{tail}.png" in names
    assert Image.open(out / f"sample_00000{tail}.png").size == ((2, 2) if target == "image@small" else (4, 4))
