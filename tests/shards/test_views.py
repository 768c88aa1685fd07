"""Views: streams that are changed forms of others, made when samples are encoded."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from toys.world import Letters, Shades

from tokenize_kit.cli.main import main
from tokenize_kit.files import read_json_object
from tokenize_kit.modalities.image import IMAGE
from tokenize_kit.modalities.video import VIDEO
from tokenize_kit.protocol import change_of, load_tokenizer
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.decode import DecodeOptions, decode
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.ledger import ledger_path
from tokenize_kit.shards.preparation import Preparation
from tokenize_kit.shards.verify import verify
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from tokenize_kit.tokenizers.text.chars import CharsTokenizer
from tokenize_kit.tokenizers.video.frames import FramesTokenizer

VIEWS = ("small=resize:4", "grey=grey", "both=grey+resize:2x6")
COUNT = 9


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    for number in range(COUNT):
        pixels = generator.integers(0, 256, (12, 8 + number % 3, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"files/{number}.png")
        (tmp_path / f"files/{number}.txt").write_text(f"number {number}")
    PixelTokenizer(3).save(tmp_path / "pixels")
    CharsTokenizer("number 0123456789").save(tmp_path / "chars")
    return tmp_path


def run(folder, out="shards", tokenizer=("pixels",), view=VIEWS, **changes):
    named = tuple(f"{name}{equals}{folder / path}" for name, equals, path in (one.rpartition("=") for one in tokenizer))
    values = {"image_size": 8, **changes}
    return encode(EncodeOptions(named, (str(folder / "files"),), str(folder / out), view=view, **values))


def test_views_are_streams_of_the_same_samples(pictures):
    result = run(pictures)
    assert result.rows == COUNT
    assert list(result.tokens) == ["image", "image@small", "image@grey", "image@both"]
    shards, tokenizer = ShardSet.open(pictures / "shards"), PixelTokenizer(3)
    assert shards.manifest.options["views"] == {
        "image@small": "resize:4",
        "image@grey": "grey",
        "image@both": "grey+resize:2x6",
    }
    shapes = {"image@small": (4, 4, 3), "image@grey": (8, 8, 3), "image@both": (2, 6, 3)}
    for record in shards.records():
        original = tokenizer.decode(torch.from_numpy(record.grids["image"].astype(np.int64)))
        for name, operations in shards.manifest.options["views"].items():
            expected = tokenizer.encode(change_of(IMAGE, operations)(original))
            assert tuple(expected.shape) == shapes[name]
            np.testing.assert_array_equal(record.grids[name], expected)
    report = verify(pictures / "shards", [f"image@grey={pictures / 'pixels'}"])
    assert list(report.tokenizers) == ["image@grey"]
    assert load_tokenizer(pictures / "shards/tokenizers/image@small").fingerprint == tokenizer.fingerprint


def test_a_view_is_decoded_and_inspected_by_its_name(pictures, capsys):
    run(pictures)
    options = DecodeOptions(
        shards=str(pictures / "shards"), tokenizer=f"image@both={pictures / 'pixels'}", out=str(pictures / "back")
    )
    assert decode(options).files == COUNT
    assert Image.open(pictures / "back/0.png").size == (6, 2)
    assert main(["inspect", str(pictures / "shards"), "--rows", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    facts = facts.get("facts", facts)
    assert facts["streams"]["image@both"]["view"] == "grey+resize:2x6"
    assert "view" not in facts["streams"]["image"]
    assert facts["first_rows"][0]["image@small"]["shape"] == [4, 4, 3]


def test_workers_and_stopped_runs_give_the_same_bytes(pictures):
    run(pictures, "whole", shard_mb=0.001)
    run(pictures, "several", shard_mb=0.001, workers=2)
    files = sorted(path.name for path in (pictures / "whole").glob("*.arrow"))
    assert len(files) > 2
    run(pictures, "stopped", shard_mb=0.001)
    stopped = pictures / "stopped"
    (stopped / "dataset.json").unlink()
    ledger_path(stopped, 1).unlink()
    (stopped / files[-1]).unlink()
    kept = (stopped / files[0]).stat().st_mtime_ns
    run(pictures, "stopped", shard_mb=0.001)
    assert (stopped / files[0]).stat().st_mtime_ns == kept
    for name in [*files, "dataset.json"]:
        assert (pictures / "several" / name).read_bytes() == (pictures / "whole" / name).read_bytes()
        assert (stopped / name).read_bytes() == (pictures / "whole" / name).read_bytes()


def test_other_views_are_another_run(pictures):
    run(pictures)
    with pytest.raises(ValueError, match=r"belongs to another run: streams\.image@grey"):
        run(pictures, view=VIEWS[:1])
    with pytest.raises(ValueError, match=r"options\.views\.image@small was \"resize:4\", is now \"resize:2\""):
        run(pictures, view=("small=resize:2", *VIEWS[1:]))


def test_without_views_nothing_is_recorded_of_them(pictures):
    run(pictures, view=())
    assert "views" not in read_json_object(pictures / "shards/dataset.json")["options"]


def test_a_view_may_have_a_tokenizer_of_its_own(pictures):
    Letters().save(pictures / "letters")
    run(pictures, tokenizer=("pixels", "image@small=pixels"), view=("small=resize:4",))
    assert list(ShardSet.open(pictures / "shards").streams) == ["image", "image@small"]
    Shades().save(pictures / "shades")
    with pytest.raises(ValueError, match="image@small wants other channels or another sample rate than image"):
        run(pictures, "other", tokenizer=("pixels", "image@small=shades"), view=("small=resize:4",))
    with pytest.raises(ValueError, match="image@small is a view of image, but its tokenizer reads text"):
        run(pictures, "other", tokenizer=("pixels", "image@small=letters"), view=("small=resize:4",))
    with pytest.raises(ValueError, match="names the view image@small, and no --view says what it is"):
        run(pictures, "other", tokenizer=("pixels", "image@small=pixels"), view=())


def test_of_several_streams_the_view_says_of_which(pictures):
    result = run(pictures, tokenizer=("chars", "pixels"), view=("small=resize:4",))
    assert list(result.tokens) == ["text", "image", "image@small"]
    both = ("a=pixels", "b=pixels")
    with pytest.raises(ValueError, match="does not say which of the streams a, b it is of; write a@small=resize:4"):
        run(pictures, "two", tokenizer=both, view=("small=resize:4",))
    result = run(pictures, "two", tokenizer=both, view=("a@x=flip", "b@x=grey"))
    assert list(result.tokens) == ["a", "b", "a@x", "b@x"]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (("resize:4",), "says not what is done"),
        (("small=",), "says not what is done"),
        (("photo@small=resize:4",), "there is no stream 'photo'; there is image"),
        (("a.b=grey",), "'a.b' cannot name a view"),
        (("image@=grey",), "'' cannot name a view"),
        (("x=grey", "X=flip"), "gives image@X twice"),
        (("x=gray",), "pictures have no operation 'gray' .*did you mean"),
    ],
)
def test_what_says_no_view_is_refused(pictures, view, message):
    with pytest.raises(ValueError, match=message):
        run(pictures, view=view)
    assert not (pictures / "shards").exists()


def test_texts_have_no_views(pictures):
    with pytest.raises(ValueError, match="texts have no operations; leave it out"):
        run(pictures, tokenizer=("chars",), view=("x=grey",), image_size=None)


def test_a_sample_of_which_a_view_cannot_be_made_is_a_failure(pictures):
    with pytest.raises(Exception, match=r"none of 9 samples could be read.*outside the limit"):
        run(pictures, view=("huge=resize:999999x999999",))


def test_a_prompt_is_brought_to_the_view(pictures):
    run(pictures)
    prepared = Preparation.of_options(ShardSet.open(pictures / "shards").manifest.options)
    assert Preparation.of_options(prepared.to_dict()) == prepared
    path, tokenizer = pictures / "files/1.png", PixelTokenizer(3)
    record = ShardSet.open(pictures / "shards").record(1)
    for stream in record.grids:
        sample, notes = prepared.read(path.name, path, tokenizer.spec, stream)
        np.testing.assert_array_equal(tokenizer.encode(sample), record.grids[stream])
        assert ("changed by" in notes[-1]) == ("@" in stream)
    assert notes[-1] == "changed by grey+resize:2x6, as the data of the model were"


def test_films_have_views_frame_by_frame(tmp_path):
    tokenizer = FramesTokenizer(12.0, 3)
    film = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), np.uint8))
    (tmp_path / "files").mkdir()
    VIDEO.write(film, tmp_path / "files/a.mkv", tokenizer.spec)
    tokenizer.save(tmp_path / "frames")
    options = EncodeOptions(
        (str(tmp_path / "frames"),),
        (str(tmp_path / "files"),),
        str(tmp_path / "shards"),
        view=("grey=resize:4+grey",),
        clip_frames=2,
    )
    assert encode(options).rows == 3
    shards = ShardSet.open(tmp_path / "shards")
    for record in shards.records():
        clip = tokenizer.decode(torch.from_numpy(record.grids["video"].astype(np.int64)))
        expected = tokenizer.encode(change_of(VIDEO, "resize:4+grey")(clip))
        np.testing.assert_array_equal(record.grids["video@grey"], expected)
    prepared = Preparation.of_options(shards.manifest.options)
    sample, _ = prepared.read("a.mkv", tmp_path / "files/a.mkv", tokenizer.spec, "video@grey")
    np.testing.assert_array_equal(tokenizer.encode(sample), shards.record(0).grids["video@grey"])


def test_a_dry_run_tells_of_the_views(pictures):
    result = run(pictures, dry_run=True)
    assert result.estimated
    assert result.tokens["image@small"] * 4 == result.tokens["image@grey"] == result.tokens["image"]
    assert not (pictures / "shards").exists()


def test_what_shard_sets_have_in_common_of_their_views():
    first = Preparation(8, views={"image@small": "resize:4", "image@grey": "grey"})
    second = Preparation(8, views={"image@grey": "grey", "image@x": "flip"})
    assert Preparation.common([first, second]).views == {**first.views, **second.views}
    assert Preparation.common([Preparation(8), first]) == first
    with pytest.raises(
        ValueError, match="image@small is a view by resize:4 in one shard set and by resize:2 in another"
    ):
        Preparation.common([first, second, Preparation(8, views={"image@small": "resize:2"})])
    with pytest.raises(ValueError, match="damaged"):
        Preparation.of_options({"views": {"image@small": 4}})
