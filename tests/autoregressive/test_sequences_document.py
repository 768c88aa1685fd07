"""docs/sequences.md, word for word: every command runs, one after the other, in one folder; with fewer steps on small data."""

from __future__ import annotations

import io
import json
import re
import shlex
import tarfile
import wave
from pathlib import Path

import pytest
import torch
from toys.neural_codec import RVQ, toy_codec

from tokenize_kit.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "sequences.md").read_text(encoding="utf-8")
TRAINING = ("--steps", "2", "--preset", "tiny", "--model.layers", "1", "--model.width", "32", "--model.heads", "2")
EMOJI = 40


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.strip()]


def run(*words: str) -> None:
    assert main([*words, "--quiet"] if words[0] == "generate" else list(words)) == 0, " ".join(words)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """What the commands begin with."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(ROOT / "assets" / "emoji.tar") as source, tarfile.open("emoji.tar", "w") as goal:
        for member in source.getmembers()[: 3 * EMOJI]:
            goal.addfile(member, io.BytesIO(source.extractfile(member).read()))
    run("train", "palette", "--data", "emoji.tar", "--colors", "8", "--image-size", "8", "--out", "tokenizers/palette")
    run("train", "chars", "--data", "emoji.tar", "--out", "tokenizers/chars")
    streams = ("--tokenizer", "text=tokenizers/chars", "--tokenizer", "image=tokenizers/palette")
    run("encode", *streams, "--data", "emoji.tar", "--image-size", "8", "--out", "shards/emoji")
    codec = toy_codec(quantizer={**RVQ, "codebooks": 5})
    codec.save(Path("tokenizers/codec"))
    Path("recordings").mkdir()
    for number in range(30):
        with wave.open("begin.wav" if number == 29 else f"recordings/{number}.wav", "wb") as file:
            file.setnchannels(codec.spec.channels)
            file.setsampwidth(2)
            file.setframerate(codec.spec.sample_rate)
            sound = torch.randn(400 + 10 * number, codec.spec.channels, generator=torch.Generator().manual_seed(number))
            file.writeframes((sound * 3000).to(torch.int16).numpy().tobytes())
    lines = [{"q": f"Is {a} more than {b}?", "a": "yes" if a > b else "no"} for a in range(8) for b in range(8)]
    # A row is as long as the longest document, and the prompts of the document are longer than these.
    lines.append({"q": "Quick zephyrs vex bold jumping foxes: do they?", "a": "Pack my box with a dozen jugs."})
    Path("pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    talks = [{"text": f"<|im_start|>user\n{line['q']}<|im_end|>"} for line in lines]
    Path("talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    Path("questions.txt").write_text("Is 1 more than 2?\nIs 2 more than 1?\n")
    Path("questions.jsonl").write_text(json.dumps({"prompt": "Is 1 more than 1?"}) + "\n")


def test_every_command_runs(world, capsys):
    asked = commands()
    assert len(asked) > 20
    for words in asked:
        if words[:2] == ["train", "transformer"]:
            words = [*words, *TRAINING]
            if "models/last" in words:  # of which a checkpoint is opened later
                words += ["--checkpoint-every", "1"]
        if "test.txt" in words and not Path("test.txt").exists():
            rows = json.loads(Path("shards/pairs/dataset.json").read_text())
            assert rows
            run("inspect", "shards/pairs")
            keys = re.findall(r"pairs\.jsonl#?\S*", capsys.readouterr().out)
            Path("test.txt").write_text("\n".join(dict.fromkeys(keys)) + "\n")
        words = [word.replace("step_00000200", "step_00000002") for word in words]
        run(*words)
    for samples in ("sounds", "pairs", "talks", "plain", "many", "more", "early"):
        assert Path("samples", samples, "samples.jsonl").is_file()


def test_the_python_runs(capsys):
    for code in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL):
        exec(code, {})
    assert capsys.readouterr().out
