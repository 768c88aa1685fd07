"""Runs of trainings and of generation that are stopped, refused, or wanted twice."""

import dataclasses
import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
from toys.world import text_samples, write_shards

from tokenize_kit import disk
from tokenize_kit.claims import owned
from trainers.autoregressive.options import GenerateOptions, TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.sample import generate_samples
from trainers.autoregressive.train import train_transformer
from trainers.checkpoints import last_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The options of a training that is finished."""
    folder = tmp_path_factory.mktemp("stopping")
    options = TrainTransformerOptions(
        shards=(write_shards(folder / "text", text_samples(20)),),
        template="text",
        out=str(folder / "model"),
        model=TransformerOverrides(layers=1, width=16, heads=2),
        steps=4,
        batch_size=2,
        context=32,
        log_every=2,
        validate_every=2,
        device="cpu",
    )
    train_transformer(options)
    return options


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and "tensorboard" not in path.parts and path.name != "train_log.jsonl"
    }


def stopping(monkeypatch, number, error):
    """Raise an error at a step; returns the steps that are made."""
    steps = []

    def watch(what, path):
        steps.append((what, str(path)))
        if len(steps) == number:
            raise error

    monkeypatch.setattr(disk, "watch", watch)
    return steps


@pytest.mark.parametrize("part", range(6))
def test_a_training_on_a_full_disk_names_the_file_and_goes_on(trained, tmp_path, monkeypatch, part):
    again = dataclasses.replace(trained, out=str(tmp_path / "model"))
    steps = stopping(monkeypatch, None, None)
    train_transformer(dataclasses.replace(trained, out=str(tmp_path / "counted")))
    total = len(steps)
    stopping(monkeypatch, 1 + total * part // 6, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(OSError, match="No space left on device") as told:
        train_transformer(again)
    assert str(tmp_path) in str(told.value) or told.value.filename is None
    monkeypatch.setattr(disk, "watch", None)
    train_transformer(again)
    assert contents(again.out) == contents(trained.out)


def test_a_training_that_made_no_step_keeps_no_other_out(trained, tmp_path, monkeypatch):
    again = dataclasses.replace(trained, out=str(tmp_path / "model"), z_loss=1e-4)
    steps = stopping(monkeypatch, None, None)
    train_transformer(dataclasses.replace(trained, out=str(tmp_path / "counted")))
    begun = next(at for at, (_, path) in enumerate(steps) if "model.safetensors" in path)
    stopping(monkeypatch, begun + 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train_transformer(again)
    assert (tmp_path / "model" / "run.json").exists()
    assert last_checkpoint(tmp_path / "model" / "checkpoints") is None
    monkeypatch.setattr(disk, "watch", None)
    train_transformer(dataclasses.replace(trained, out=again.out))
    assert contents(again.out) == contents(trained.out)
    with pytest.raises(ValueError, match="holds a run with other options"):
        train_transformer(again)


def test_a_kill_before_the_old_checkpoint_is_removed_leaves_one(trained, tmp_path, monkeypatch):
    again = dataclasses.replace(trained, out=str(tmp_path / "model"))

    def watch(what, path):
        if what == "rename" and path.name == "step_00000002" and last_checkpoint(path.parent) not in (None, path):
            raise KeyboardInterrupt

    monkeypatch.setattr(disk, "watch", watch)
    with pytest.raises(KeyboardInterrupt):
        train_transformer(again)
    assert len(list((tmp_path / "model" / "checkpoints").iterdir())) == 2
    monkeypatch.setattr(disk, "watch", None)
    assert train_transformer(again).resumed_from == 4
    assert contents(again.out) == contents(trained.out)


def test_a_second_training_in_a_folder_is_told_so(trained, monkeypatch):
    before = contents(trained.out)
    with owned(Path(trained.out)), pytest.raises(ValueError, match="another command is writing into"):
        train_transformer(trained)
    assert contents(trained.out) == before


def test_what_a_training_says_when_it_is_interrupted(trained, tmp_path):
    assert trained.interrupted() == (
        f"the checkpoint of step 4 is in {trained.out}, and the same command goes on from there"
    )
    fresh = dataclasses.replace(trained, out=str(tmp_path))
    assert "no checkpoint yet, so the same command begins with the first step" in fresh.interrupted()


def test_samples_of_another_command_are_replaced_only_if_asked(trained, tmp_path):
    options = GenerateOptions(model=trained.out, out=str(tmp_path / "out"), count=3, seed=1, device="cpu")
    generate_samples(options)
    before = contents(options.out)
    assert "sample_00002.txt" in before
    generate_samples(options)
    assert contents(options.out) == before
    other = dataclasses.replace(options, count=2, seed=2)
    with pytest.raises(ValueError, match="is not an empty folder; give an empty or new one, or --overwrite"):
        generate_samples(other)
    assert contents(options.out) == before
    (tmp_path / "out" / "notes.txt").write_text("mine")
    generate_samples(dataclasses.replace(other, overwrite=True))
    generate_samples(dataclasses.replace(other, out=str(tmp_path / "clean")))
    assert contents(options.out) == {**contents(tmp_path / "clean"), "notes.txt": b"mine"}


def test_a_generation_that_was_stopped_draws_the_same_again(trained, tmp_path, monkeypatch):
    options = GenerateOptions(model=trained.out, out=str(tmp_path / "whole"), count=3, seed=1, device="cpu")
    generate_samples(options)
    steps = stopping(monkeypatch, None, None)
    generate_samples(dataclasses.replace(options, out=str(tmp_path / "counted")))
    stopped = dataclasses.replace(options, out=str(tmp_path / "stopped"))
    for number in range(1, len(steps) + 1, 3):
        stopping(monkeypatch, number, KeyboardInterrupt())
        with suppress(KeyboardInterrupt):  # going on takes a few steps less
            generate_samples(stopped)
    monkeypatch.setattr(disk, "watch", None)
    generate_samples(stopped)
    assert contents(stopped.out) == contents(options.out)


def test_a_model_that_is_not_there_leaves_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        generate_samples(GenerateOptions(model=str(tmp_path / "none"), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
