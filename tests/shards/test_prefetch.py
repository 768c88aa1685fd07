"""Reading ahead keeps order and errors, and its thread never outlives the block."""

import threading
import time

import pytest

from tokenize_kit.shards.prefetch import read_ahead


def numbers(taken, count=10, fail_at=None):
    for number in range(count):
        if number == fail_at:
            raise OSError("broken")
        taken.append(number)
        yield number


def test_items_come_in_order():
    before = threading.active_count()
    with read_ahead(numbers([])) as items:
        assert list(items) == list(range(10))
    assert threading.active_count() == before


def test_an_error_comes_after_the_items_before_it():
    got = []
    with pytest.raises(OSError, match="broken"), read_ahead(numbers([], fail_at=3)) as items:
        got.extend(items)
    assert got == [0, 1, 2]


def test_leaving_early_stops_the_reading():
    taken: list[int] = []
    before = threading.active_count()
    with read_ahead(numbers(taken, 1000)) as items:
        assert next(items) == 0
    assert threading.active_count() == before
    assert len(taken) <= 4


def test_it_reads_while_the_caller_works():
    taken: list[int] = []
    with read_ahead(numbers(taken)) as items:
        next(items)
        deadline = time.monotonic() + 5
        while len(taken) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(taken) >= 2
