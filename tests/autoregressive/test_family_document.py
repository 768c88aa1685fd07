"""docs/family.md: its commands and its Python run in one folder, on less data and in fewer steps; its tables are the code's."""

import io
import json
import re
import shlex
import tarfile
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tokenize_kit.cli import main
from tokenize_kit.sources.heldout import held_out
from trainers.autoregressive.models import configuration_of, model_class
from trainers.autoregressive.models.ordinal import HeadConfig
from trainers.autoregressive.models.pixel_network import PixelCNNConfig
from trainers.autoregressive.models.rereading import FixedLengthModel
from trainers.autoregressive.models.wavenet import WaveNetConfig

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "family.md").read_text(encoding="utf-8")
SMALLER = {
    "--steps": "2",
    "--image-size": "8",
    "--vocab-size": "300",
    "--context": "64",
    "--finetune-steps": "2",
    "--labels": "2",
    "--limit": "2",
    "--count": "2",
    "--preset": "tiny",
}
"""Options of the document that get other values here."""
FIELDS = {"layers": "2", "width": "16", "cycle": "2", "orders": "2"}
"""The same of a family's configuration."""
FACES, OTHERS = 8, 12


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def smaller(line):
    """The words of a command for less work."""
    words = shlex.split(line)[1:]
    for place, word in enumerate(words[:-1]):
        if word in SMALLER:
            words[place + 1] = SMALLER[word]
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if equals and name in FIELDS:
            words[place] = f"{name}={FIELDS[name]}"
    if "state-space" in words:  # whose width is a multiple of the size of a head
        words[words.index("width=16")] = "width=64"
    if words[0] == "train" and words[1] in ("sequence", "transformer"):
        words += "--batch-size 2 --validation-tokens 200 --device cpu".split()
    if words[:2] == ["train", "transformer"] or words[0] == "compare":
        words += "--model.layers 2 --model.width 32 --model.heads 2".split()
    if words[0] == "compare":
        words += "--steps 2 2 --batch-tokens 256 --held-out 2 --samples 2 --device cpu".split()
    return words


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The bundled data, less of it."""
    monkeypatch.chdir(tmp_path)
    Path("assets").mkdir()
    Path("assets/speech").symlink_to(ROOT / "assets" / "speech")
    text = (ROOT / "assets" / "udhr.txt").read_text(encoding="utf-8")
    Path("assets/udhr.txt").write_text(text[: text.index("\n\n", 6000)], encoding="utf-8")
    with tarfile.open(ROOT / "assets" / "emoji.tar") as source, tarfile.open("assets/emoji.tar", "w") as goal:
        names = sorted({Path(name).stem for name in source.getnames()})
        # Those that are held out first, so that there are some of both kinds.
        names.sort(key=lambda name: not held_out(f"emoji.tar/{name}", 0.05))
        faces = [name for name in names if "face" in name]
        others = [name for name in names if "face" not in name]
        kept = {*faces[:2], *faces[-FACES:], *others[:2], *others[-OTHERS:]}
        for member in source:
            if Path(member.name).stem in kept:
                goal.addfile(member, io.BytesIO(source.extractfile(member).read()))


def test_every_command_and_the_python_run(world, capsys):
    parts = re.findall(r"```(sh|python)\n(.*?)```", DOCUMENT, re.DOTALL)
    assert [language for language, _ in parts].count("python") == 1
    for language, code in parts:
        if language == "python":
            exec(code, {})
            continue
        for line in code.replace("\\\n", " ").splitlines():
            assert main([*smaller(line), "--quiet"]) == 0, (line, capsys.readouterr().err)
    for name in ("recurrent", "small", "large", "colour", "bayes", "masked", "completed"):
        assert len(list(Path("samples", name).glob("*.png"))) == 2, name
    assert Path("again.png").is_file()
    lines = [json.loads(line) for line in Path("scores/pixelcnn/scores.jsonl").read_text().splitlines()]
    assert all(line["nats"] < 0 and line["tokens"] == 64 for line in lines)
    for file in (
        "scores/drawn/against.jsonl",
        "scores/text/report.html",
        "comparison/report.html",
        "probes/faces/curve.png",
    ):
        assert Path(file).is_file(), file


def test_the_text_comes_back_from_its_file(world):
    """The Universal Declaration, as it was; by the commands of the document alone."""
    lines = [line for code in blocks("sh") for line in code.replace("\\\n", " ").splitlines()]
    used = [
        line
        for line in lines
        if any(name in line for name in ("--out tokenizers/text", "--out shards/text", "models/text"))
    ]
    for line in used:
        if " score " not in line:
            assert main([*smaller(line), "--quiet"]) == 0, line
    assert main("decompress udhr.tkc again.txt --model models/text --quiet".split()) == 0
    assert Path("again.txt").read_bytes() == Path("assets/udhr.txt").read_bytes()


def table(first):
    """The rows of the table whose first column is called so, as lists of cells, after the names of the columns."""
    lines = DOCUMENT.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(first))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[:1] + rows[2:]


def test_what_works_with_which_is_what_the_code_says():
    head, *rows = table("| family | a drawn token costs")
    # Those of the house: other tests may register toys.
    names = sorted(
        point.name for point in entry_points(group="tokenize_kit.models") if point.value.startswith("trainers.")
    )
    assert sorted(row[0].strip("`") for row in rows) == names
    assert sorted(row[0].strip("`") for row in table("| family | what it is")[1:]) == names
    for row in rows:
        name, said = row[0].strip("`"), dict(zip(head, row, strict=True))
        family, config = model_class(name), configuration_of(name)
        known = {field.name for field in fields(config)}
        assert (said["`probe`"] == "yes") == hasattr(family, "layer_states"), name
        assert (said["`head`"] == "yes") == (issubclass(config, HeadConfig) or name == "transformer"), name
        assert (said["documents"] == "one length") == issubclass(family, FixedLengthModel), name
        assert (said["knows its place by"] == "`coordinates`") == ("coordinates" in known), name
        assert (said["knows its place by"] == "`by_place`") == ("by_place" in known), name


def test_the_fields_are_those_of_the_defaults():
    assert f"by default from {WaveNetConfig().receptive_field:,}" in DOCUMENT
    assert f"by default {PixelCNNConfig().field}." in DOCUMENT


def test_the_blind_spot_is_that_of_the_formula():
    """With h = 1 in every layer h * L * (L - 1) / 2 pixels are not seen; test_pixelcnn holds the formula by gradients."""
    rows = [list(map(int, row)) for row in table("| layers of 3x3")[1:]]
    for layers, above, unseen in rows:
        reach = PixelCNNConfig(layers=layers, first_kernel=3).field
        assert above == reach * (2 * reach + 1)
        assert unseen == layers * (layers - 1) // 2
    assert len(rows) == 4


def test_the_fields_that_are_named_are_there():
    for name, given in (
        ("wavenet", "layers"),
        ("pixelcnn", "first_kernel"),
        ("made", "orders"),
        ("bayes", "edges"),
        ("bayes", "samples"),
        ("transformer", "summary_columns"),
        ("histogram", "by_place"),
        ("logistics", "mixtures"),
    ):
        assert given in {field.name for field in fields(configuration_of(name))}
