"""--codebooks N: shards, files and measurements of only the first codebooks of a tokenizer."""

import json

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from toys.autoencoder import RVQ, toy_autoencoder
from toys.codec import HOP, ToyCodec
from toys.simple import ToyText

from tokenize_kit.metrics.evaluate import evaluate
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import TokenSpec
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.decode import DecodeOptions, decode
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.verify import verify

LENGTHS = (1, 4, 5, 40, 203)


@pytest.fixture
def made(tmp_path):
    """Five sounds with texts and the folders of a codec of four codebooks and a text tokenizer."""
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    for number, length in enumerate(LENGTHS):
        samples = rng.uniform(-0.9, 0.9, length)
        soundfile.write(tmp_path / f"files/{number}.wav", samples, 8000, subtype="FLOAT")
        (tmp_path / f"files/{number}.txt").write_text("word")
    ToyCodec().save(tmp_path / "codec")
    ToyText().save(tmp_path / "text")
    return tmp_path


def options_for(made, out="shards", tokenizers=("codec",), **changes):
    return EncodeOptions(
        tuple(str(made / name) for name in tokenizers), (str(made / "files"),), str(made / out), **changes
    )


def expected(made, count):
    sounds = [soundfile.read(made / f"files/{number}.wav", dtype="float32")[0] for number in range(len(LENGTHS))]
    return [ToyCodec().encode(torch.from_numpy(sound)[None])[:, :count].tolist() for sound in sounds]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_shards_hold_the_first_codebooks_of_each_step(made, count):
    result = encode(options_for(made, codebooks=count))
    shards = ShardSet.open(made / "shards")
    assert [record.grids["audio"].tolist() for record in shards.records()] == expected(made, count)
    assert [record.sizes["audio"] for record in shards.records()] == [(length,) for length in LENGTHS]
    assert result.tokens == shards.num_tokens == {"audio": sum(-(-length // HOP) for length in LENGTHS) * count}
    assert json.loads((made / "shards" / "dataset.json").read_text())["options"]["codebooks"] == count
    assert verify(made / "shards", [str(made / "codec")]).rows == len(LENGTHS)


def test_a_text_beside_the_sound_stays_whole_and_workers_give_the_same_bytes(made):
    both = ("codec", "text")
    encode(options_for(made, tokenizers=both, codebooks=2, shard_mb=0.0005))
    encode(options_for(made, "again", tokenizers=both, codebooks=2, shard_mb=0.0005, workers=2))
    shards = ShardSet.open(made / "shards")
    assert [record.grids["audio"].tolist() for record in shards.records()] == expected(made, 2)
    assert [record.grids["text"].tolist() for record in shards.records()] == [ToyText().encode("word").tolist()] * 5
    files = sorted((made / "shards").glob("*.arrow"))
    assert len(files) > 1
    assert [file.read_bytes() for file in files] == [(made / "again" / file.name).read_bytes() for file in files]


def test_the_estimate_counts_what_would_be_written(made):
    whole, part = (encode(options_for(made, codebooks=count, dry_run=True)).tokens["audio"] for count in (None, 1))
    assert whole == 4 * part


def test_another_number_is_another_run_and_none_leaves_no_trace(made):
    encode(options_for(made, codebooks=2))
    assert encode(options_for(made, codebooks=2)).rows == len(LENGTHS)
    for count, now in ((3, "options.codebooks was 2, is now 3"), (None, "options.codebooks was 2, is now null")):
        with pytest.raises(ValueError, match=now):
            encode(options_for(made, codebooks=count))
    encode(options_for(made, "whole"))
    # As before there was the option: a run of an older version is continued.
    for name in ("dataset.json", "plan.json"):
        assert "codebooks" not in json.loads((made / "whole" / name).read_text())["options"]
    with pytest.raises(ValueError, match=r"options\.codebooks was null, is now 4"):
        encode(options_for(made, "whole", codebooks=4))


def test_pictures_of_a_residual_quantizer_are_cut_too(tmp_path):
    tokenizer = toy_autoencoder(RVQ)
    tokenizer.save(tmp_path / "auto")
    picture = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    encode(EncodeOptions((str(tmp_path / "auto"),), (str(tmp_path / "a.png"),), str(tmp_path / "shards"), codebooks=2))
    grid = ShardSet.open(tmp_path / "shards").record(0).grids["image"]
    assert grid.shape == (2, 3, 2)
    assert grid.tolist() == tokenizer.encode(torch.from_numpy(picture).permute(2, 0, 1))[..., :2].tolist()


@pytest.mark.parametrize(
    ("tokenizers", "count", "message"),
    [
        (("text",), 1, r"--codebooks 1: the grids of this tokenizer \(axes time\) have no codebooks"),
        (("codec",), 5, "--codebooks 5 must be from 1 to 4, the codebooks of this tokenizer"),
        (("codec", "text"), 0, "--codebooks 0 must be from 1 to 4"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_before_anything_is_written(made, tokenizers, count, message):
    with pytest.raises(ValueError, match=message):
        encode(options_for(made, tokenizers=tokenizers, codebooks=count))
    assert not (made / "shards").exists()


def test_a_tokenizer_that_gives_fewer_than_its_spec_lets_expect_is_told(made, monkeypatch):
    # With one size for all codebooks the spec does not say how many there are.
    spec = TokenSpec("audio", 3, ("time", "codebook"), (HOP, None), lossless=False, channels=1, sample_rate=8000)
    monkeypatch.setattr(ToyCodec, "spec", spec)
    ToyCodec().save(made / "one-size")
    encode(options_for(made, tokenizers=("one-size",), codebooks=4))
    with pytest.raises(ValueError, match="gave a grid of 4 codebooks, fewer than --codebooks 5; use 4 or fewer"):
        encode(options_for(made, "more", tokenizers=("one-size",), codebooks=5))


@pytest.mark.parametrize("count", [1, 2, None])
def test_files_are_decoded_from_the_first_codebooks(made, count):
    encode(options_for(made, codebooks=3))
    result = decode(DecodeOptions(str(made / "shards"), str(made / "codec"), str(made / "out"), codebooks=count))
    assert result.tokens == sum(-(-length // HOP) for length in LENGTHS) * (count or 3)
    for number, (length, ids) in enumerate(zip(LENGTHS, expected(made, count or 3), strict=True)):
        sound = soundfile.read(made / f"out/{number}.wav", dtype="float32")[0]
        wanted = ToyCodec().decode(torch.tensor(ids))[0, :length].numpy()
        assert len(sound) == length
        assert np.abs(sound - wanted).max() <= 2**-15


def test_more_codebooks_than_are_stored_cannot_be_decoded(made):
    encode(options_for(made, codebooks=2))
    for count, message in ((3, "has 2 codebooks, fewer than --codebooks 3; use 2"), (5, "from 1 to 4")):
        with pytest.raises(ValueError, match=message):
            decode(DecodeOptions(str(made / "shards"), str(made / "codec"), str(made / "out"), codebooks=count))


def test_an_evaluation_measures_the_first_codebooks(made):
    def measured(count):
        options = EvaluateOptions(
            str(made / "codec"), (str(made / "files/3.wav"), str(made / "files/4.wav")), codebooks=count
        )
        return evaluate(options, Progress(enabled=False))

    results = {count: measured(count) for count in (1, 2, 4, None)}
    steps = sum(-(-length // HOP) for length in LENGTHS[3:])
    for count, result in results.items():
        assert result.metrics["tokens"] == steps * (count or 4)
        assert len(result.codebooks) == (count or 4)
        bits = steps * (count or 4) * np.log2(3)
        assert result.metrics["kilobits_per_second"] == pytest.approx(bits / (sum(LENGTHS[3:]) / 8000) / 1000)
        assert ("Only the first" in result.protocol) == (count is not None)
    assert results[4].metrics["si_sdr"] == results[None].metrics["si_sdr"] > results[1].metrics["si_sdr"]
    with pytest.raises(ValueError, match="--codebooks 5 must be from 1 to 4"):
        measured(5)


def test_the_rate_table_goes_up_to_the_codebooks_that_were_measured(made):
    options = EvaluateOptions(str(made / "codec"), (str(made / "files/4.wav"),), codebooks=2)
    result = evaluate(options, Progress(enabled=False), codecs=True)
    assert [point.name for point in result.rate.fixed_rate] == [
        "tokens, 1 codebook, fixed length",
        "tokens, 2 codebooks, fixed length",
    ]
