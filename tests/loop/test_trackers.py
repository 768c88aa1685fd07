"""Where a training is shown besides its log: what each tracker is told, and that the weights do not depend on it."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from tokenize_kit.protocol.registry import TRACKERS
from trainers.config import LoopConfig
from trainers.exhibits import Exhibit
from trainers.logs import RunLog
from trainers.trackers import tracker_of

STEP = 7


class FakeService(ModuleType):
    """The calls of wandb and trackio, written down."""

    def __init__(self, name):
        super().__init__(name)
        self.begun, self.logged, self.ended = [], [], 0

    def init(self, **options):
        print("what a service says")
        self.begun.append(options)
        return SimpleNamespace(log=lambda values, step: self.logged.append((step, values)), finish=self.end)

    def end(self):
        self.ended += 1

    @staticmethod
    def Image(pixels):
        return ("image", pixels.shape, pixels.dtype)

    @staticmethod
    def Audio(samples, sample_rate):
        return ("audio", samples.shape, sample_rate)


@pytest.fixture(params=["wandb", "trackio"])
def service(request, monkeypatch):
    fake = FakeService(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    monkeypatch.delenv(f"{request.param.upper()}_PROJECT", raising=False)
    return fake


def told(out, name):
    """A log that is told everything once."""
    log = RunLog(out, 0, name)
    log.write(STEP, {"loss": 2.0, "validation/bits": 1.5}, ["too hot"])
    log.show(
        STEP,
        {
            "grey": Exhibit("image", torch.zeros(1, 4, 5, dtype=torch.uint8)),
            "coloured": Exhibit("image", torch.zeros(3, 4, 5, dtype=torch.uint8)),
            "tone": Exhibit("audio", torch.zeros(2, 800), sample_rate=8000),
            "words": Exhibit("text", "abc"),
        },
    )
    log.close()


def test_a_service_is_told_what_the_log_says(service, tmp_path, capsys):
    out = tmp_path / "emoji"
    out.mkdir()
    (out / "run.json").write_text(json.dumps({"steps": 3}))
    told(out, service.__name__)
    (begun,) = service.begun
    number = json.loads((out / "tracked.json").read_text())["run"]
    assert (begun["project"], begun["config"], begun["resume"]) == ("tokenize-kit", {"steps": 3}, "allow")
    assert number in (begun.get("id"), begun["name"].removeprefix("emoji-"))
    assert begun["name"].startswith("emoji")
    assert service.logged == [
        (STEP, {"train/loss": 2.0, "validation/bits": 1.5}),
        (STEP, {"warnings": "too hot"}),
        (STEP, {"grey": ("image", (4, 5, 3), np.dtype("uint8"))}),
        (STEP, {"coloured": ("image", (4, 5, 3), np.dtype("uint8"))}),
        (STEP, {"tone": ("audio", (800,), 8000)}),
        (STEP, {"words": "abc"}),
    ]
    assert service.ended == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "what a service says\n")
    assert json.loads((out / "train_log.jsonl").read_text())["loss"] == 2.0
    assert not (out / "tensorboard").exists()


def test_a_run_goes_on_under_its_number_and_in_the_project_that_is_named(service, tmp_path, monkeypatch):
    monkeypatch.setenv(f"{service.__name__.upper()}_PROJECT", "mine")
    for _ in range(2):
        RunLog(tmp_path, 0, service.__name__).close()
    first, second = service.begun
    assert first == second
    assert first["project"] == "mine"


def test_a_package_that_is_not_here_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"--track wandb needs the package wandb .*install tokenize-kit\[wandb\]"):
        RunLog(tmp_path, 0, "wandb")
    assert not (tmp_path / "train_log.jsonl").exists()


def test_none_tells_nobody(tmp_path):
    told(tmp_path, "none")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"train_log.jsonl", "pictures", "sounds", "texts"}


def test_an_unknown_tracker_is_refused_with_the_options():
    with pytest.raises(ValueError, match=r"no tracker is named 'tensorbord' .*did you mean 'tensorboard'"):
        LoopConfig(track="tensorbord")


def test_every_tracker_has_the_methods(service, tmp_path):
    names = {"tensorboard", "none", service.__name__}
    assert names < {*TRACKERS.names()}
    methods = ("add_scalars", "add_text", "add_image", "add_audio", "close")
    for name in names:
        made = tracker_of(name, tmp_path / name, 0)
        assert all(callable(getattr(made, method)) for method in methods)
        made.close()
