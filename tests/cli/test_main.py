"""The command line as a user meets it: help, suggestions, exit codes, results on stdout and the rest on stderr."""

import dataclasses
import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar

import pytest

from tokenize_kit.cli.commands import TrainerCommand, all_commands, resolve
from tokenize_kit.cli.main import main
from tokenize_kit.cli.summaries import summary_in_source
from tokenize_kit.protocol import TRAINERS


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for words, command in all_commands().items():
        assert words in out
        assert command.summary in out


@pytest.mark.parametrize("words", sorted(all_commands()))
def test_help_of_each_command_shows_its_options_and_examples(capsys, words):
    code, out, _ = run(capsys, *words.split(), "--help")
    assert code == 0
    assert "--config" in out
    command = all_commands()[words]
    assert command.examples
    for example in command.examples:
        assert example.startswith(words)
        assert f"tokenize-kit {example}" in out


def test_help_loads_no_heavy_package():
    code = (
        "import sys\nfrom tokenize_kit.cli import main\n"
        "for words in ('--help', 'train sequence --help', 'train transformer --help', 'encode --help'):\n"
        "    main(words.split())\n"
        "heavy = {'torch', 'pyarrow', 'numpy', 'sklearn', 'PIL', 'tokenizers', 'gigatoken', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@dataclasses.dataclass(frozen=True)
class TrainToyOptions:
    """Train nothing at all. And more of that."""

    out: str
    """Folder."""


@dataclasses.dataclass(frozen=True)
class TrainToldOptions(TrainToyOptions):
    """Train nothing."""

    summary: ClassVar[str] = "train a toy"
    examples: ClassVar[tuple[str, ...]] = ("train told --out toys",)


def train_toy(options: TrainToyOptions) -> TrainToyOptions:
    return options


def train_told(options: TrainToldOptions) -> TrainToldOptions:
    return options


def test_a_new_trainer_is_one_registration(capsys, monkeypatch):
    monkeypatch.setattr(TRAINERS, "_registered", {"toy": train_toy, "told": train_told})
    _, out, _ = run(capsys, "--help")
    assert "\n  train toy          Train nothing at all. And more of that.\n" in out
    assert "\n  train told         train a toy\n" in out
    _, out, _ = run(capsys, "train", "told", "--help")
    assert "Train nothing." in out
    assert out.endswith("examples:\n  tokenize-kit train told --out toys\n")
    code, out, _ = run(capsys, "train", "told", "--out", "toys", "--json")
    assert (code, json.loads(out)) == (0, {"out": "toys"})
    code, out, err = run(capsys, "train", "told", "--out", "toys", "--summary", "x")
    assert (code, out) == (2, "")
    assert "'train told' has no option --summary" in err


def test_a_trainer_that_cannot_be_loaded_leaves_the_list_of_commands(capsys, monkeypatch):
    monkeypatch.setattr(TRAINERS, "place_of", lambda name: "trainers.nowhere:train")
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "train bpe          cannot be loaded: No module named 'trainers.nowhere'" in out
    assert "turn token shards back into files" in out


@pytest.mark.parametrize("name", [point.name for point in entry_points(group=TRAINERS.group)])
def test_the_summary_in_the_source_is_that_of_the_options(name):
    command = TrainerCommand(name)
    _, options = resolve(command)
    assert command.summary == options.summary == summary_in_source(command.target)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["inspct", "x"], 2, "did you mean 'tokenize-kit inspect'"),
        (["train", "bep", "--data", "x"], 2, "did you mean 'tokenize-kit train bpe'"),
        (["import", "bpe", "--sorce", "x", "--out", "y"], 2, "did you mean --source?"),
        (["train", "transformer", "--layers", "3"], 2, "has no option --layers"),
        (["inspect", "no/such/place"], 1, "nothing at no/such/place"),
        (["import", "bpe", "--source", "no.tiktoken", "--out", "y"], 1, "no such file"),
        (["encode", "--config", "no.yaml"], 2, "no.yaml"),
    ],
)
def test_a_wrong_word_gives_one_line_and_the_right_code(capsys, words, code, message):
    got, out, err = run(capsys, *words)
    assert got == code
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_missing_option_is_a_usage_error(capsys):
    code, _, err = run(capsys, "import", "bpe", "--out", "y")
    assert code == 2
    assert "--source" in err


def test_a_verb_alone_lists_its_names(capsys):
    code, out, _ = run(capsys, "train")
    assert code == 2
    assert "train palette" in out
    assert "'tokenize-kit train NAME --help' shows the options" in out
    assert "encode" not in out


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("compress", "SOURCE TARGET"),
        ("decompress", "SOURCE TARGET"),
        ("inspect", "PATH"),
        ("verify", "PATH"),
    ],
)
def test_help_names_what_has_no_option(capsys, words, names):
    _, out, _ = run(capsys, words, "--help")
    assert out.startswith(f"usage: tokenize-kit {words} [-h] [OPTIONS] {names}\n")


def test_version(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("tokenize-kit ")


def test_json_is_json_and_inspect_knows_a_text_file(capsys, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    code, out, _ = run(capsys, "inspect", path, "--json")
    assert code == 0
    assert json.loads(out) == {"path": str(path), "kind": "text file", "characters": 8, "bytes": 8, "lines": 2}
    code, out, _ = run(capsys, "inspect", path)
    assert "characters: 8" in out


def test_debug_shows_the_error_itself():
    with pytest.raises(FileNotFoundError):
        main(["inspect", "no/such/place", "--debug"])


def test_a_reader_that_leaves_is_no_error():
    script = Path(sys.executable).with_name("tokenize-kit")
    with subprocess.Popen([script, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
