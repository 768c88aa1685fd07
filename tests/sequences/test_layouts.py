"""The arithmetic of the layouts beside the table of its documentation, and beside slow loops over all small grids."""

import numpy as np
import pytest

from tokenize_kit.sequences.layouts import ENDLESS, LAYOUTS, order

WRITTEN = {
    "flatten": "00 01 02 10 11 12 20 21 22 30 31 32 E",
    "delay": "00 10 01 20 11 02 30 21 12 E 31 22 32",
    "coarse-first": "00 10 20 30 E 01 11 21 31 02 12 22 32",
}
JOINT = {
    "flatten": "00 01 02 | 10 11 12 | 20 21 22 | 30 31 32",
    "delay": "00 | 10 01 | 20 11 02 | 30 21 12 | 31 22 | 32",
    "coarse-first": "00 | 10 | 20 | 30 | 01 | 11 | 21 | 31 | 02 | 12 | 22 | 32",
}
SIZES = [(steps, codebooks) for steps in range(1, 13) for codebooks in range(1, 10)]


def slow_order(name, steps, codebooks):
    """(step, codebook) of each id, by the definition of the layout."""
    if name == "flatten":
        return [(t, q) for t in range(steps) for q in range(codebooks)]
    if name == "coarse-first":
        return [(t, q) for q in range(codebooks) for t in range(steps)]
    diagonals = range(steps + codebooks - 1)
    return [(s - q, q) for s in diagonals for q in range(codebooks) if 0 <= s - q < steps]


def slow_end(name, steps, codebooks):
    """How many ids come before <end>: it stands where codebook 0 would have its next id, were there one more step."""
    return slow_order(name, steps + 1, codebooks).index((steps, 0))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_orders_are_those_of_the_documentation(name):
    words = [f"{place // 3}{place % 3}" for place in order(LAYOUTS[name], 4, 3)]
    words.insert(int(LAYOUTS[name].before_end(np.array(4), 3)), "E")
    assert " ".join(words) == WRITTEN[name]


def slow_key(name, step, codebook):
    """What the ids of a joint step have in common, by its definition."""
    return {"flatten": step, "delay": step + codebook, "coarse-first": (step, codebook)}[name]


@pytest.mark.parametrize("name", LAYOUTS)
def test_joint_steps_are_those_of_the_documentation_and_of_the_slow_loops(name):
    layout = LAYOUTS[name]
    for steps, codebooks in SIZES:
        ids = slow_order(name, steps, codebooks)
        keys = [slow_key(name, *place) for place in ids]
        opened = [number == 0 or key != keys[number - 1] for number, key in enumerate(keys)]
        step, codebook = np.array(ids).T
        assert layout.opens(step, codebook, np.full(len(ids), steps)).tolist() == opened
        # Before <end> nobody knows the number of steps, and <end> or what comes in its place begins one.
        end = slow_end(name, steps, codebooks)
        unknown = np.full(end, ENDLESS)
        assert layout.opens(step[:end], codebook[:end], unknown).tolist() == opened[:end]
        assert end == len(ids) or opened[end]
        if (steps, codebooks) == (4, 3):
            words = [("| " if new else "") + f"{t}{q}" for new, (t, q) in zip(opened, ids, strict=True)]
            assert " ".join(words) == "| " + JOINT[name]


@pytest.mark.parametrize("name", LAYOUTS)
def test_places_are_those_of_the_slow_loops(name):
    layout = LAYOUTS[name]
    for steps, codebooks in SIZES:
        expected = slow_order(name, steps, codebooks)
        assert [layout.place(index, steps, codebooks) for index in range(len(expected))] == expected
        assert order(layout, steps, codebooks).tolist() == [t * codebooks + q for t, q in expected]
        end = slow_end(name, steps, codebooks)
        assert int(layout.before_end(np.array(steps), codebooks)) == end
        # Before <end> nobody knows the number of steps, and where it comes the next id of codebook 0 would be due.
        assert [layout.place(index, ENDLESS, codebooks) for index in range(end)] == expected[:end]
        assert layout.place(end, ENDLESS, codebooks) == (steps, 0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_many_grids_at_once_are_as_one_by_one(name):
    layout = LAYOUTS[name]
    for codebooks in (1, 2, 5, 9):
        ids = [(index, steps) for steps in range(1, 13) for index in range(steps * codebooks)]
        index, steps = np.array(ids).T
        expected = [t * codebooks + q for i, s in ids for t, q in [layout.place(i, s, codebooks)]]
        assert layout.places(index, steps, codebooks).tolist() == expected
        assert layout.before_end(np.arange(13), codebooks).tolist() == [
            0,
            *(slow_end(name, steps, codebooks) for steps in range(1, 13)),
        ]


@pytest.mark.parametrize("name", LAYOUTS)
def test_hours_of_sound_have_every_place_once(name):
    steps, codebooks = 300_007, 12
    places = order(LAYOUTS[name], steps, codebooks)
    assert np.array_equal(np.sort(places), np.arange(steps * codebooks))
    for index in (0, 66, 67, 12345, steps * codebooks - 67, steps * codebooks - 66, steps * codebooks - 1):
        step, codebook = LAYOUTS[name].place(index, steps, codebooks)
        assert places[index] == step * codebooks + codebook
