"""What is scored: files brought to what the data of a model were, with their views; parts; maps of every kind of data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys.codec import ToyCodec
from toys.world import Letters, Shades, picture_samples, write_shards, write_streams

from tokenize_kit.progress import Progress
from tokenize_kit.protocol import Tokenizer
from tokenize_kit.report import Page
from tokenize_kit.sequences.documents import vocabulary_of
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.preparation import Preparation
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from trainers.autoregressive.model_folder import LoadedModel
from trainers.autoregressive.models import build_model
from trainers.autoregressive.scoring.data import are_shards, chosen_of, encode_as_trained, open_shards
from trainers.autoregressive.scoring.options import ScoreOptions
from trainers.autoregressive.scoring.report import add_maps

pytestmark = pytest.mark.usefixtures("one_thread")
QUIET = Progress(enabled=False)


def loaded(template: str, tokenizers: Mapping[str, Tokenizer], shards: str | None = None) -> LoadedModel:
    """A model of a shard set, or one that is never asked."""
    parsed = SequenceTemplate.parse(template)
    specs = {name: tokenizers[name].spec for name in parsed.streams}
    sets = ShardSet.open(shards).stream_arrays if shards else lambda _: []
    shapes = {name: sets(name) for name in parsed.streams}
    vocabulary = vocabulary_of(parsed, specs, shapes) if shards else None
    torch.manual_seed(0)
    model = build_model("mean", {"vocab_size": vocabulary.size if vocabulary else 9, "context": 64})
    return LoadedModel(model.eval(), parsed, vocabulary, dict(tokenizers), 0, {})


def test_a_view_is_made_of_the_same_pictures_again(tmp_path: Path) -> None:
    """The stream that it is a view of is read too, though no sequence has it."""
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    pixels = PixelTokenizer(channels=1)
    known = loaded("image@small", {"image@small": pixels})
    known = replace(known, preparation=Preparation(image_size=4, views={"image@small": "resize:2"}))
    options = ScoreOptions(model="", out="", data=("pictures",))
    made = ShardSet.open(encode_as_trained(known, [str(tmp_path / "pictures")], tmp_path / "shards", options, QUIET))
    assert [record.key for record in made.records()] == ["0.png", "1.png", "2.png"]
    assert {name: grid.shape for name, grid in made.record(0).grids.items()} == {"image": (4, 4), "image@small": (2, 2)}
    assert are_shards([str(tmp_path / "shards")])
    assert not are_shards([str(tmp_path / "shards"), str(tmp_path / "pictures")])


def test_streams_of_two_preparations_are_refused(tmp_path: Path) -> None:
    pixels = PixelTokenizer(channels=1)
    known = loaded("image other", {"image": pixels, "other": pixels})
    known = replace(known, preparations={"image": Preparation(image_size=4), "other": Preparation(image_size=8)})
    options = ScoreOptions(model="", out="", data=("pictures",))
    with pytest.raises(ValueError, match=r"encoded with several --image-size \(4 and 8\).* give them with --shards"):
        encode_as_trained(known, ["pictures"], tmp_path / "shards", options, QUIET)


def test_parts_lists_and_limits(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", picture_samples(30))
    data = open_shards(loaded("image", {"image": Shades()}, shards), [shards])

    def chosen(**more: object) -> list[int]:
        return chosen_of(data, ScoreOptions(model="", out="", shards=(shards,), **more), QUIET).tolist()

    held, trained = (chosen(part=part, validation_fraction=0.3) for part in ("held-out", "train"))
    assert 0 < len(held) < 30
    assert sorted([*held, *trained]) == chosen() == list(range(30))
    assert chosen(part="train", validation_fraction=0.3, limit=4) == trained[:4]
    (tmp_path / "keys.txt").write_text("sample-7\nsample-2\n")
    assert chosen(part="held-out", validation_keys=str(tmp_path / "keys.txt")) == [2, 7]
    with pytest.raises(ValueError, match="none of the 30 samples is in --part held-out"):
        chosen(part="held-out", validation_fraction=0.0)


def test_maps_of_several_parts_and_kinds(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    tokenizers: dict[str, Tokenizer] = {"text": Letters(), "audio": ToyCodec()}
    grids = {
        "text": [draw.integers(0, 26, 5) for _ in range(3)],
        "audio": [draw.integers(0, 3, (40 + place, 4)) for place in range(3)],
    }
    shards = write_streams(tmp_path / "shards", tokenizers, grids, sizes={"audio": [[160], [163], [166]]})
    known = loaded("text audio", tokenizers, shards)
    known = replace(known, model=build_model("mean", {"vocab_size": known.vocabulary.size, "context": 256}).eval())
    page = Page("maps")
    files = add_maps(page, known, open_shards(known, [shards]), np.array([2, 0]), tmp_path / "maps", 1)
    assert [file.name for file in files] == ["00000.audio.png", "00001.audio.png"]
    assert Image.open(files[0]).height == 128 + 2 + 64
    text = page.write(tmp_path / "page.html").read_text()
    assert text.count('title="') == 2 * 5
    assert "sample-2" in text
    assert "sample-1" not in text
