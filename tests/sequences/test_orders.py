"""The orders of places beside drawings of them and slow walks over all small grids."""

import re
from pathlib import Path

import numpy as np
import pytest

from tokenize_kit.protocol.registry import ORDERS
from tokenize_kit.sequences.orders import order_named

NONE = np.zeros(0, np.int64)
SHAPES = [(height, width) for height in range(1, 10) for width in range(1, 10)]
DRAWN = {
    "raster": "0 1 2 3 / 4 5 6 7 / 8 9 10 11",
    "column": "0 3 6 9 / 1 4 7 10 / 2 5 8 11",
    "serpentine": "0 1 2 3 / 7 6 5 4 / 8 9 10 11",
    "spiral": "0 1 2 3 / 9 10 11 4 / 8 7 6 5",
    "spiral-out": "11 10 9 8 / 2 1 0 7 / 3 4 5 6",
    "coarse": "0 4 1 5 / 6 7 8 9 / 2 10 3 11",
}
"""For each place of a grid of 3 x 4 its turn."""


def slow_turns(name, height, width, seed=0):
    """The places of a plane in their order, as (row, column), by the definition of the order."""
    if name == "raster":
        return [(row, column) for row in range(height) for column in range(width)]
    if name == "column":
        return [(row, column) for column in range(width) for row in range(height)]
    if name == "serpentine":
        return [
            (row, column if row % 2 == 0 else width - 1 - column) for row in range(height) for column in range(width)
        ]
    if name == "spiral":
        return slow_spiral(height, width)
    if name == "spiral-out":
        return slow_spiral(height, width)[::-1]
    if name == "coarse":
        found, distance = [], 64
        while distance:
            found += [
                (row, column)
                for row in range(0, height, distance)
                for column in range(0, width, distance)
                if (row, column) not in found
            ]
            distance //= 2
        return found
    if name == "random":
        return [
            divmod(place, width) for place in sorted(range(height * width), key=lambda place: slow_bits(seed, place))
        ]
    raise AssertionError(name)


def slow_spiral(height, width):
    """Walk on until something is in the way, then turn right."""
    found, (row, column), (down, right) = [], (0, 0), (0, 1)
    while len(found) < height * width:
        found.append((row, column))
        after = (row + down, column + right)
        if not (0 <= after[0] < height and 0 <= after[1] < width) or after in found:
            down, right = right, -down
            after = (row + down, column + right)
        row, column = after
    return found


def slow_bits(seed, number):
    """SplitMix64, written from its definition: the state after ``number`` + 1 steps from a scrambled seed."""
    limit = 2**64

    def scrambled(bits):
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % limit
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % limit
        return bits ^ bits >> 31

    return scrambled((scrambled(seed % limit) + (number + 1) * 0x9E3779B97F4A7C15) % limit)


def turns(name, shape, seeds=(0,)):
    return order_named(name).turns(shape, np.array(seeds))


def test_the_drawings_are_those_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "sequences.md").read_text()
    written = dict(re.findall(r"^\| `([a-z-]+)` \| `([0-9 /]+)` \|", text, re.MULTILINE))
    assert written == {name: drawn for name, drawn in DRAWN.items() if name != "spiral-out"}


@pytest.mark.parametrize("name", DRAWN)
def test_the_orders_are_those_of_the_drawings(name):
    drawn = np.array(DRAWN[name].replace("/", "").split(), int)
    assert np.array_equal(np.argsort(turns(name, (3, 4))[0]), drawn)


@pytest.mark.parametrize("name", [name for name in ORDERS.names() if name != "hilbert"])
def test_the_orders_are_those_of_slow_walks(name):
    for height, width in SHAPES:
        expected = [row * width + column for row, column in slow_turns(name, height, width, seed=3)]
        assert turns(name, (height, width), [3])[0].tolist() == expected, (height, width)


@pytest.mark.parametrize("name", ORDERS.names())
def test_every_place_comes_once_and_planes_follow_each_other(name):
    for height, width in SHAPES:
        found = turns(name, (3, height, width))[0]
        assert sorted(found.tolist()) == list(range(3 * height * width))
        if not order_named(name).drawn:
            plane = turns(name, (height, width))[0]
            assert np.array_equal(found, np.concatenate([plane + at * height * width for at in range(3)]))


def test_a_curve_of_hilbert_goes_from_place_to_neighbour_and_fills_squares_one_after_the_other():
    for height, width in SHAPES:
        row, column = np.divmod(turns("hilbert", (height, width))[0], width)
        apart = np.maximum(abs(np.diff(row)), abs(np.diff(column)))
        assert (apart == 1).all(), (height, width)
        if height % 2 == width % 2 == 0:
            assert (abs(np.diff(row)) + abs(np.diff(column)) == 1).all(), (height, width)
    for side in (4, 16, 64):
        row, column = np.divmod(turns("hilbert", (side, side))[0], side)
        for inside in (2, 4, side // 2):
            squares = (row // inside * side + column // inside).reshape(-1, inside * inside)
            assert (squares == squares[:, :1]).all()


def test_random_orders_depend_on_the_seed_alone_and_every_place_may_be_first():
    seeds = np.arange(8000)
    found = turns("random", (2, 3), seeds)
    assert np.array_equal(found[77:78], turns("random", (2, 3), [77]))
    assert len({tuple(row) for row in found.tolist()}) == 720
    for turn in range(6):
        counts = np.bincount(found[:, turn], minlength=6)
        # 8,000 draws of six: 1,333 each, with a standard deviation of 33.
        assert abs(counts - 1333).max() < 150


def test_unknown_orders_come_with_a_suggestion():
    with pytest.raises(ValueError, match=r"no order is named 'sprial' .*did you mean 'spiral'"):
        order_named("sprial")
