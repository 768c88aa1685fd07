"""What every test may use: the assets of the repository and a few small pictures."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# No test fails because the machine is slow.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What a machine remembers of shards goes into a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Syncing guards against power cuts, which no test has; the tests would wait for the disk thousands of times.

    Processes that tests start sync as in use, and tests of the order of the steps put in a function of their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def one_thread():
    """Torch computes with one thread: small models only wait for each other's threads, and with a busy neighbour all the more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def emoji_tar():
    """1,441 emoji, 48x48 RGBA, with captions."""
    return ASSETS / "emoji.tar"


@pytest.fixture(scope="session")
def udhr_txt():
    """1 MB of text in 56 languages."""
    return ASSETS / "udhr.txt"


@pytest.fixture
def make_picture():
    """A function (channels, height, width, seed) -> uint8 tensor (C, H, W): a smooth ramp with some noise."""

    def make(channels=3, height=20, width=24, seed=0):
        generator = torch.Generator().manual_seed(seed)
        ramp = torch.linspace(0, 200, height * width).reshape(1, height, width)
        noise = torch.rand(channels, height, width, generator=generator) * 55
        return (ramp + noise).to(torch.uint8)

    return make
