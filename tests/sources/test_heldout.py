"""The one rule by which samples are held out."""

import numpy as np
import pytest

from tokenize_kit.sources.heldout import (
    KeyList,
    check_fraction,
    held_out,
    in_part,
    key_fraction,
    key_fractions,
    read_keys,
)


def test_the_fraction_of_a_key_never_changes() -> None:
    # printf a.png | sha256sum begins with these 16 digits.
    assert key_fraction("a.png") == (0x7F071235805FBF58 >> 11) / 2**53


def test_about_the_fraction_is_held_out_and_smaller_parts_lie_in_larger_ones() -> None:
    keys = [f"train-images-idx3-ubyte.gz@{row}" for row in range(4000)]
    tenth = {key for key in keys if held_out(key, 0.1)}
    assert 340 < len(tenth) < 460
    assert {key for key in keys if held_out(key, 0.05)} < tenth
    assert not any(held_out(key, 0.0) for key in keys)
    assert all(held_out(key, 1.0) for key in keys)


def test_the_parts_are_disjoint_and_cover_all() -> None:
    for key in map(str, range(50)):
        assert in_part(key, "train", 0.3) != in_part(key, "held-out", 0.3)
        assert in_part(key, "all", 0.3)


def test_many_keys_at_once_equal_one_at_a_time() -> None:
    keys = ["", "ä", "bad\udcff", "x" * 1000]
    np.testing.assert_array_equal(key_fractions(keys), [key_fraction(key) for key in keys])


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_fraction_that_leaves_nothing_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        check_fraction(fraction)


def test_own_keys_are_read_one_a_line_or_as_objects(tmp_path) -> None:
    (tmp_path / "keys.txt").write_bytes("a.png\r\nb c/ä.png \n\n{odd}\n".encode("utf-8-sig"))
    assert read_keys(str(tmp_path / "keys.txt")).keys == {"a.png", "b c/ä.png ", "{odd}"}
    (tmp_path / "keys.jsonl").write_text('{"key": "a.png", "reason": "none"}\n\n"b.png"\n')
    listed = read_keys(str(tmp_path / "keys.jsonl"))
    assert listed.keys == {"a.png", "b.png"}
    assert listed.listed(["b.png", "c.png", "a.png"]).tolist() == [True, False, True]
    (tmp_path / "again.txt").write_text("b.png\na.png\nb.png\n")
    assert read_keys(str(tmp_path / "again.txt")).digest == listed.digest


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("k.txt", b"\n\r\n", "lists no key"),
        ("k.txt", b"a\nb\xff\n", r"is not UTF-8 \(byte 3\)"),
        ("k.jsonl", b'{"key": "a"}\n{"kye": "b"}\n', "line 2: expected an object with a string 'key'"),
        ("k.jsonl", b"a.png\n", "line 1: expected"),
        ("k.jsonl", b"[" * 100_000, "line 1: expected"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, name, content, message) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_keys(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_keys(str(tmp_path / "nowhere"))


def test_keys_that_are_those_of_no_sample_are_told() -> None:
    listed = KeyList("keys.txt", frozenset(["a", "b", "x", "y"]))
    assert listed.unmatched(["a", "b", "x", "y", "z"]) == ""
    said = "2 of the 4 keys in keys.txt are those of no sample, such as 'x'; keys of these samples are such as 'a'"
    assert listed.unmatched(["a", "b"]) == said
    with pytest.raises(ValueError, match=r"none of its 4 keys is that of a sample \('a', \.\.\); .* such as 'c'"):
        listed.unmatched(["c"])
