"""A tokenizer that no module knows of, served by every command without an edit: one class and one registration."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from tokenize_kit.cli import main
from tokenize_kit.protocol import (
    Tokenizer,
    TokenSpec,
    check_ids,
    check_target,
    fingerprint_of,
    read_config,
    register_tokenizer,
    write_config,
)
from tokenize_kit.shards import ShardSet


class BlockTokenizer(Tokenizer):
    """Mean brightness of blocks of 4x4 pixels in 8 levels: small, lossy, with a step of 4 and a size multiple."""

    def __init__(self, levels=8):
        self._levels = levels

    @property
    def spec(self):
        return TokenSpec(
            "image", self._levels, ("height", "width"), (4, 4), lossless=False, channels=1, size_multiple=4
        )

    @property
    def fingerprint(self):
        return fingerprint_of("block", {"levels": self._levels})

    def encode(self, sample):
        if not isinstance(sample, torch.Tensor):
            raise TypeError(f"a picture is a uint8 tensor (C, H, W), got {type(sample).__name__}")
        if sample.ndim != 3 or sample.shape[0] != 1 or sample.shape[1] % 4 or sample.shape[2] % 4:
            raise ValueError(f"picture of shape {tuple(sample.shape)}: expected 1 channel and a multiple of 4")
        means = torch.nn.functional.avg_pool2d(sample.float(), 4)[0]
        return (means * self._levels / 256).long().clamp(0, self._levels - 1)

    def decode(self, ids):
        levels = (check_ids(ids, self.spec) * 256 + 128) // self._levels
        return levels.to(torch.uint8).repeat_interleave(4, 0).repeat_interleave(4, 1)[None]

    def save(self, folder):
        write_config(check_target(folder, self), self, {"levels": self._levels})

    @classmethod
    def load(cls, folder):
        return cls(read_config(folder)["options"]["levels"])


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    register_tokenizer("block", BlockTokenizer)
    root = tmp_path_factory.mktemp("newcomer")
    (root / "pictures").mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(40):
        pixels = torch.randint(0, 256, (4, 4), generator=generator).repeat_interleave(4, 0).repeat_interleave(4, 1)
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(root / "pictures" / f"{number:02}.png")
    BlockTokenizer().save(root / "tokenizer")
    before = Path.cwd()
    os.chdir(root)
    assert main(["encode", "--tokenizer", "tokenizer", "--data", "pictures", "--out", "shards", "--quiet"]) == 0
    yield root
    os.chdir(before)


def result_of(capsys, *words):
    capsys.readouterr()
    assert main([*words, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def test_encode_wrote_the_ids_that_the_tokenizer_gives(newcomer):
    shards = ShardSet.open("shards")
    assert shards.num_rows == 40
    assert shards.num_tokens == {"image": 40 * 16}
    assert shards.streams["image"].spec == BlockTokenizer().spec
    record = next(iter(shards.records()))
    picture = torch.tensor(list(Image.open(newcomer / "pictures" / "00.png").tobytes()), dtype=torch.uint8).reshape(
        1, 16, 16
    )
    assert record.grids["image"].tolist() == BlockTokenizer().encode(picture).tolist()


def test_inspect_and_verify_know_it(newcomer, capsys):
    found = result_of(capsys, "inspect", "tokenizer")
    assert (found["tokenizer"], found["vocab_size"], found["grid"]) == ("block", 8, "height x width")
    assert result_of(capsys, "inspect", "shards")["streams"]["image"]["fingerprint"] == BlockTokenizer().fingerprint
    assert main(["verify", "shards", "--tokenizer", "tokenizer"]) == 0
    BlockTokenizer(levels=4).save("other")
    assert main(["verify", "shards", "--tokenizer", "other"]) == 3


def test_decode_writes_pictures(newcomer):
    assert main(["decode", "--shards", "shards", "--tokenizer", "tokenizer", "--out", "decoded", "--limit", "5"]) == 0
    files = sorted((newcomer / "decoded").rglob("*.png"))
    assert len(files) == 5
    assert Image.open(files[0]).size == (16, 16)


def test_evaluate_measures_it(newcomer, capsys):
    found = result_of(capsys, "evaluate", "--tokenizer", "tokenizer", "--data", "pictures", "--out", "evaluation")
    assert found["metrics"]["psnr"] > 20
    assert (newcomer / "evaluation" / "report.html").is_file()


def test_a_transformer_trains_and_generates_with_it(newcomer, capsys):
    words = "train transformer --shards shards --template image --out model --steps 4 --batch-size 4 --model.layers 1"
    result_of(capsys, *words.split(), "--model.width", "32", "--model.heads", "2")
    assert main(["generate", "--model", "model", "--out", "samples", "--count", "3", "--seed", "1", "--quiet"]) == 0
    files = sorted((newcomer / "samples").rglob("*.png"))
    assert len(files) == 3
    assert {Image.open(file).size for file in files} == {(16, 16)}
