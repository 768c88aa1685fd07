"""``compare`` on the command line: tokenizers of texts and of captioned pictures, a kill in between, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from toys.world import Letters, Shades, text_samples, write_shards

from tokenize_kit.cli.main import main
from tokenize_kit.sources.heldout import held_out, key_fraction
from trainers.autoregressive.comparing import parts
from trainers.autoregressive.comparing.contestant import Contestant
from trainers.autoregressive.comparing.options import CompareOptions
from trainers.autoregressive.comparing.rank import caption_ranks, likelihoods
from trainers.autoregressive.comparing.timing import StepClock
from trainers.autoregressive.likelihood import score
from trainers.autoregressive.model_folder import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ["--model.layers", "1", "--model.width", "16", "--model.heads", "2", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Eighty paragraphs, a tokenizer of characters and one of words."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    words = "the cat dog bird sat sang on a mat".split()
    paragraphs = [" ".join(rng.choice(words, rng.integers(3, 8))) for _ in range(80)]
    (folder / "corpus.txt").write_text("\n\n".join(paragraphs))
    for kind in ("chars", "words"):
        data = ["--data", str(folder / "corpus.txt"), "--out", str(folder / kind)]
        assert main(["train", kind, *data, "--quiet"]) == 0
    return folder


def compare(folder, out, *more, tokenizers=("chars", "words"), data="corpus.txt"):
    named = [str(folder / name) for name in tokenizers]
    given = ["compare", "--tokenizer", *named, "--data", str(folder / data), "--out", str(out)]
    return main([*given, "--held-out", "6", "--validation-fraction", "0.2", "--samples", "2", *SMALL, *more])


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_texts_in_characters_and_in_words(texts, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--split", "paragraphs", "--minutes", "0.002", "--batch-tokens", "64", "--context", "32", "--json"]
    assert compare(texts, out, *command) == 0
    told = json.loads(capsys.readouterr().out)
    assert json.loads((out / "results.json").read_text()) == told
    chars, words = told["tokenizers"]
    assert (chars["name"], words["name"], told["unit"], told["samples"]) == ("chars", "words", "bits per byte", 6)
    assert chars["distortion"] == words["distortion"] == 0.0
    assert chars["tokens_a_sample"] > 3 * words["tokens_a_sample"]
    listed = [json.loads(line)["key"] for line in (out / "held_out.jsonl").read_text().splitlines()]
    assert len(listed) == 6
    assert all(held_out(key, 0.2) for key in listed)
    for one in told["tokenizers"]:
        metrics = one["metrics"]
        size = metrics["bytes"]
        assert one["packed"] == pytest.approx((one["vocabulary"] - 1).bit_length() * metrics["tokens"] / size)
        assert one["entropy"] == metrics["entropy_bits_per_byte"]
        # The model's own reckoning, by another way: of these tokenizers a text of n bytes decodes to n bytes.
        trained = json.loads((out / one["name"] / "model" / "train_log.jsonl").read_text().splitlines()[-1])
        (rate,) = (value for name, value in trained.items() if name.startswith("validation/text/bits_per_byte"))
        assert one["prior"] == pytest.approx(rate)
        assert one["steps"] == max(1, int(0.12 / one["trial_seconds_a_step"]))
        assert len(list((out / one["name"] / "samples").glob("sample_*.txt"))) == 2
        assert one["rank"] == {}
    page = (out / "report.html").read_text()
    assert "No rank of true captions" in page
    assert "the same models are made anew" in page

    # A kill: the last parts of the second tokenizer and the results are gone.
    before = files_of(out)
    for name in ("results.json", "report.html", "words/drawn.json", "words/rank.json", "words/training.json"):
        (out / name).unlink()
    assert compare(texts, out, *command) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["prior"] for row in again["tokenizers"]] == [chars["prior"], words["prior"]]
    after = files_of(out)
    timed = {"results.json", "report.html", "words/training.json"}
    assert {name for name in before if before[name] != after.get(name)} <= timed
    # Everything is there: nothing is done again, and nothing changes.
    assert compare(texts, out, *command) == 0
    assert files_of(out) == after
    capsys.readouterr()
    assert compare(texts, out, *command[:-1], "--seed", "1") == 1
    assert "is not an empty folder" in capsys.readouterr().err

    # Given the steps, another folder has the same models.
    steps = ["--steps", str(chars["steps"]), str(words["steps"])]
    assert compare(texts, tmp_path / "other", *command, *steps) == 0
    other = json.loads(capsys.readouterr().out)
    assert [row["prior"] for row in other["tokenizers"]] == [chars["prior"], words["prior"]]
    assert [row["trial_seconds_a_step"] for row in other["tokenizers"]] == [None, None]
    for name in ("chars", "words"):
        assert (tmp_path / "other" / name / "model" / "model.safetensors").read_bytes() == (
            out / name / "model" / "model.safetensors"
        ).read_bytes()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Sixty captioned pictures 2x3 in the shade of their caption, and tokenizers of pixels, shades and captions."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "data.tar", "w") as tar:
        for number in range(60):
            shade = int(rng.integers(0, 4))
            image = folder / f"{number}.png"
            Image.fromarray((shade * 64 + rng.integers(0, 2, (2, 3)) * 16).astype(np.uint8)).save(image)
            text = folder / f"{number}.txt"
            text.write_text(("black", "dark", "light", "white")[shade])
            tar.add(image, image.name)
            tar.add(text, text.name)
    assert main(["create", "pixels", "--channels", "1", "--out", str(folder / "pixels"), "--quiet"]) == 0
    Shades().save(folder / "shades")
    Letters().save(folder / "letters")
    return folder


def test_pictures_with_captions(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--minutes", "1", "--steps", "2", "30", "--batch-tokens", "256", "--captions", str(pictures / "letters")]
    more += ["--rank-samples", "5", "--optimizer.learning-rate", "0.02", "--json"]
    assert compare(pictures, out, *more, tokenizers=("pixels", "shades"), data="data.tar") == 0
    told = json.loads(capsys.readouterr().out)
    pixels, shades = told["tokenizers"]
    assert (told["template"], told["unit"], told["distortion_is"]) == (
        "text -> image",
        "bits per pixel",
        "mean squared error",
    )
    assert pixels["distortion"] == 0
    # A shade decodes to the middle of 64 values, of which these have the first and the seventeenth.
    assert 16**2 <= shades["distortion"] <= 32**2
    assert (pixels["packed"], shades["packed"]) == (8, 2)
    # Nearly certain once the caption is known.
    assert shades["prior"] < 1.0
    assert (shades["rank"]["samples"], pixels["rank"]["samples"]) == (5, 5)
    assert shades["rank"]["mean"] < 3
    drawn = json.loads((out / "shades" / "drawn.json").read_text())
    assert len(drawn["prompts"]) == len(drawn["files"]) == 2
    assert set(drawn["prompts"]) <= {"black", "dark", "light", "white"}
    assert "median rank of the true caption" in (out / "report.html").read_text()

    loaded = load_model(out / "shades" / "model")
    records = [
        {"text": np.array([1, 2]), "image": np.full((2, 3), 1)},
        {"text": np.array([3]), "image": np.full((2, 3), 2)},
    ]
    found = likelihoods(loaded, records)
    for i, sample in enumerate(records):
        for j, other in enumerate(records):
            document = loaded.template.document({"text": other["text"], "image": sample["image"]}, loaded.vocabulary)
            (each,) = score(loaded.model, [document.ids.tolist()])
            assert found[i, j] == pytest.approx(float(each[document.roles[1:] == 2].sum()), abs=1e-3)


def test_equal_captions_share_their_ranks(pictures, tmp_path, monkeypatch):
    found = np.array([[-1.0, -1.0, -9.0], [-1.0, -1.0, -0.5], [-3.0, -2.0, -1.0]])
    monkeypatch.setattr("trainers.autoregressive.comparing.rank.likelihoods", lambda *_: found)
    assert caption_ranks(None, []).tolist() == [1.5, 2.5, 1.0]


def test_a_clock_leaves_out_what_comes_before_and_after_the_steps(monkeypatch):
    times = iter([0.0, 2.0, 4.0, 8.0, 100.0])
    clock, untold = StepClock(), StepClock()
    monkeypatch.setattr("trainers.autoregressive.comparing.timing.time.monotonic", lambda: next(times))
    for step in (10, 20, 30, 40, 44):
        clock.update(step)
    # 0.2, 0.2 and 0.4 seconds a step; the validation after the last is no step.
    assert clock.seconds_a_step == pytest.approx(0.2)
    assert untold.seconds_a_step is None


def test_only_samples_that_all_tokenizers_read_are_held_out(tmp_path):
    for name, count in (("some", 40), ("more", 60)):
        write_shards(tmp_path / name / "shards", text_samples(count))
    contestants = [Contestant(name, name, Letters(), tmp_path / name, None) for name in ("more", "some")]
    options = CompareOptions(
        tokenizer=("more", "some"), data=("corpus.txt",), minutes=1, out="out", validation_fraction=0.5, held_out=5
    )
    keys = parts.hold_out(options, contestants, tmp_path / "held_out.jsonl")
    common = sorted((f"sample-{number}" for number in range(40)), key=key_fraction)
    assert keys == sorted(common[:5])
    assert parts.hold_out(options, contestants, tmp_path / "held_out.jsonl") == keys
    few = dataclasses.replace(options, validation_fraction=key_fraction(common[0]) / 2)
    with pytest.raises(ValueError, match="of 40 samples 0 are held out"):
        parts.hold_out(few, contestants, tmp_path / "none.jsonl")


def test_what_cannot_be_compared_is_refused(texts, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    common = ["compare", "--data", str(texts / "corpus.txt"), "--out", str(out), *SMALL]

    def refused(said, *more, minutes="0.001"):
        assert main([*common, "--minutes", minutes, *more]) in (1, 2)
        assert said in capsys.readouterr().err
        assert not out.exists()

    chars, words, pixels = str(texts / "chars"), str(texts / "words"), str(pictures / "pixels")
    refused("compare tokenizers of one kind", "--tokenizer", chars, pixels)
    refused("are the same tokenizer; give each once", "--tokenizer", chars, chars)
    refused(
        "--steps 3: give a number of at least 1 for each of the 2 tokenizers",
        "--tokenizer",
        chars,
        words,
        "--steps",
        "3",
    )
    refused("--minutes 0.0 must be a number above 0", "--tokenizer", chars, words, minutes="0")
