"""True sizes of samples beside grids that cover more: written, read, verified, and used when decoding."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from toys.autoencoder import toy_autoencoder
from toys.damage import read_unsigned
from toys.simple import RaggedToyText, ToyImage

from tokenize_kit.cli.main import main
from tokenize_kit.files import sha256_of_file, write_json
from tokenize_kit.media.image import read_image, resize_image
from tokenize_kit.modalities.image import ImageModality
from tokenize_kit.protocol import MODALITIES, TokenSpec
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.decode import DecodeOptions, decode
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.recipe import Recipe
from tokenize_kit.shards.verify import verify
from tokenize_kit.sources.planning import ReadOptions
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer

SIZES = [(1, 1), (4, 8), (5, 3), (13, 30), (16, 9), (13, 30)]


@pytest.fixture
def made(tmp_path):
    """Pictures of odd sizes, encoded by an autoencoder and as pixels."""
    generator = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    for number, (height, width) in enumerate(SIZES):
        Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(tmp_path / f"files/{number}.png")
    toy_autoencoder().save(tmp_path / "auto")
    PixelTokenizer(3).save(tmp_path / "pixels")
    tokenizers = (f"code={tmp_path / 'auto'}", f"pixel={tmp_path / 'pixels'}")
    encode(EncodeOptions(tokenizers, (str(tmp_path / "files"),), str(tmp_path / "shards")))
    return tmp_path


def test_sizes_are_written_for_the_grids_that_cover_more(made):
    shards = ShardSet.open(made / "shards")
    assert [shards.streams[name].spec.size_axes for name in ("code", "pixel")] == [2, 0]
    batch = shards.batches(0)[0]
    assert batch.schema.field("code.size").type == pa.list_(pa.field("item", pa.int32(), nullable=False), 2)
    assert "pixel.size" not in batch.schema.names
    for number, (size, record) in enumerate(zip(SIZES, shards.records(), strict=True)):
        assert record.key == f"{number}.png"
        assert record.sizes == {"code": size}
        assert record.grids["code"].shape == (-(-size[0] // 4), -(-size[1] // 4))
        assert shards.record(number).sizes == {"code": size}
    (array,) = shards.stream_arrays("code")
    assert array.sizes.tolist() == [list(size) for size in SIZES]
    assert shards.stream_arrays("pixel")[0].sizes is None
    assert verify(made / "shards", [f"code={made / 'auto'}"]).rows == len(SIZES)


def test_decoding_gives_pictures_of_the_true_size(made, tmp_path):
    result = decode(DecodeOptions(str(made / "shards"), f"code={made / 'auto'}", str(tmp_path / "back")))
    assert result.files == len(SIZES)
    tokenizer = toy_autoencoder()
    for number, (height, width) in enumerate(SIZES):
        original = read_image((made / f"files/{number}.png").read_bytes(), 3)
        back = read_image((tmp_path / f"back/{number}.png").read_bytes(), 3)
        whole = tokenizer.decode(tokenizer.encode(original))
        assert torch.equal(back, whole[:, :height, :width])


def test_two_workers_write_the_same_sizes(made, tmp_path):
    options = {"tokenizer": (str(made / "auto"),), "data": (str(made / "files"),), "shard_mb": 0.001}
    encode(EncodeOptions(out=str(tmp_path / "one"), **options))
    encode(EncodeOptions(out=str(tmp_path / "two"), workers=2, **options))
    one, two = ShardSet.open(tmp_path / "one"), ShardSet.open(tmp_path / "two")
    assert len(one.files) > 1
    assert one.files == two.files


def test_a_changed_size_is_noticed(made):
    folder = made / "shards"
    path = folder / "00000.arrow"
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    place = table.schema.get_field_index("code.size")
    for sizes, message in (
        ([[-1, 3], *SIZES[1:]], "stream code has a sample with a negative size"),
        ([[9, 3], *SIZES[1:]], "stream code has a sample of the height 9, but a grid of 1 steps of 4"),
        ([[1, 0], *SIZES[1:]], "stream code has a sample of the width 0, but a grid of 1 steps of 4"),
    ):
        changed = table.set_column(place, table.schema.field(place), pa.array(sizes, table.schema.field(place).type))
        with path.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(changed)
        values = read_unsigned(folder / "dataset.json")
        values["files"][0].update(sha256=sha256_of_file(path), bytes=path.stat().st_size)
        write_json(folder / "dataset.json", values)
        with pytest.raises(ValueError, match=message):
            verify(folder)


class Volumes(ImageModality):
    """A kind of data whose samples have three numbers as their size."""

    size_axes = 3


def test_spec_says_how_many_numbers_a_size_has(monkeypatch):
    monkeypatch.setitem(MODALITIES._registered, "video", Volumes())
    cases = [
        (("image", 9, ("height", "width"), (4, 4)), 2),
        (("image", 9, ("height", "width"), (1, 1)), 0),
        (("image", (9, 9), ("height", "width", "codebook"), (8, 8, None)), 2),
        (("image", 256, ("height", "width", "channel"), (1, 1, None)), 0),
        (("video", 9, ("time", "height", "width"), (4, 8, 8)), 3),
        (("audio", (9,), ("time", "codebook"), (320, None)), 1),
        (("audio", 256, ("time",), (1,)), 0),
        (("text", 300, ("time",), (None,)), 0),
    ]
    for values, expected in cases:
        assert TokenSpec(*values, lossless=False).size_axes == expected, values


def test_a_tokenizer_that_covers_exactly_decodes_as_before(tmp_path):
    """Two pixels a step, so sizes are stored; but it knows no `decode_sized`, so they are not used."""
    (tmp_path / "files").mkdir()
    Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "files" / "a.png")
    ToyImage().save(tmp_path / "toy")
    encode(EncodeOptions((str(tmp_path / "toy"),), (str(tmp_path / "files"),), str(tmp_path / "shards")))
    assert ShardSet.open(tmp_path / "shards").record(0).sizes == {"image": (4, 6)}
    decode(DecodeOptions(str(tmp_path / "shards"), str(tmp_path / "toy"), str(tmp_path / "back")))
    assert read_image((tmp_path / "back" / "a.png").read_bytes(), 3).shape == (3, 4, 6)


def test_texts_have_no_sizes(tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    RaggedToyText().save(tmp_path / "toy")
    encode(EncodeOptions((str(tmp_path / "toy"),), (str(tmp_path / "a.txt"),), str(tmp_path / "shards")))
    shards = ShardSet.open(tmp_path / "shards")
    assert shards.record(0).sizes == {}
    assert shards.batches(0)[0].schema.names == ["key", "text", "text.shape"]


def test_no_crop_keeps_the_proportions(made, tmp_path, capsys):
    common = [
        "encode",
        "--tokenizer",
        str(made / "auto"),
        "--data",
        str(made / "files"),
        "--image-size",
        "8",
        "--quiet",
    ]
    assert main([*common, "--out", str(tmp_path / "square")]) == 0
    assert main([*common, "--no-crop", "--out", str(tmp_path / "whole")]) == 0
    assert [record.sizes["image"] for record in ShardSet.open(tmp_path / "square").records()] == [(8, 8)] * len(SIZES)
    expected = [(round(8 * h / min(h, w)), round(8 * w / min(h, w))) for h, w in SIZES]
    assert [record.sizes["image"] for record in ShardSet.open(tmp_path / "whole").records()] == expected
    # It decides about the bytes, so a folder of the one is not continued with the other.
    assert main([*common, "--out", str(tmp_path / "whole")]) == 1
    assert "crop" in capsys.readouterr().err


def test_pad_keeps_the_whole_picture_and_is_part_of_the_recipe(made, tmp_path):
    def shards(name, **options):
        where = (f"{made / 'pixels'}",), (str(made / "files"),), str(tmp_path / name)
        encode(EncodeOptions(*where, image_size=8, **options))
        return ShardSet.open(tmp_path / name)

    padded = shards("padded", pad=True)
    for number, record in enumerate(padded.records()):
        grid = record.grids["image"]
        picture = read_image((made / f"files/{number}.png").read_bytes(), 3)
        assert np.array_equal(grid, resize_image(picture, 8, pad=True).permute(1, 2, 0).numpy())
    for name in ("image_size", "crop"):
        assert name in json.loads((tmp_path / "padded" / "plan.json").read_text())["options"]
    assert json.loads((tmp_path / "padded" / "plan.json").read_text())["options"]["pad"] is True
    with pytest.raises(ValueError, match="pad"):
        shards("padded")
    # Without it the recipe says what it always said, so that runs from before can be continued.
    shards("cropped")
    assert "pad" not in json.loads((tmp_path / "cropped" / "plan.json").read_text())["options"]
    read, stream = ReadOptions(modalities=("image",)), padded.streams["image"]
    for recipe in (Recipe(read, (stream,), 8), Recipe(read, (stream,), 8, pad=True)):
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
        assert ("pad" in recipe.to_dict()) == recipe.pad


@pytest.mark.parametrize(
    "command",
    [
        ["encode", "--tokenizer", "pixels", "--data", "files", "--out", "new"],
        ["evaluate", "--tokenizer", "pixels", "--data", "files"],
        ["train", "palette", "--data", "files", "--out", "new"],
        ["train", "image", "--data", "files", "--out", "new"],
    ],
)
def test_pad_needs_a_size(made, monkeypatch, capsys, command):
    monkeypatch.chdir(made)
    assert main([*command, "--pad"]) in (1, 2)
    assert "--pad needs an --image-size" in capsys.readouterr().err
    assert not (made / "new").exists()
