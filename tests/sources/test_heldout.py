"""The one rule by which samples are held out."""

import numpy as np
import pytest

from tokenize_kit.sources.heldout import check_fraction, held_out, in_part, key_fraction, key_fractions


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
