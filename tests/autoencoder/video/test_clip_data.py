"""Films to batches: which clips a batch has, that it follows from its number alone, short films, and pictures between them."""

from collections import Counter

import numpy as np
import pytest
import torch

from trainers.autoencoder.cutting import Cutting
from trainers.autoencoder.video.data import ClipBatches, Films, Mixing, joined

PLAIN = Cutting(None, "random", False, False)


class Arrays(Films):
    """Films in memory whose values say which film (first channel), frame (second) and column (third) they are of."""

    def __init__(self, lengths, height=6, width=6, still=False):
        self._films = []
        for number, length in enumerate(lengths):
            film = np.zeros((length, height, width, 3), np.uint8)
            film[..., 0] = number
            film[..., 1] = np.arange(length)[:, None, None]
            film[..., 2] = np.arange(width)
            self._films.append(film)
        self.lengths = np.array(lengths)
        self._still = still

    def __len__(self):
        return len(self._films)

    def grid(self, number):
        film = self._films[number]
        return film[0] if self._still else film


def batches(films, length=5, cutting=PLAIN, batch_size=4, seed=0, rank=0, world=1, mixing=None, chosen=None):
    chosen = np.arange(len(films)) if chosen is None else np.array(chosen)
    return ClipBatches(films, chosen, length, cutting, batch_size, seed, rank, world, mixing)


def places(batch):
    """Film and first frame of each clip of a batch."""
    return [(int(clip[0, 0, 0, 0]), int(clip[1, 0, 0, 0])) for clip in batch.samples]


def test_a_batch_has_the_layout_of_the_network_and_the_values_of_the_film():
    films = Arrays([9, 7])
    samples = batches(films, batch_size=3).read(0).samples
    assert samples.shape == (3, 3, 5, 6, 6)
    assert samples.dtype == torch.uint8
    assert samples.permute(0, 2, 3, 4, 1).is_contiguous(), "as frames lie in the files, without a copy between"
    for clip in samples:
        number, start = int(clip[0, 0, 0, 0]), int(clip[1, 0, 0, 0])
        expected = films.frames(number)[start : start + 5]
        assert np.array_equal(clip.permute(1, 2, 3, 0).numpy(), expected)


def test_a_batch_is_a_function_of_its_number_alone():
    films = Arrays([40, 33, 6, 21], 8, 11)
    cutting = Cutting(6, "random", True, True)
    mixing = Mixing(Arrays([1] * 5, 8, 9, still=True), 0.4, 2)
    one = batches(films, cutting=cutting, mixing=mixing)
    expected = [one.batch(index).samples for index in range(12)]
    for index in (11, 0, 5, 4, 3):
        assert torch.equal(one.batch(index).samples, expected[index])
        assert torch.equal(batches(films, cutting=cutting, mixing=mixing).batch(index).samples, expected[index])
    other = batches(films, cutting=cutting, mixing=mixing, seed=1)
    assert any(not torch.equal(other.read(index).samples, expected[index]) for index in range(3))
    assert len({values.numpy().tobytes() for values in expected}) == 12


def test_each_film_comes_as_often_as_clips_fit_into_it_and_begins_anywhere():
    films = Arrays([23, 5, 11, 3])
    one = batches(films, batch_size=4)
    # 4 + 1 + 2 + 1 clips of five frames.
    for epoch in range(3):
        seen = [place for index in range(2) for place in places(one.read(2 * epoch + index))]
        assert Counter(number for number, _ in seen) == {0: 4, 1: 1, 2: 2, 3: 1}
    starts = {number: set() for number in range(4)}
    for index in range(200):
        for number, start in places(one.read(index)):
            starts[number].add(start)
    assert starts == {0: set(range(19)), 1: {0}, 2: set(range(7)), 3: {0}}
    assert one.epoch(2) == 1


def test_only_the_chosen_films_are_drawn_and_two_processes_share_a_batch():
    films = Arrays([9] * 6)
    joint = batches(films, batch_size=6, chosen=[1, 3, 4])
    ranks = [batches(films, batch_size=3, chosen=[1, 3, 4], rank=rank, world=2) for rank in range(2)]
    for index in range(4):
        assert {number for number, _ in places(joint.read(index))} <= {1, 3, 4}
        parts = torch.cat([rank.read(index).samples for rank in ranks])
        assert torch.equal(parts, joint.read(index).samples)


def test_short_films_stand_still_at_their_end():
    clip = batches(Arrays([3]), batch_size=1).read(0).samples[0]
    assert clip[1, :, 0, 0].tolist() == [0, 1, 2, 2, 2]
    films = Arrays([3, 8])
    held = [films.clip(number, 5, PLAIN, None) for number in range(2)]
    assert [len(clip) for clip in held] == [3, 5]
    assert joined(held, 5)[:, 1, :, 0, 0].tolist() == [[0, 1, 2, 2, 2], [0, 1, 2, 3, 4]]


def test_squares_are_inside_everywhere_and_mirrored_as_a_whole():
    films = Arrays([6], 6, 10)
    one = batches(films, length=3, cutting=Cutting(6, "random", False, True), batch_size=1)
    found = set()
    for index in range(200):
        row = one.read(index).samples[0, 2]
        assert (row == row[0, 0]).all(), "one square for all frames of a clip"
        columns = row[0, 0].tolist()
        assert columns in (sorted(columns), sorted(columns, reverse=True))
        found.add((min(columns), columns[0] > columns[-1]))
    assert found == {(left, mirrored) for left in range(5) for mirrored in (False, True)}
    middle = films.clip(0, 3, Cutting(6, "random", False, True), None)
    assert middle[0, 0, :, 2].tolist() == [2, 3, 4, 5, 6, 7]


def test_larger_squares_are_scaled_down():
    films = Arrays([4], 12, 12)
    cutting = Cutting(6, "random", True, False)
    clip = films.clip(0, 4, cutting, None)
    assert clip.shape == (4, 6, 6, 3)
    assert clip[:, 3, 3, 1].tolist() == [0, 1, 2, 3]
    assert clip[0, 0, :, 2].tolist() == pytest.approx([0.5, 2.5, 4.5, 6.5, 8.5, 10.5], abs=0.6)


def test_pictures_come_in_batches_of_their_own_for_all_of_a_step():
    pictures = Arrays([1] * 4, 6, 6, still=True)
    mixing = Mixing(pictures, 0.3, accumulate=2)
    one = batches(Arrays([20] * 3), mixing=mixing)
    kinds = [one.of_pictures(index) for index in range(2000)]
    assert kinds[::2] == kinds[1::2]
    assert sum(kinds) / len(kinds) == pytest.approx(0.3, abs=0.03)
    for index in range(20):
        assert one.read(index).samples.shape == (4, 3, 1 if kinds[index] else 5, 6, 6)
    other = batches(Arrays([20] * 3), mixing=mixing, rank=1, world=2)
    assert [other.of_pictures(index) for index in range(200)] == kinds[:200]
    assert not any(batches(Arrays([20])).of_pictures(index) for index in range(50))
    assert one.epoch(30) == pytest.approx(batches(Arrays([20] * 3)).epoch(30) * 0.7)
