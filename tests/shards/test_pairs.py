"""Sequences for visual prompting: what is in them, that they follow from the seed alone, and runs that were stopped."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from toys.autoencoder import toy_autoencoder

from tokenize_kit.cli.main import main
from tokenize_kit.modalities.image import IMAGE
from tokenize_kit.protocol import change_of, decode_sized
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.decode import DecodeOptions, decode
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.pairs import maker, run
from tokenize_kit.shards.pairs.options import PairsOptions
from tokenize_kit.shards.pairs.run import make_pairs
from tokenize_kit.shards.preparation import Preparation
from tokenize_kit.shards.verify import verify
from tokenize_kit.sources.heldout import held_out
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from tokenize_kit.tokenizers.text.chars import CharsTokenizer

COUNT = 30
OPERATIONS = ("grey", "flip", "edges")


def batched(records, size):
    """Several records at a time."""
    records = list(records)
    return zip(*(records[place::size] for place in range(size)), strict=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    generator = np.random.default_rng(0)
    (folder / "files").mkdir()
    for number in range(COUNT):
        Image.fromarray(generator.integers(0, 256, (5, 6, 3), np.uint8)).save(folder / f"files/{number:02}.png")
        (folder / f"files/{number:02}.txt").write_text(str(number))
    PixelTokenizer(3).save(folder / "pixels")
    CharsTokenizer("0123456789").save(folder / "chars")
    toy_autoencoder().save(folder / "auto")
    plain = EncodeOptions((str(folder / "pixels"),), (str(folder / "files"),), str(folder / "plain"), image_size=4)
    encode(plain)
    encode(
        EncodeOptions(
            (str(folder / "pixels"), str(folder / "chars")),
            (str(folder / "files"),),
            str(folder / "views"),
            image_size=4,
            view=("g=grey", "e=edges"),
        )
    )
    encode(EncodeOptions((str(folder / "auto"),), (str(folder / "files"),), str(folder / "learned")))
    return folder


def made(world, out, source="plain", **changes):
    values = {"operations": OPERATIONS, "pairs": 2, "count": 12, **changes}
    result = make_pairs(PairsOptions(shards=str(world / source), out=str(out), **values))
    return result, ShardSet.open(out)


def picture(record, name="image"):
    return PixelTokenizer(3).decode(torch.from_numpy(record.grids[name].astype(np.int64)))


def test_a_sequence_is_pairs_of_pictures_and_what_one_operation_makes_of_them(world, tmp_path):
    result, shards = made(world, tmp_path / "out")
    originals = {record.key: picture(record) for record in ShardSet.open(world / "plain").records()}
    assert (result.sequences, result.rows, result.held_out) == (12, 72, 0)
    assert result.template == "image image image image image -> image"
    assert sum(result.operations.values()) == 12
    drawn = []
    for number, records in enumerate(batched(shards.records(), 6)):
        names = ["a1", "b1", "a2", "b2", "query", "answer"]
        assert [record.key for record in records] == [f"pairs2.0/{number:08}/{name}" for name in names]
        (operation,) = {record.columns["operation"] for record in records}
        drawn.append(operation)
        used = [record.columns["sample"] for record in records]
        assert used[::2] == used[1::2]
        assert len(set(used)) == 3
        for first, second in batched(records, 2):
            original = originals[first.columns["sample"]]
            assert torch.equal(picture(first), original)
            assert torch.equal(picture(second), change_of(IMAGE, operation)(original))
        assert {record.columns["part"] for record in records} == {"train"}
    assert {name: drawn.count(name) for name in OPERATIONS} == result.operations
    assert set(drawn) == set(OPERATIONS)
    assert verify(tmp_path / "out", [str(world / "pixels")]).rows == 72


def test_views_of_the_set_give_the_same_as_what_is_made_now(world, tmp_path, monkeypatch):
    _, plain = made(world, tmp_path / "plain")
    used, original = [], maker.Maker._made
    monkeypatch.setattr(maker.Maker, "_made", lambda self, some: used.append(some) or original(self, some))
    _, views = made(world, tmp_path / "views", "views")
    assert {operation for some in used for _, operation in some} == {"flip"}
    for left, right in zip(plain.records(), views.records(), strict=True):
        assert left.key == right.key
        assert left.columns == {**right.columns, "sample": f"{right.columns['sample']}.png"}
        np.testing.assert_array_equal(left.grids["image"], right.grids["image"])


def test_the_seed_decides_all_and_more_sequences_begin_alike(world, tmp_path):
    def drawn(out, **changes):
        _, shards = made(world, tmp_path / out, **changes)
        return [(record.columns["operation"], record.columns["sample"]) for record in shards.records()]

    first = drawn("first")
    assert drawn("again") == first
    assert (tmp_path / "first/00000.arrow").read_bytes() == (tmp_path / "again/00000.arrow").read_bytes()
    assert drawn("more", count=20)[: len(first)] == first
    assert drawn("other", seed=1) != first


def test_a_stopped_run_is_continued_to_the_same_bytes(world, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_SHARD_ROWS", 18)
    monkeypatch.setattr(run, "_BATCH_ROWS", 6)
    made(world, tmp_path / "whole")
    files = sorted(path.name for path in (tmp_path / "whole").glob("*.arrow"))
    assert len(files) == 4
    original = maker.Maker.grids
    calls = []

    def stopping(self, wanted):
        calls.append(len(wanted))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(self, wanted)

    monkeypatch.setattr(maker.Maker, "grids", stopping)
    with pytest.raises(KeyboardInterrupt):
        made(world, tmp_path / "stopped")
    assert not (tmp_path / "stopped/dataset.json").exists()
    kept = (tmp_path / "stopped/00000.arrow").stat().st_mtime_ns
    made(world, tmp_path / "stopped")
    # Of twelve batches in four shards five were made, of which three were kept with their shard.
    assert calls == [6] * (6 + 9)
    assert (tmp_path / "stopped/00000.arrow").stat().st_mtime_ns == kept
    for name in [*files, "dataset.json", "plan.json"]:
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    made(world, tmp_path / "stopped")
    assert len(calls) == 15
    with pytest.raises(ValueError, match=r"belongs to another run: options\.seed was 0, is now 1"):
        made(world, tmp_path / "stopped", seed=1)
    with pytest.raises(ValueError, match=r"belongs to another run: .*inputs"):
        made(world, tmp_path / "stopped", "views")


def test_what_is_kept_and_divided_changes_no_sample(world, tmp_path, monkeypatch):
    _, plain = made(world, tmp_path / "plain", count=40)
    assert len(plain.files) == 1
    monkeypatch.setattr(run, "_SHARD_IDS", 48 * 30)
    monkeypatch.setattr(maker, "_KEPT_IDS", 48 * 3)
    monkeypatch.setattr(maker, "_BATCH", 5)
    _, divided = made(world, tmp_path / "divided", count=40)
    assert [file.rows for file in divided.files] == [30] * 8
    for left, right in zip(plain.records(), divided.records(), strict=True):
        assert (left.key, left.columns) == (right.key, right.columns)
        np.testing.assert_array_equal(left.grids["image"], right.grids["image"])


def test_what_is_true_of_a_stopped_run_is_said(world, tmp_path):
    options = PairsOptions(shards=str(world / "plain"), out=str(tmp_path / "out"), operations=("grey",), count=2)
    assert options.interrupted() == "nothing was written, and the same command begins anew"
    make_pairs(options)
    assert "the same command makes the others" in options.interrupted()


def test_held_out_pictures_and_operations_are_in_no_sequence_for_training(world, tmp_path):
    result, shards = made(
        world, tmp_path / "out", count=60, validation_fraction=0.4, held_out_operations=("blur",), pairs=1
    )
    assert 10 < result.held_out < 40
    train, held = set(), set()
    for records in batched(shards.records(), 4):
        (part,) = {record.columns["part"] for record in records}
        assert {held_out(record.columns["sample"], 0.4) for record in records} == {part == "held-out"}
        (held if part == "held-out" else train).add(records[0].columns["operation"])
    assert train == set(OPERATIONS)
    assert held == {*OPERATIONS, "blur"}
    listed = (tmp_path / "out/held_out.txt").read_text().splitlines()
    first = [record for record in shards.records() if record.key.endswith("/a1")]
    assert listed == [record.key for record in first if record.columns["part"] == "held-out"]
    assert len(listed) == result.held_out
    assert verify(tmp_path / "out").rows == 240


def test_two_streams_make_pairs(world, tmp_path):
    result, shards = made(world, tmp_path / "out", "views", operations=(), streams=("image@g", "image"))
    assert result.operations == {"image@g -> image": 12}
    assert list(shards.streams) == ["image"]
    stored = {record.key: record.grids for record in ShardSet.open(world / "views").records()}
    for first, second in batched(shards.records(), 2):
        grids = stored[first.columns["sample"]]
        np.testing.assert_array_equal(first.grids["image"], grids["image@g"])
        np.testing.assert_array_equal(second.grids["image"], grids["image"])
    with pytest.raises(ValueError, match=r"different tokenizers.*'image text image -> text'"):
        made(world, tmp_path / "other", "views", operations=(), streams=("image", "text"))


def test_true_sizes_and_the_recipe_go_along(world, tmp_path):
    tokenizer = toy_autoencoder()
    _, shards = made(world, tmp_path / "out", "learned", operations=("flip",), count=3)
    for first, second in batched(shards.records(), 2):
        assert first.sizes == second.sizes == {"image": (5, 6)}
        grid = torch.from_numpy(first.grids["image"].astype(np.int64))
        (sample,) = decode_sized(tokenizer, [grid], [(5, 6)])
        np.testing.assert_array_equal(second.grids["image"], tokenizer.encode(sample.flip(-1)))
    options = DecodeOptions(shards=str(tmp_path / "out"), tokenizer=str(world / "auto"), out=str(tmp_path / "files"))
    assert decode(options).files == 18
    assert Image.open(tmp_path / "files/pairs2.0/00000001/answer.png").size == (6, 5)
    _, shards = made(world, tmp_path / "sized", "views")
    assert Preparation.of_options(shards.manifest.options) == Preparation(4)


def test_a_query_alone_has_no_examples(world, tmp_path):
    result, shards = made(world, tmp_path / "out", pairs=0, count=2)
    assert [record.key.rpartition("/")[2] for record in shards.records()] == ["query", "answer"] * 2
    assert result.template == "image -> image"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operations": ()}, "give --operations, or else the two --streams"),
        ({"streams": ("image", "image@g")}, "give --operations, or else the two --streams"),
        ({"operations": ("gray",)}, "pictures have no operation 'gray'.*did you mean 'grey'"),
        ({"operations": ("grey", "grey")}, "the operation grey is given twice"),
        ({"operations": (), "streams": ("image",)}, "a pair is made of two streams"),
        ({"operations": (), "streams": ("image", "image@x")}, "no stream is named 'image@x'"),
        ({"stream": "imag"}, "no stream is named 'imag'.*did you mean 'image'"),
        ({"pairs": -1}, "--pairs -1 must be 0 or more"),
        ({"count": 0}, "--count 0 must be at least 1"),
        ({"seed": -1}, "--seed -1 must be 0 or more"),
        ({"validation_fraction": 1.0}, "--validation-fraction 1.0 must be"),
        ({"held_out_operations": ("blur",)}, "give --validation-fraction"),
        ({"pairs": 30}, "30 of 30 samples are for training .* needs 31"),
        ({"validation_fraction": 0.01}, "samples are held out .* needs 3"),
        ({"stream": "text"}, "texts have no operation 'grey'"),
    ],
)
def test_what_cannot_be_made_is_refused(world, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        made(world, tmp_path / "out", "views", **changes)
    assert not (tmp_path / "out").exists()


def test_what_an_operation_makes_must_be_a_picture(world, tmp_path):
    huge = "resize:99999x99999"
    with pytest.raises(
        ValueError, match=f"samples cannot be changed by one of {huge} and encoded: .*outside the limit"
    ):
        made(world, tmp_path / "out", operations=(huge,))


def test_the_command_tells_the_template(world, tmp_path, capsys):
    command = ["pairs", "--shards", str(world / "plain"), "--operations", "grey", "--pairs", "1", "--count", "4"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "4 sequences, 16 samples of 768 tokens" in told
    assert "template: image image image -> image" in told
    assert main([*command, "--out", str(tmp_path / "out"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["operations"] == {"grey": 4}
