"""docs/multimodal.md, word for word: its commands and its Python run one after the other in one folder; trainings are shorter."""

import gzip
import io
import json
import re
import shlex
import tarfile
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenize_kit.cli import main
from tokenize_kit.protocol import views
from trainers.autoregressive.options import TrainTransformerOptions
from trainers.logs import read_log

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "multimodal.md").read_text(encoding="utf-8")
SMALLER = "--steps 2 --batch-size 2 --validation-tokens 600 --preset tiny".split()
SMALLER += "--model.layers 1 --model.width 16 --model.heads 2".split()
EMOJI = 60


def section(name):
    return DOCUMENT.split(f"\n## {name}\n")[1].split("\n## ")[0]


def commands(text):
    lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    # Where stdout goes is for the shell.
    return [list(takewhile(lambda word: word not in ("|", ">"), shlex.split(line)))[1:] for line in lines]


def smaller(words):
    """The same command for less work."""
    if words[:2] == ["train", "transformer"]:
        for option in ("--steps", "--preset"):
            if option in words:
                place = words.index(option)
                words = words[:place] + words[place + 2 :]
        return [*words, *SMALLER, "--device", "cpu"]
    if words[0] == "pairs" and "--count" in words:
        return [*words[: words.index("--count")], "--count", "40", *words[words.index("--count") + 2 :]]
    return words


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What a reader has at the start: the bundled data, here less of it, and some files of their own."""
    folder = tmp_path_factory.mktemp("multimodal")
    (folder / "assets").mkdir()
    (folder / "assets" / "udhr.txt").symlink_to(ROOT / "assets" / "udhr.txt")
    with (
        tarfile.open(ROOT / "assets" / "emoji.tar") as source,
        tarfile.open(folder / "assets" / "emoji.tar", "w") as goal,
    ):
        for member in source.getmembers()[: 3 * EMOJI]:
            content = source.extractfile(member).read()
            goal.addfile(member, io.BytesIO(content))
            if member.name.endswith(".png"):
                for name in ("photo", "heart", "query", *(f"{side}{number}" for side in "ab" for number in (1, 2, 3))):
                    (folder / f"{name}.png").write_bytes(content)
    verses = [{"style": f"style {n % 3}", "subject": f"subject {n % 5}", "verse": f"line {n}"} for n in range(40)]
    (folder / "verses.jsonl").write_text("".join(json.dumps(verse) + "\n" for verse in verses))
    (folder / "prompts.jsonl").write_text(json.dumps({"style": "style 1", "subject": "subject 2"}) + "\n")
    (folder / "fashion").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 6)).astype(np.uint8)
    for name, array in (("images-idx3", pixels), ("labels-idx1", np.arange(40, dtype=np.uint8) % 10)):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / "fashion" / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return folder


def test_every_command_and_the_python_run(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    asked = commands(DOCUMENT)
    assert len(asked) > 30
    for words in asked:
        assert main([*smaller(words), "--quiet"]) == 0, (words, capsys.readouterr().err)
    drawn = [words for words in asked if words[0] == "generate"]
    assert [words for words in drawn if "--out" not in words] == [words for words in drawn if "--stream" in words][:1]
    for folder in {words[words.index("--out") + 1] for words in drawn if "--out" in words}:
        assert list(Path(folder).glob("sample_*")), folder
    names = {name for line in read_log(Path("models/both/train_log.jsonl")) for name in line}
    table = (
        section("Several templates and shard sets").split("| name in train_log.jsonl |")[1].split("With a single")[0]
    )
    told = re.findall(r"`(validation/[^`]*)`", table)
    assert told
    elsewhere = {
        "validation/text image/image/bits_per_token",
        "validation/text -> audio:delay/audio/kilobits_per_second",
    }
    assert set(told) - names == elsewhere, "these are of other templates"
    # What the document registers is known in this test alone.
    monkeypatch.setattr(views._OPERATIONS, "_registered", {})
    known = {}
    for code in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL):
        exec(code, known)
    assert len(known["pictures"]) == 4
    Image.open(next(Path("samples/hearts").glob("*.png"))).verify()


def test_the_options_of_the_table_are_there():
    table = re.findall(r"^\| `--(\S+) .*?` \|", section("Several templates and shard sets"), re.MULTILINE)
    assert table == ["template-weights", "mix", "loss-weights"]
    fields = TrainTransformerOptions.__dataclass_fields__
    assert all(name.replace("-", "_") in fields for name in table)
