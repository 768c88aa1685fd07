"""What may be given for an option, how often, and how: on the command line and in a YAML file."""

import dataclasses
import importlib
import json

import pytest

from tokenize_kit.cli.config import merge_tokens, read_config_tokens
from tokenize_kit.cli.main import main
from tokenize_kit.cli.options import CommandOptions
from tokenize_kit.errors import UsageError
from trainers.overrides import Overrides

cli = importlib.import_module("tokenize_kit.cli.main")


@dataclasses.dataclass(frozen=True)
class Config:
    """What something is made of."""

    wide: bool = False
    """Whether it is wide."""
    depth: int | None = 3
    """How deep it is."""


class PartOverrides(Overrides, of=Config):
    """Parts of it."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Do something."""

    out: str = "x"
    """Where to."""
    steps: int = 1
    """How often."""
    sizes: tuple[int, ...] = ()
    """How large."""
    names: tuple[str, ...] = ()
    """What of."""
    prompt: str | None = None
    """How it begins."""
    marks: tuple[str, ...] | None = None
    """What is marked."""
    dry: bool = False
    """Do nothing."""
    part: PartOverrides = dataclasses.field(default_factory=PartOverrides)
    """Parts that differ."""


def words(typed, config=()):
    return merge_tokens(list(config), typed, CommandOptions("do it", Options))


def parsed(monkeypatch, capsys, *typed):
    """What a command gets for its options; its exit code and what it said if it gets none."""

    def it(options: Options):
        return options

    monkeypatch.setattr(cli, "all_commands", lambda: {"do it": cli.Command("do it", "nowhere:it", "Do it.", ())})
    monkeypatch.setattr(cli, "resolve", lambda command: (it, Options))
    code = main(["do", "it", "--json", *typed])
    captured = capsys.readouterr()
    return json.loads(captured.out) if code == 0 else (code, captured.err)


@pytest.mark.parametrize("value", ["--x", "--out", "-x", "-", "--", "a=b", "--x=y", "", "-1"])
def test_a_value_may_begin_like_an_option(monkeypatch, capsys, tmp_path, value):
    assert parsed(monkeypatch, capsys, f"--prompt={value}")["prompt"] == value
    assert parsed(monkeypatch, capsys, f"--names={value}", "--steps", "2")["names"] == [value]
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({"prompt": value, "names": [value]}))
    got = parsed(monkeypatch, capsys, "--config", str(path))
    assert (got["prompt"], got["names"]) == (value, [value])


@pytest.mark.parametrize(
    "value", ["-- a dash", "--help me", "--x", "--", "-x", "---", "--a = b", "--no way", "- x", "--out of it"]
)
def test_a_prompt_may_begin_with_hyphens_as_a_word_of_its_own(monkeypatch, capsys, value):
    assert parsed(monkeypatch, capsys, "--prompt", value, "--steps", "2") == {
        **parsed(monkeypatch, capsys),
        "prompt": value,
        "steps": 2,
    }
    assert parsed(monkeypatch, capsys, "--dry", "--names", value.replace("x", "y z"), "b")["names"] == [
        value.replace("x", "y z"),
        "b",
    ]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--prompt", "--stepps", "2"], "has no option --stepps; did you mean --steps?"),
        (["--prompt", "--part.dept=2"], "has no option --part.dept; did you mean --part.depth?"),
        (["--steps", "--x"], "has no option --x"),
        (["--names", "--x"], "has no option --x"),
        (["--dry", "-- a dash"], "has no option -- a dash"),
    ],
)
def test_what_may_be_a_misspelt_option_is_no_prompt(monkeypatch, capsys, typed, message):
    code, said = parsed(monkeypatch, capsys, *typed)
    assert (code, message in said) == (2, True), said


def test_known_options_behind_one_without_its_value_are_options(monkeypatch, capsys):
    code, _ = parsed(monkeypatch, capsys, "--prompt", "--steps", "2")
    assert code == 2


def test_of_several_values_only_the_first_may_begin_like_an_option(monkeypatch, capsys, tmp_path):
    assert parsed(monkeypatch, capsys, "--names=--a", "--names", "b")["names"] == ["--a", "b"]
    code, said = parsed(monkeypatch, capsys, "--names", "a", "--names=--b")
    assert code == 2
    assert "--names --b" in said
    assert "./--b" in said
    path = tmp_path / "run.yaml"
    path.write_text("names: [a, --b]\n")
    assert parsed(monkeypatch, capsys, "--config", str(path))[0] == 2


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--steps 3 --steps 4", "--steps 3 and --steps 4 are both given; give --steps once"),
        ("--steps 3 --steps=3", "--steps 3 is given twice; give --steps once"),
        ("--out a --steps 1 --out b", "--out a and --out b are both given"),
        ("--sizes 1 2 --sizes 3", "--sizes 1 2 and --sizes 3 are both given"),
        ("--dry --dry", "--dry is given twice"),
        ("--dry --no-dry", "--dry and --no-dry are both given; give --dry once"),
        ("--part.depth 1 --part.depth 2", "--part.depth 1 and --part.depth 2 are both given"),
        ("--part.wide True --part.no-wide", "--part.wide True and --part.no-wide are both given; give --part.wide"),
        ("--part.wide --no-part.wide", "--part.wide and --part.no-wide are both given"),
    ],
)
def test_an_option_that_is_given_twice_is_named(monkeypatch, capsys, typed, message):
    code, said = parsed(monkeypatch, capsys, *typed.split())
    assert code == 2
    assert said.startswith("error: ")
    assert message in said


def test_names_may_be_given_in_turn():
    assert words(["--names", "a", "--steps", "2", "--names", "b", "c"]) == "--names a b c --steps 2".split()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 1\nout: a\nsteps: 2\n", r"--steps twice \(lines 1 and 3\)"),
        ("part:\n  depth: 1\n  depth: 2\n", r"--part\.depth twice \(lines 2 and 3\)"),
        ("part:\n  depth: 1\npart:\n  depth: 2\n", r"--part\.depth twice \(lines 2 and 4\)"),
        ("part.depth: 1\npart: {depth: 2}\n", r"--part\.depth twice"),
        ("max_scale: 1\nmax-scale: 2\n", r"--max-scale twice"),
    ],
)
def test_a_key_that_is_in_a_file_twice_is_named(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_config_tokens(str(path))


def test_keys_of_different_parts_may_have_one_name(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("network: {width: 1}\nloss: {width: 2}\nwidth: 3\n")
    assert read_config_tokens(str(path)) == "--network.width 1 --loss.width 2 --width 3".split()


def test_a_file_that_contradicts_itself_is_refused(monkeypatch, capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("dry: true\nno_dry: true\n")
    code, said = parsed(monkeypatch, capsys, "--config", str(path))
    assert code == 2
    assert "in the file of --config: --dry and --no-dry are both given" in said


@pytest.mark.parametrize(
    ("typed", "wide"),
    [
        ("", None),
        ("--part.wide", True),
        ("--part.wide True", True),
        ("--part.wide=False", False),
        ("--part.no-wide", False),
        ("--no-part.wide", False),
        ("--part.wide None", None),
    ],
)
def test_a_switch_of_a_preset_is_a_flag_or_has_a_value(monkeypatch, capsys, typed, wide):
    assert parsed(monkeypatch, capsys, *typed.split(), "--steps", "2")["part"]["wide"] is wide


def test_a_switch_is_a_key_of_a_file_and_what_is_typed_wins(monkeypatch, capsys, tmp_path):
    path = tmp_path / "run.yaml"
    for value in (True, False):
        path.write_text(json.dumps({"part": {"wide": value}, "steps": 4}))
        got = parsed(monkeypatch, capsys, "--config", str(path))
        assert (got["part"]["wide"], got["steps"]) == (value, 4)
        for typed in ("--part.wide", "--no-part.wide"):
            got = parsed(monkeypatch, capsys, "--config", str(path), typed, "--steps", "5")
            assert (got["part"]["wide"], got["steps"]) == (typed == "--part.wide", 5)


def test_a_denial_takes_no_value(monkeypatch, capsys):
    code, said = parsed(monkeypatch, capsys, "--part.no-wide", "True")
    assert code == 2
    assert "--part.no-wide takes no value" in said


def test_what_no_option_is_gets_the_closest_one(monkeypatch, capsys):
    code, said = parsed(monkeypatch, capsys, "--stepps", "1")
    assert (code, "did you mean --steps?" in said) == (2, True)
    code, said = parsed(monkeypatch, capsys, "--depth", "1")
    assert (code, "did you mean --part.depth?" in said) == (2, True)
    assert parsed(monkeypatch, capsys, "--part.configuration", "1")[0] == 2


@pytest.mark.parametrize("word", ["None", "none", "null", "NULL", "~"])
def test_a_word_that_may_mean_nothing_is_a_text(monkeypatch, capsys, tmp_path, word):
    got = parsed(monkeypatch, capsys, "--prompt", word, "--names", word, "--marks", word, "--out", word)
    assert (got["prompt"], got["names"], got["marks"], got["out"]) == (word, [word], [word], word)
    assert parsed(monkeypatch, capsys, "--marks", "a", word)["marks"] == ["a", word]
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({"prompt": word, "names": [word, word], "marks": word, "out": word}))
    got = parsed(monkeypatch, capsys, "--config", str(path))
    assert (got["prompt"], got["names"], got["marks"], got["out"]) == (word, [word, word], [word], word)


def test_a_null_of_a_file_is_no_text(monkeypatch, capsys, tmp_path):
    path = tmp_path / "run.yaml"
    for null in ("null", "~", ""):
        path.write_text(
            f"prompt: {null}\nnames: {null}\nmarks: {null}\nout: {null}\nsteps: {null}\nsizes: {null}\ndry: {null}\n"
            f"part:\n  depth: {null}\n  wide: {null}\n"
        )
        assert parsed(monkeypatch, capsys, "--config", str(path)) == parsed(monkeypatch, capsys)
        got = parsed(monkeypatch, capsys, "--config", str(path), "--prompt", "None", "--steps", "4")
        assert (got["prompt"], got["steps"]) == ("None", 4)
    path.write_text("prompt: None\nnames: None\n")
    got = parsed(monkeypatch, capsys, "--config", str(path))
    assert (got["prompt"], got["names"]) == ("None", ["None"])


def test_a_null_among_values_is_refused(monkeypatch, capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("names: [a, null]\n")
    code, said = parsed(monkeypatch, capsys, "--config", str(path))
    assert (code, "--names has a null among its values" in said) == (2, True), said


def test_the_word_none_is_nothing_where_no_text_is_expected(monkeypatch, capsys):
    assert parsed(monkeypatch, capsys, "--part.depth", "None")["part"]["depth"] is None
    assert parsed(monkeypatch, capsys, "--steps", "None")[0] == 2
