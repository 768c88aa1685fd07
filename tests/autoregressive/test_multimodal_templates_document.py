"""docs/multimodal.md, Several templates and shard sets: its commands run word for word, but for the size of the training."""

import re
import shlex
from pathlib import Path

import pytest

from tokenize_kit.cli import main
from trainers.autoregressive.options import TrainTransformerOptions
from trainers.logs import read_log

ROOT = Path(__file__).parents[2]
SMALLER = (
    "--steps 2 --batch-size 2 --validation-tokens 600 --model.layers 1 --model.width 16 --model.heads 2 --device cpu"
)


@pytest.fixture(scope="module")
def section():
    return (
        (ROOT / "docs" / "multimodal.md")
        .read_text()
        .split("\n## Several templates and shard sets\n")[1]
        .split("\n## ")[0]
    )


def test_the_commands_work_on_the_bundled_data(section, tmp_path, monkeypatch, capsys):
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    assert len(lines) == 8
    for line in lines:
        words = shlex.split(line.replace("--steps 200", SMALLER))
        assert main([*words[1:], "--quiet"]) == 0, capsys.readouterr().err
    assert [path.name for path in sorted(Path("samples").glob("*/sample_*"))] == [
        *(f"sample_{number:05}.png" for number in range(4)),
        "sample_00000.txt",
        "sample_00000.txt",
    ]
    names = {name for line in read_log(tmp_path / "models" / "both" / "train_log.jsonl") for name in line}
    for name in re.findall(
        r"`(validation/[^`]*)`", section.split("| name in train_log.jsonl |")[1].split("With a single")[0]
    ):
        if name != "validation/text image/image/bits_per_token":  # of another template
            assert name in names, names


def test_the_options_of_the_table_are_there(section):
    table = re.findall(r"^\| `--(\S+) .*?` \|", section, re.MULTILINE)
    assert table == ["template-weights", "mix", "loss-weights"]
    fields = TrainTransformerOptions.__dataclass_fields__
    assert all(name.replace("-", "_") in fields for name in table)
