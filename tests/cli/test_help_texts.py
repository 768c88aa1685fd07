"""Help texts are paragraphs, wherever their lines end in the source."""

import dataclasses
from dataclasses import dataclass, field

import pytest

from tokenize_kit.cli import main
from tokenize_kit.cli.help_texts import join_lines, paragraphs


@dataclass(frozen=True)
class Inner:
    width: int = 1
    """How wide it is, in a line that ends here, and goes on
    there."""


@dataclass(frozen=True, kw_only=True)
class Base:
    told: str = ""
    """Said in the
    (second) line."""


@dataclass(frozen=True)
class Options(Base):
    name: str = ""
    """One line."""
    inner: Inner = field(default_factory=Inner)
    """Parts of
    it."""
    mute: int = 0


def test_each_field_has_its_docstring_in_one_line():
    join_lines(Options)
    told = {one.name: one.metadata.get("help") for one in dataclasses.fields(Options)}
    assert told == {"told": "Said in the (second) line.", "name": "One line.", "inner": "Parts of it.", "mute": None}
    assert (
        dataclasses.fields(Inner)[0].metadata["help"] == "How wide it is, in a line that ends here, and goes on there."
    )


def test_a_class_without_source_keeps_what_it_has():
    made = dataclasses.make_dataclass("Made", [("x", int, field(default=1, metadata={"help": "as it was"}))])
    join_lines(made)
    assert dataclasses.fields(made)[0].metadata["help"] == "as it was"


def test_paragraphs_have_a_line_each():
    assert paragraphs("First\n    goes on.\n\n    Second\n    too.\n    ") == "First goes on.\n\nSecond too."


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("encode", "and pad them with white (of four channels: transparent) to a square"),
        ("train image", "as they are. A trained tokenizer"),
        ("train video", "inside which clips begin anywhere; None means eight times as long as a clip."),
        ("verify", "Of the others: the sums and digests that their files carry"),
    ],
)
def test_lines_of_help_end_only_at_the_margin(capsys, monkeypatch, words, told):
    monkeypatch.setenv("COLUMNS", "400")
    assert main([*words.split(), "--help"]) == 0
    assert told in capsys.readouterr().out
