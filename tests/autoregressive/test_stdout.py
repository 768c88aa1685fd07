"""``generate --stream``: stdout has the bytes of the sample's file and nothing else, while it is drawn."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.neural_codec import RVQ, toy_codec
from toys.talkies import numbered, write_film
from toys.world import picture_samples, text_samples, write_shards, write_streams

from tokenize_kit.cli import main
from tokenize_kit.media.audio import read_audio
from tokenize_kit.media.video import read_video
from trainers.autoregressive import stdout
from trainers.autoregressive.api import Model
from trainers.autoregressive.options import TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.streaming import steps_of
from trainers.autoregressive.train import train_transformer

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = TransformerOverrides(layers=1, width=32, heads=2)


def train(shards, out, **changes):
    values = {"steps": 3, "batch_size": 2, "preset": "tiny", "model": SIZES, "device": "cpu", **changes}
    train_transformer(TrainTransformerOptions(shards=(str(shards),), out=str(out), **values))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Models of texts, of sounds of a codec, of films of three frames, and of pictures with captions."""
    root = tmp_path_factory.mktemp("stdout")
    before = Path.cwd()
    os.chdir(root)
    train(write_shards(root / "texts", text_samples(40)), root / "text", template="text", context=48)
    codec = toy_codec(quantizer={**RVQ, "codebooks": 3})
    random = np.random.default_rng(0)
    grids = [random.integers(0, 32, (20 + number % 5, 3)).astype(np.uint8) for number in range(40)]
    lengths = [(codec.decode(torch.from_numpy(grid).long()).shape[-1],) for grid in grids]
    sounds = write_streams(root / "sounds", {"audio": codec}, {"audio": grids}, sizes={"audio": lengths})
    train(sounds, root / "sound", template="audio:delay", context=90)
    pictures = write_shards(root / "pictures", picture_samples(30, shapes=((4, 3),)))
    train(pictures, root / "picture", template=("text -> image", "image text", "image -> text"))
    Path("films").mkdir()
    for number in range(3):
        write_film(f"films/{number}.mkv", numbered(18 + 6 * number))
    for line in (
        "create frames --fps 6 --channels 1 --out frames",
        "encode --tokenizer frames --data films --image-size 4 --clip-frames 3 --clip-tail drop --out clips",
        "train transformer --shards clips --template video --context 64 --steps 4 --batch-size 4 --out film "
        "--model.layers 1 --model.width 32 --model.heads 2",
    ):
        assert main([*line.split(), "--quiet"]) == 0
    yield root
    os.chdir(before)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def call(capfdbinary, line, code=0):
    """Exit code, stdout and stderr of a command line."""
    capfdbinary.readouterr()
    assert main(shlex.split(line)) == code
    found = capfdbinary.readouterr()
    return found.out, found.err.decode()


@pytest.mark.parametrize(
    "line",
    [
        "--model text --seed 3",
        "--model text --seed 4 --prompt 'red app' --temperature 0.7 --max-length 30",
        "--model sound --seed 1",
        "--model picture --template 'image -> text' --prompt-file made.png",
    ],
)
def test_stdout_has_the_file_and_the_folder_is_the_same(world, capfdbinary, tmp_path, line):
    if not Path("made.png").exists():
        call(capfdbinary, "generate --model picture --prompt dark --out pictured")
        next(Path("pictured").glob("*.png")).rename("made.png")
    plain, told = tmp_path / "plain", tmp_path / "told"
    call(capfdbinary, f"generate {line} --out {plain}")
    out, err = call(capfdbinary, f"generate {line} --out {told} --stream")
    (file,) = plain.glob("sample_*")
    assert out == file.read_bytes()
    assert len(out) > 2
    assert contents(told) == contents(plain)
    assert f"1 sample in {told}, " in err
    assert err.endswith(f"a second\n{told / file.name}\n")
    # The same command, with or without stdout, goes on in the folder.
    call(capfdbinary, f"generate {line} --out {told}")
    assert call(capfdbinary, f"generate {line} --stream --quiet") == (out, "")


def test_a_film_has_its_frames_to_the_bit(world, capfdbinary):
    out, _ = call(capfdbinary, "generate --model film --seed 1 --stream")
    found = read_video(out, channels=1)
    drawn = Model.load("film", device="cpu").generate(seed=1)[0]
    assert found.frame_rate == 6.0
    assert np.array_equal(found.frames.permute(0, 2, 3, 1).numpy(), drawn.frames)


def between_steps(monkeypatch, do):
    """Have ``do`` called before each further step is drawn."""

    def watched(*arguments, **more):
        steps = steps_of(*arguments, **more)
        while True:
            try:
                step = next(steps)
            except StopIteration as done:
                return done.value
            yield step
            do()

    monkeypatch.setattr(stdout, "steps_of", watched)


def test_each_letter_is_there_before_the_next_one_is_drawn(world, capfdbinary, monkeypatch):
    sizes = []
    between_steps(monkeypatch, lambda: sizes.append(os.fstat(1).st_size))
    out, _ = call(capfdbinary, "generate --model text --seed 3 --stream --quiet")
    assert len(out) > 3
    assert sizes == list(range(1, len(out) + 1))


def test_ctrl_c_leaves_a_sound_that_can_be_heard(world, capfdbinary, monkeypatch, tmp_path):
    whole, _ = call(capfdbinary, "generate --model sound --seed 1 --stream")
    steps = []

    def stop():
        steps.append(0)
        if len(steps) == 8:
            raise KeyboardInterrupt

    between_steps(monkeypatch, stop)
    line = "generate --model sound --seed 1 --stream --quiet"
    out, err = call(capfdbinary, line, 130)
    assert err == "interrupted; the sample ends where it was; the same command draws it again, the same one\n"
    heard = read_audio(out).samples
    assert 0 < heard.shape[1] < read_audio(whole).samples.shape[1]
    assert torch.equal(heard, read_audio(whole).samples[:, : heard.shape[1]])
    steps.clear()
    _, err = call(capfdbinary, f"{line} --out {tmp_path / 'out'}", 130)
    assert "samples.jsonl" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (
            "--model picture --prompt dark --stream",
            1,
            "'text -> image' predicts image: only a single text, sound or film",
        ),
        (
            "--model picture --template 'image text' --stream",
            1,
            "'image text' predicts image, text: only a single text",
        ),
        ("--model text --stream --count 3", 2, "--stream writes one sample, and --count 3 asks for more"),
        ("--model text --stream --prompts two.txt", 2, "--prompts two.txt has 2 prompts; give one of them"),
        ("--model text --stream --json", 2, "--stream and --json both write to stdout"),
        ("--model text", 2, "--out FOLDER says where the samples go; give it, or --stream"),
    ],
)
def test_what_cannot_be_is_refused_and_writes_nothing(world, capfdbinary, line, code, words):
    Path("two.txt").write_text("red\nblue\n")
    out, err = call(capfdbinary, f"generate {line}", code)
    assert out == b""
    assert words in err
    assert err.count("\n") == 1


def test_a_terminal_gets_a_line_end_behind_a_text_and_no_sound(world, capfdbinary, monkeypatch):
    plain, _ = call(capfdbinary, "generate --model text --seed 3 --stream")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call(capfdbinary, "generate --model text --seed 3 --stream")[0] == plain + b"\n"
    out, err = call(capfdbinary, "generate --model sound --stream", 1)
    assert out == b""
    assert "--stream writes sounds as wav, and stdout is a terminal; send it to a player, such as | aplay" in err


@pytest.mark.parametrize("model", ["text", "sound", "film"])
def test_a_reader_that_leaves_ends_it_quietly(world, capfdbinary, monkeypatch, tmp_path, model):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(f"generate --model {model} --seed 3 --stream --out {tmp_path / 'out'} --quiet".split()) == 0
        monkeypatch.undo()
    assert capfdbinary.readouterr().err == b""
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told(world, capfdbinary, monkeypatch):
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    monkeypatch.setattr(sys, "stdout", full)
    assert main("generate --model sound --stream --quiet".split()) == 1
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space left"):
        full.close()
    assert (
        capfdbinary.readouterr().err
        == b"error: stdout: No space left on device; make room and run the same command again\n"
    )
