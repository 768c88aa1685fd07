"""Shard sets of the small world, for several templates in one run."""

import pytest
from toys.world import picture_samples, text_samples, write_shards


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "pictures", picture_samples(60, shapes=((3, 4), (2, 2))))


@pytest.fixture(scope="module")
def more_pictures(tmp_path_factory):
    samples = picture_samples(25, seed=3, shapes=((4, 4),))
    return write_shards(tmp_path_factory.mktemp("data") / "more", samples, shards=1)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "texts", text_samples(50, seed=1))
