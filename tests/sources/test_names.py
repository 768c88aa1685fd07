"""Names that are no UTF-8 become keys that are, and come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenize_kit.sources.names import original, printable, without_surrogates


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.txt", "plain.txt"),
        ("größe/猫.png", "größe/猫.png"),
        ("caf\udce9.txt", "caf\\udce9.txt"),
        ("C:\\data\\a.txt", "C:\\data\\a.txt"),
        ("a\\udce9", "a\\\\udce9"),
        ("a\\\udce9", "a\\\\\\udce9"),
    ],
)
def test_only_what_is_no_utf8_is_escaped(name, text):
    assert printable(name) == text
    assert original(text) == name


@given(st.lists(st.sampled_from(["\\", "\udce9", "\ud800", "udce9", "u", "d", "ü", "a", "/"]), max_size=12))
def test_names_come_back_and_stay_apart(parts):
    name = "".join(parts)
    text = printable(name)
    text.encode("utf-8")
    assert original(text) == name


def test_reasons_are_utf8_and_may_pass_twice():
    once = without_surrogates("no field 'x'; it has \ud800, ü")
    assert once == "no field 'x'; it has \\ud800, ü"
    assert without_surrogates(once) == once
