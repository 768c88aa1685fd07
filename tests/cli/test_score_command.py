"""``score``: lines and summary, from shards and from files; the same bytes again; where the bits are; a second set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenize_kit.cli.main import main
from tokenize_kit.sources.heldout import held_out
from trainers.autoregressive.api import Model
from trainers.autoregressive.scoring import scores

pytestmark = pytest.mark.usefixtures("one_thread")
FRACTION = 0.3


def draw(folder: Path, count: int, seed: int) -> None:
    """Grey pictures 8x6 of few shades, each with a caption."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    for number in range(count):
        pixels = np.full((6, 8), 60 * (number % 4), np.uint8) + generator.integers(0, 3, (6, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(("black", "dark", "light", "white")[number % 4])


def run(*words: object) -> int:
    return main([*map(str, words), "--quiet", "--json"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Captioned pictures brought to 4x4, and a model of them whose validation reads all that is held out."""
    folder = tmp_path_factory.mktemp("score")
    draw(folder / "pictures", 40, 0)
    draw(folder / "others", 6, 1)
    assert run("create", "pixels", "--channels", 1, "--out", folder / "pixels") == 0
    assert run("train", "chars", "--data", folder / "pictures", "--out", folder / "chars") == 0
    tokenizers = ["--tokenizer", folder / "chars", "--tokenizer", folder / "pixels"]
    data = ["--data", folder / "pictures", "--image-size", 4, "--out", folder / "shards"]
    assert run("encode", *tokenizers, *data) == 0
    sizes = [
        "--model.layers",
        1,
        "--model.width",
        16,
        "--model.heads",
        2,
        "--batch-size",
        4,
        "--steps",
        6,
        *("--device", "cpu", "--precision", "32-true"),
    ]
    given = ["--template", "text -> image", "text image", "--validation-fraction", FRACTION]
    assert run("train", "transformer", "--shards", folder / "shards", "--out", folder / "model", *given, *sizes) == 0
    return folder


@pytest.fixture
def score(place, tmp_path, capsys):
    """Runs the command on the model; returns what it printed, or what it said where it is to fail."""
    capsys.readouterr()

    def call(*words: object, code: int = 0, out: Path = tmp_path / "out"):
        assert run("score", "--model", place / "model", "--out", out, "--device", "cpu", *words) == code
        printed, said = capsys.readouterr()
        return said if code else json.loads(printed)

    return call


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_held_out_part_scores_what_the_training_measured(place, score, tmp_path):
    model = Model.load(place / "model", "cpu")
    part = ("--part", "held-out", "--validation-fraction", FRACTION)
    for template in model.templates:
        out = tmp_path / template.replace(" ", "")
        found = score("--shards", place / "shards", "--template", template, *part, out=out)
        expected = {
            name.removeprefix(f"{template}/"): value
            for name, value in model.loaded.metrics.items()
            if name.startswith(f"{template}/")
        }
        assert {f"{template}/bits_per_token", f"{template}/image/bits_per_dimension"} <= set(model.loaded.metrics)
        known = {name: value for name, value in found["metrics"].items() if name in expected}
        # Of several streams the validation tells the bits a token too, which the totals of each part have.
        known |= {f"{name}/bits_per_token": one["bits_per_token"] for name, one in found["streams"].items()}
        assert {name: known[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        lines = lines_of(out / "scores.jsonl")
        assert [line["key"] for line in lines] == [
            key for key in (f"{number:02}" for number in range(40)) if held_out(key, FRACTION)
        ]
        assert found["nats"] == pytest.approx(sum(line["nats"] for line in lines))
        assert found["samples"] == len(lines)
        assert found["metrics"]["loss"] == pytest.approx(-found["nats"] / found["tokens"])
        assert json.loads((out / "summary.json").read_text())["metrics"] == found["metrics"]


def test_files_are_prepared_as_the_data_of_the_model_were(place, score, tmp_path):
    """8x6 pictures become 4x4 ones; the lines are those of the shards, and of the API."""
    score("--shards", place / "shards", "--limit", 5)
    score("--data", place / "pictures", "--limit", 5, out=tmp_path / "files")
    lines = lines_of(tmp_path / "files" / "scores.jsonl")
    assert lines == lines_of(tmp_path / "out" / "scores.jsonl")
    model = Model.load(place / "model", "cpu")
    for number, line in enumerate(lines):
        one = model.score(text=Path(place / f"pictures/{number:02}.txt"), image=place / f"pictures/{number:02}.png")
        assert line["key"] == f"{number:02}"
        assert line["tokens"] == sum(one.tokens.values()) == 16
        assert line["nats"] == pytest.approx(one.nats, rel=1e-5)
        assert line["streams"]["image"]["bits_per_dimension"] == pytest.approx(one.rates["image/bits_per_dimension"])
        assert line["bits_per_token"] == pytest.approx(-line["nats"] / np.log(2) / 16)


def test_a_command_that_was_stopped_makes_the_same_files(place, score, tmp_path, monkeypatch):
    words = ("--shards", place / "shards", "--maps", 2, "--batch-size", 3)
    score(*words)
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {path.name for path in files} >= {"scores.jsonl", "summary.json", "score.json", "report.html", "00000.png"}
    calls = []

    def stopped(*given):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return probabilities(*given)

    probabilities = scores.Reader.log_probabilities
    monkeypatch.setattr(scores.Reader, "log_probabilities", stopped)
    again = tmp_path / "again"
    assert "the same command scores all samples again" in score(*words, out=again, code=130)
    assert not (again / "scores.jsonl").exists()
    monkeypatch.undo()
    for _ in range(2):  # and once more over what is finished
        score(*words, out=again)
        assert {path.name: path.read_bytes() for path in again.rglob("*") if path.is_file()} == {
            path.name: data for path, data in files.items()
        }


def test_maps_show_a_picture_beside_its_bits_and_texts_in_colours(place, score, tmp_path):
    found = score("--shards", place / "shards", "--template", "text image", "--maps", 2)
    out = tmp_path / "out"
    assert sorted(path.name for path in (out / "maps").iterdir()) == ["00000.image.png", "00001.image.png"]
    # The picture, a gap of two pixels, its map.
    assert Image.open(out / "maps" / "00000.image.png").size == (4 + 2 + 4, 4)
    page = (out / "report.html").read_text()
    line = lines_of(out / "scores.jsonl")[1]
    bits = -line["streams"]["image"]["nats"] / np.log(2)
    assert f"01: {bits:.4g} bits of image" in page
    for letter in "dark":
        assert ' bits" style="background:rgba(220,50,30,' in page
        assert f')">{letter}</span>' in page
    assert found["samples"] == 40


def test_a_second_set_is_told_from_the_first(place, score, tmp_path):
    """Noise beside flat pictures: its pixels are less probable, and its PNG is longer."""
    other = tmp_path / "noise"
    shutil.copytree(place / "others", other)
    for path in other.glob("*.png"):
        Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 256, (6, 8), np.uint8)).save(path)
    found = score("--shards", place / "shards", "--against", other)
    against = lines_of(tmp_path / "out" / "against.jsonl")
    assert len(against) == found["against"]["samples"] == found["anomalies"]["samples_against"] == 6
    first = lines_of(tmp_path / "out" / "scores.jsonl")
    for line in (*first, *against):
        bits = -line["nats"] / np.log(2)
        assert line["bits_per_dimension"] == pytest.approx(bits / 16)
        assert line["corrected"] == pytest.approx((bits - 8 * line["code_bytes"]) / 16)
    plain = found["anomalies"]["plain"]
    pairs = [(one["bits_per_dimension"], two["bits_per_dimension"]) for one in first for two in against]
    assert plain["more_bits_are_anomalous"] == pytest.approx(np.mean([two > one for one, two in pairs]))
    assert plain["fewer_bits_are_anomalous"] == pytest.approx(1 - plain["more_bits_are_anomalous"])
    assert found["anomalies"]["codes"] == ["PNG"]
    assert "more bits are anomalous" in (tmp_path / "out" / "report.html").read_text()


def test_shards_of_another_tokenizer_are_refused(place, score, tmp_path):
    foreign = tmp_path / "foreign"
    (tmp_path / "few.txt").write_text("black dark")
    assert run("train", "chars", "--data", tmp_path / "few.txt", "--out", tmp_path / "chars") == 0
    assert run("encode", "--tokenizer", tmp_path / "chars", "--tokenizer", place / "pixels", "--data", place / "others",
               "--image-size", 4, "--out", foreign) == 0  # fmt: skip
    said = score("--shards", foreign, code=1)
    assert "was made by another tokenizer than the model's" in said
    assert "give the files with --data" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_keeps_its_scores(place, score, tmp_path):
    score("--shards", place / "shards", "--limit", 2)
    before = (tmp_path / "out" / "scores.jsonl").read_bytes()
    assert "is not an empty folder; give an empty or new one" in score(
        "--shards", place / "shards", "--limit", 3, code=1
    )
    assert (tmp_path / "out" / "scores.jsonl").read_bytes() == before
    assert score("--shards", place / "shards", "--limit", 3, "--overwrite")["samples"] == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "--shards and --data say what is scored, and neither is given"),
        (("--shards", "a", "--data", "b"), 2, "and both are given"),
        (("--data", "a", "--limit", "0"), 1, "--limit 0 must be at least 1"),
        (("--data", "a", "--maps", "-1"), 1, "--maps -1 must be at least 0"),
        (("--data", "a", "--validation-keys", "b"), 1, "say which to score with --part held-out or train"),
        (("--data", "a", "--template", "image"), 1, "was not trained on the template 'image'"),
        (("--shards", "nowhere"), 1, "nowhere"),
    ],
)
def test_wrong_options_are_said(score, words, code, message):
    assert message in score(*words, code=code)
