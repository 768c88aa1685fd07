"""Words such as ``width=256`` become values by the types of a configuration's fields, and the fields become a listing."""

from dataclasses import dataclass
from typing import Literal

import pytest

from trainers.settings import listing, read_settings


@dataclass(frozen=True)
class Config:
    """Of a toy."""

    vocab_size: int = 10
    """Number of ids."""
    width: int = 8
    """How wide it is, in a line that ends here,
    and goes on there."""
    rate: float = 0.5
    """A rate."""
    tied: bool = True
    """A switch."""
    kind: Literal["lstm", "gru"] = "lstm"
    """A kind."""
    heads: int | None = None
    """May be left out."""
    scale: float | None = None
    levels: tuple[int, ...] = (8, 5)
    """Some numbers."""
    size: tuple[int, int] | None = None
    name: str = "a"
    label: str | None = None
    mode: Literal["none", "all"] | None = None
    table: dict[str, int] | None = None


def read(*words):
    return read_settings(Config, words, "the toy", {"vocab_size": "follows from the data"})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("width=12", 12),
        ("width=-1", -1),
        ("rate=1e-3", 0.001),
        ("rate=2", 2.0),
        ("tied=false", False),
        ("tied=True", True),
        ("kind=gru", "gru"),
        ("heads=None", None),
        ("heads=4", 4),
        ("scale=4", 4.0),
        ("levels=8,5,5", (8, 5, 5)),
        ("levels=7", (7,)),
        ("levels=", ()),
        ("size=3,4", (3, 4)),
        ("size=None", None),
        ("name=3=x", "3=x"),
        ("label=None", None),
        ("label=none", "none"),
        ("mode=none", "none"),
        ("mode=None", None),
        ("table=None", None),
    ],
)
def test_a_value_has_the_type_of_its_field(word, value):
    found = read(word)[word.partition("=")[0]]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["width"], "--set width: write NAME=VALUE, such as width=3"),
        (["widht=3"], r"the toy has no 'widht' \(it has width, .*\); did you mean 'width'\?"),
        (["vocab_size=3"], "vocab_size follows from the data; leave it out"),
        (["width=3", "rate=1", "width=4"], "--set width=4: width is given twice"),
        (["width=1.5"], "width is a whole number, not '1.5'"),
        (["width=None"], "width is a whole number, not 'None'"),
        (["rate=nan"], "rate is a number, not 'nan'"),
        (["tied=1"], "tied is true or false, not '1'"),
        (["kind=lstn"], "kind is lstm or gru, not 'lstn'; did you mean 'lstm'?"),
        (["heads=none"], "heads is a whole number or None, not 'none'"),
        (["levels=8,,5"], "levels is whole numbers with commas between them, not '8,,5'"),
        (["size=3"], "size is 2 whole numbers with commas between them or None, not '3'"),
        (["table=x"], "table is no single value: it can be given in a file only or None, not 'x'"),
    ],
)
def test_what_is_no_field_or_no_value_is_refused_with_what_is_expected(words, message):
    with pytest.raises(ValueError, match=message):
        read(*words)


def test_the_listing_has_types_defaults_and_documents():
    shown = listing(Config, ["vocab_size"], width=200)
    assert "vocab_size" not in shown
    assert "  width   a whole number, 8 by default\n" in shown
    assert "          How wide it is, in a line that ends here, and goes on there.\n" in shown
    assert "  tied    true or false, true by default\n" in shown
    assert "  levels  whole numbers with commas between them, 8,5 by default\n" in shown
    assert "  kind    lstm or gru, lstm by default\n" in shown
