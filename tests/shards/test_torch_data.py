"""Shard sets as data sets of torch: the records, divided among processes without loss, and continued exactly."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from toys.world import Letters, Shades, write_streams

from tokenize_kit.shards import ShardDataset, ShardSet, ShardStream

COUNT = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts of several lengths and pictures of two shapes."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, 3, 1 + number % 4).astype(np.uint8) for number in range(COUNT)]
    pictures = [draw.integers(0, 3, (2, 3) if number % 2 else (3, 2)).astype(np.uint8) for number in range(COUNT)]
    out = tmp_path_factory.mktemp("data") / "shards"
    return write_streams(out, {"text": Letters(), "image": Shades()}, {"text": texts, "image": pictures})


def keys(samples):
    return [sample["key"] for sample in samples]


def test_a_set_is_indexed_sliced_and_iterated(folder):
    data = ShardSet.open(folder)
    every = [record.key for record in data.records()]
    assert [record.key for record in data] == every
    assert data[3].key == data[3 - COUNT].key == every[3]
    assert [record.key for record in data[20:]] == every[20:]
    assert [record.key for record in data[-2:0:-5]] == every[-2:0:-5]
    assert data[5:5] == []
    with pytest.raises(IndexError, match=f"no sample {COUNT} in .*; it has {COUNT}"):
        data[COUNT]


def test_a_set_goes_to_another_process_without_what_is_mapped(folder):
    data = ShardSet.open(folder)
    assert len([*data]) == COUNT
    packed = pickle.dumps(data)
    assert len(packed) < 20_000
    again = pickle.loads(packed)
    assert np.array_equal(again[7].grids["image"], data[7].grids["image"])


def test_samples_are_tensors_in_the_shape_of_their_grids(folder):
    data = ShardDataset(folder)
    assert len(data) == COUNT
    record, sample = ShardSet.open(folder)[4], data[4]
    assert sample["key"] == record.key
    assert sample["image"].dtype == sample["text"].dtype == torch.int64
    assert sample["image"].tolist() == record.grids["image"].tolist()
    sample["image"][0, 0] = 2  # A copy: the file is mapped read-only.
    assert set(ShardDataset(folder, ["text"])[0]) == {"key", "text"}
    with pytest.raises(ValueError, match=r"no stream 'sound'; it has text, image"):
        ShardDataset(folder, ["sound"])


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (3, 0), (1, 2), (2, 2)])
def test_each_sample_comes_once_an_epoch(folder, world, workers):
    expected = Counter(record.key for record in ShardSet.open(folder))
    orders = []
    for epoch in range(2):
        found = []
        for rank in range(world):
            stream = ShardStream(folder, seed=1, rank=rank, world=world)
            stream.set_epoch(epoch)
            mine = keys(DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=None))
            assert len(mine) == len(stream)
            found += mine
        assert Counter(found) == expected
        orders.append(found)
    assert orders[0] != orders[1]


def test_orders_follow_from_the_seed_and_the_epoch(folder):
    stream = ShardStream(folder, seed=1)
    first, second = keys(stream), keys(stream)
    assert first != second, "an epoch each"
    assert stream.epoch == 2
    other = ShardStream(folder, seed=1)
    other.set_epoch(1)
    assert keys(other) == second
    assert keys(ShardStream(folder, seed=2)) != first
    assert keys(ShardStream(folder, shuffle=False)) == [record.key for record in ShardSet.open(folder)]


@pytest.mark.parametrize("given", [0, 1, 11, COUNT - 1, COUNT, COUNT + 4])
def test_a_stream_goes_on_exactly_where_it_was(folder, given):
    whole = ShardStream(folder, seed=3)
    expected = keys(whole) + keys(whole) + keys(whole)

    begun = ShardStream(folder, seed=3)
    seen, source = [], iter(begun)
    for _ in range(given):
        try:
            sample = next(source)
        except StopIteration:
            source = iter(begun)
            sample = next(source)
        seen.append(sample["key"])
    state = json.loads(json.dumps(begun.state_dict()))
    continued = ShardStream(folder, seed=3)
    continued.load_state_dict(state)
    rest = keys(continued)
    rest += keys(continued)
    assert seen + rest == expected[: len(seen) + len(rest)]
    assert len(rest) == 2 * COUNT - given % COUNT - (COUNT if given == COUNT else 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "with seed 3, and this one has 4"),
        ({"shuffle": False}, "with shuffle True, and this one has False"),
        ({"rank": 1}, "with part '0 of 2', and this one has '1 of 2'"),
        ({"world": 1}, "with part '0 of 2', and this one has '0 of 1'"),
    ],
)
def test_the_state_of_another_stream_is_refused(folder, changes, message):
    state = ShardStream(folder, seed=3, rank=0, world=2).state_dict()
    with pytest.raises(ValueError, match=message):
        ShardStream(folder, **{"seed": 3, "rank": 0, "world": 2, **changes}).load_state_dict(state)


def test_the_state_of_other_shards_is_refused(folder, tmp_path):
    other = write_streams(tmp_path / "other", {"text": Letters()}, {"text": [np.array([1], np.uint8)]})
    with pytest.raises(ValueError, match="of a stream with shards"):
        ShardStream(other).load_state_dict(ShardStream(folder).state_dict())
    with pytest.raises(ValueError, match="rank 2 must be from 0 to 1, as world is 2"):
        ShardStream(folder, rank=2, world=2)


def test_torchs_stateful_loader_continues_its_workers(folder):
    StatefulDataLoader = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def loader():
        return StatefulDataLoader(ShardStream(folder, seed=5), batch_size=None, num_workers=2)

    expected = keys(loader())
    begun = loader()
    source = iter(begun)
    seen = keys([next(source) for _ in range(9)])
    continued = loader()
    continued.load_state_dict(begun.state_dict())
    assert seen + keys(continued) == expected
