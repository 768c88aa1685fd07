"""Pictures to batches: which pictures a batch has, how they are cut, and that a batch follows from its number alone."""

import functools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.sources.heldout import key_fractions
from trainers.autoencoder import data
from trainers.autoencoder.cutting import Cutting, check_image_size, check_sides
from trainers.autoencoder.data import split, spread
from trainers.autoencoder.image.data import PictureBatches, Pictures, prepare
from trainers.autoencoder.image.options import TrainImageOptions
from trainers.autoencoder.image.train import ImageRun
from trainers.exhibits import grid_of

PLAIN = Cutting(None, "random", False, False)


def write_pictures(folder, sizes, channels=3):
    """Write PNG files whose pixels say which picture it is (first channel), which row and which column."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (height, width) in enumerate(sizes):
        values = np.zeros((height, width, channels), np.uint8)
        values[..., 0] = number
        if channels > 1:
            values[..., 1] = np.arange(height)[:, None]
            values[..., 2] = np.arange(width)
        Image.fromarray(values[..., 0] if channels == 1 else values).save(folder / f"{number:03}.png")
    return folder


def pictures_of(tmp_path, sizes, channels=3, **options):
    files = write_pictures(tmp_path / "files", sizes, channels)
    options = TrainImageOptions(data=(str(files),), out=str(tmp_path / "out"), channels=channels, **options)
    prepare(options, options.data, tmp_path / "shards", None)
    return Pictures(ShardSet.open(tmp_path / "shards"))


def batches_of(pictures, chosen=None, cutting=PLAIN, batch_size=4, seed=0, rank=0, world=1):
    chosen = np.arange(len(pictures)) if chosen is None else chosen
    return PictureBatches(pictures, chosen, cutting, batch_size, seed, rank, world)


def names(batch):
    return batch.samples[:, 0, 0, 0].tolist()


def test_several_workers_prepare_the_shards_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "EncodeOptions", functools.partial(EncodeOptions, shard_mb=0.0002))
    for workers in (1, 2):
        pictures_of(tmp_path / str(workers), [(6, 5), (7, 7), (4, 9), (8, 3)], workers=workers)
    first, second = (
        {
            path.relative_to(root): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and path.name != "plan.json"
        }
        for root in (tmp_path / "1" / "shards", tmp_path / "2" / "shards")
    )
    assert len([name for name in first if name.suffix == ".arrow"]) > 1
    assert first == second


def test_pictures_come_back_as_they_are_in_files(tmp_path):
    for channels in (1, 3):
        pictures = pictures_of(tmp_path / str(channels), [(3, 5), (4, 2), (6, 6)], channels)
        assert [pictures[number].shape for number in range(3)] == [(3, 5, channels), (4, 2, channels), (6, 6, channels)]
        assert pictures.shapes[:, :2].tolist() == [[3, 5], [4, 2], [6, 6]]
        assert [int(pictures[number][0, 0, 0]) for number in range(3)] == [0, 1, 2]
        cut = pictures.cut(0, PLAIN, None)
        assert cut.shape == (channels, 3, 5)
        assert cut.dtype == torch.uint8
        if channels == 3:
            assert cut[1:, 2, 4].tolist() == [2, 4]
        assert pictures.fractions.tolist() == key_fractions(["000.png", "001.png", "002.png"]).tolist()


def test_padded_pictures_are_whole_and_square(tmp_path):
    pictures = pictures_of(tmp_path, [(12, 16), (4, 8)], image_size=8, pad=True)
    assert pictures.shapes[:, :2].tolist() == [[8, 8], [8, 8]]
    cut = pictures.cut(1, Cutting(8, "random", False, False), np.random.default_rng(0))
    assert (cut[:, :2] == 255).all()
    assert (cut[:, 6:] == 255).all()
    assert cut[:, 2, 0].tolist() == pictures[1][2, 0].tolist() != [255, 255, 255]


def test_a_batch_is_a_function_of_its_number_alone(tmp_path):
    pictures = pictures_of(tmp_path, [(12, 16)] * 11, image_size=8, max_scale=1.5, flip=True)
    cutting = Cutting(8, "random", True, True)
    one = batches_of(pictures, cutting=cutting)
    expected = [one.batch(index).samples for index in range(9)]
    for index in (8, 0, 3, 4, 5, 2):
        assert torch.equal(one.batch(index).samples, expected[index])
        fresh = batches_of(pictures, cutting=cutting)
        assert torch.equal(fresh.batch(index).samples, expected[index])
    other = batches_of(pictures, cutting=cutting, seed=1)
    assert not torch.equal(other.batch(0).samples, expected[0])
    # The same pictures are cut otherwise in another epoch.
    assert len({values.numpy().tobytes() for values in expected}) == 9


def test_every_picture_comes_once_an_epoch_over_all_processes(tmp_path):
    pictures = pictures_of(tmp_path, [(4, 4)] * 13)
    chosen = np.array([1, 2, 3, 5, 8, 9, 10, 11, 12])
    for world, size in ((1, 4), (2, 2), (3, 1), (2, 7)):
        ranks = [batches_of(pictures, chosen, batch_size=size, rank=rank, world=world) for rank in range(world)]
        count = math.ceil(3 * len(chosen) / (size * world))
        seen = [name for index in range(count) for rank in ranks for name in names(rank.batch(index))]
        epochs = [seen[start : start + len(chosen)] for start in range(0, 3 * len(chosen), len(chosen))]
        assert all(Counter(epoch) == Counter(chosen.tolist()) for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2], "each epoch has its own order"
        assert ranks[0].epoch(count) == pytest.approx(count * size * world / len(chosen))


def test_two_processes_have_the_pictures_of_one_with_the_joint_batch(tmp_path):
    pictures = pictures_of(tmp_path, [(4, 4)] * 10)
    joint = batches_of(pictures, batch_size=6)
    ranks = [batches_of(pictures, batch_size=3, rank=rank, world=2) for rank in range(2)]
    for index in range(5):
        parts = torch.cat([rank.batch(index).samples for rank in ranks])
        assert torch.equal(parts, joint.batch(index).samples)


class Leaking(dict):
    """Loses what was looked up: another thread that reads a later epoch throws old orders away, at the worst moment."""

    def __contains__(self, key):
        return self.pop(key, None) is not None

    def get(self, key, default=None):
        return self.pop(key, default)


def test_reading_ahead_in_another_thread_does_not_lose_the_order_of_an_epoch(tmp_path):
    shared = batches_of(pictures_of(tmp_path, [(2, 2)] * 8))
    expected = shared.read(0).samples
    shared._orders = Leaking(shared._orders)
    assert torch.equal(shared.read(0).samples, expected)


def test_random_crops_are_inside_and_everywhere_and_the_centre_is_the_middle(tmp_path):
    pictures = pictures_of(tmp_path, [(8, 20)], image_size=8)
    assert pictures[0].shape == (8, 20, 3)
    draw = np.random.default_rng(0)
    cuts = [pictures.cut(0, Cutting(8, "random", False, False), draw) for _ in range(200)]
    assert all(cut.shape == (3, 8, 8) for cut in cuts)
    lefts = Counter(int(cut[2, 0, 0]) for cut in cuts)
    assert set(lefts) == set(range(13))
    assert all(torch.equal(cut[2, 0], torch.arange(8) + int(cut[2, 0, 0])) for cut in cuts)
    for random in (draw, None):
        middle = pictures.cut(0, Cutting(8, "center", False, False), random)
        assert middle[2, 0].tolist() == list(range(6, 14))


def test_scaled_squares_are_between_the_size_and_the_whole_short_side(tmp_path):
    pictures = pictures_of(tmp_path, [(32, 48)], image_size=16, max_scale=2.0)
    assert pictures[0].shape == (32, 48, 3)
    draw = np.random.default_rng(0)
    cuts = [pictures.cut(0, Cutting(16, "random", True, False), draw) for _ in range(300)]
    assert all(cut.shape == (3, 16, 16) for cut in cuts)
    # A step of one pixel spans side / 16 columns of the file.
    spans = [round((int(cut[2, 8, 14]) - int(cut[2, 8, 1])) / 13 * 16) for cut in cuts]
    assert min(spans) in (15, 16, 17)
    assert max(spans) in (31, 32, 33)
    assert len(set(spans)) > 12
    # Without a draw the whole middle: 32 of the 48 columns, from 8 on.
    whole = pictures.cut(0, Cutting(16, "random", True, False), None)
    assert whole[2, 0, 1:15].tolist() == pytest.approx([8 + 2 * column + 0.5 for column in range(1, 15)], abs=1)


def test_half_of_the_pictures_are_mirrored_and_none_without_a_draw(tmp_path):
    pictures = pictures_of(tmp_path, [(4, 6)])
    plain = pictures.cut(0, PLAIN, None)
    flipping = Cutting(None, "random", False, True)
    draw = np.random.default_rng(0)
    cuts = [pictures.cut(0, flipping, draw) for _ in range(200)]
    mirrored = sum(torch.equal(cut, plain.flip(2)) for cut in cuts)
    assert mirrored + sum(torch.equal(cut, plain) for cut in cuts) == 200
    assert 70 < mirrored < 130
    assert torch.equal(pictures.cut(0, flipping, None), plain)


def test_what_is_held_out_follows_from_the_keys_whatever_the_order_and_the_rest(tmp_path):
    held = []
    for name, count in (("some", 30), ("more", 50)):
        pictures = pictures_of(tmp_path / name, [(4, 4)] * count)
        trained_on, validation = split(pictures.fractions, 0.3, False, 1024, "pictures")
        assert sorted([*trained_on, *validation]) == list(range(count))
        held.append({int(pictures[number][0, 0, 0]) for number in validation})
    assert 3 < len(held[0]) < 16
    assert held[0] == {number for number in held[1] if number < 30}
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert spread([3, 5], 4) == [3, 5]


def test_a_set_without_one_readable_picture_is_refused(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.png").write_bytes(b"not a picture")
    with pytest.raises(TooManyFailuresError, match=r"none of 1 samples could be read; .*failures\.jsonl"):
        pictures_of(tmp_path, [])


@pytest.mark.parametrize(("size", "use"), [(10, "8 or 12"), (3, "4 or 8")])
def test_squares_that_do_not_fit_are_refused(size, use):
    with pytest.raises(ValueError, match=rf"--image-size {size} is not a multiple of 4 .*; use {use}"):
        check_image_size(size, 4)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(8, 8), (8, 12)], r"FILES has pictures of different sizes \(8x8 to 8x12\); give an --image-size"),
        ([(8, 10)], r"pictures of 8x10 are no multiple of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, sizes, message):
    pictures = pictures_of(tmp_path, sizes)
    with pytest.raises(ValueError, match=message):
        check_sides(pictures.shapes[:, :2], 4, "pictures", "FILES")


def test_a_sheet_shows_every_picture_where_it_belongs():
    red, blue = torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4, dtype=torch.uint8)
    red[0], blue[2] = 255, 200
    sheet = grid_of([[red, blue], [blue]], gap=2)
    assert sheet.shape == (3, 2 + 2 * (64 + 2), 2 + 2 * (64 + 2))
    assert sheet[:, 2, 2].tolist() == [255, 0, 0]
    assert sheet[:, 65, 2 + 66 + 63].tolist() == [0, 0, 200]
    assert sheet[:, 2 + 66, 2].tolist() == [0, 0, 200]
    assert sheet[:, 2 + 66, 2 + 66].tolist() == [255, 255, 255], "nothing is left white"
    assert sheet[:, 0, 0].tolist() == [255, 255, 255]


def test_padding_is_part_of_a_run_only_where_it_is_asked_for():
    """So a run from before there was the option is the same run."""
    same = {"data": ("pictures",), "out": "out", "image_size": 8}
    plain = ImageRun(TrainImageOptions(**same), None).identity()
    assert ImageRun(TrainImageOptions(**same, pad=True), None).identity() == {**plain, "pad": True}
