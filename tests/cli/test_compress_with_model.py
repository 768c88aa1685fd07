"""``compress --model`` and back on the command line: what comes back, what a file says, what is refused, what is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from toys.coders import write_model

from tokenize_kit.cli import main
from tokenize_kit.container import MAGIC, CodedSample, from_bytes, from_file, to_bytes
from tokenize_kit.errors import VerificationError
from tokenize_kit.tokenizers.audio.mulaw import MuLawTokenizer
from tokenize_kit.tokenizers.audio.pcm import PCMTokenizer
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from tokenize_kit.tokenizers.text.chars import CharsTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "All human beings are born free and equal in dignity and rights.\nIhnen allen: Würde.\n" * 2
SIDE = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(root)
    chars = CharsTokenizer("".join(sorted(set(TEXT))))
    pixels = {"image": PixelTokenizer(3)}
    shapes = {"image": [(SIDE, SIDE, 3)]}
    write_model(root / "text", {"text": chars}, ("text",))
    write_model(root / "other", {"text": chars}, ("text",), seed=1)
    write_model(root / "both", {"text": chars, **pixels}, ("text -> image", "text", "image"), shapes, context=120)
    write_model(root / "captions", {"text": chars, **pixels}, ("text -> image",), shapes, context=300)
    write_model(root / "mulaw", {"audio": MuLawTokenizer()}, ("audio",))
    write_model(root / "pcm", {"audio": PCMTokenizer()}, ("audio",), family="recurrent", width=8)
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(picture).save("a.png")
    sound = np.round(np.sin(np.arange(200) / 7) * 9000).astype(np.int16)
    soundfile.write("a.wav", sound, 16_000, subtype="PCM_16")
    assert main("compress a.txt a.tkc --model text/model --quiet".split()) == 0
    yield root
    os.chdir(before)


def said(capsys, line, code=0):
    capsys.readouterr()
    assert main([*line.split(), "--quiet"]) == code
    return capsys.readouterr()


@pytest.mark.parametrize(
    ("source", "model", "options"),
    [
        ("a.txt", "text", "--streams 3 --verify"),
        ("a.txt", "both", ""),
        ("a.png", "both", "--template image"),
        ("a.wav", "pcm", "--streams 4"),
    ],
)
def test_what_is_lossless_comes_back(world, tmp_path, capsys, source, model, options):
    coded, back = tmp_path / "a.tkc", tmp_path / source
    found = json.loads(said(capsys, f"compress {source} {coded} --model {model}/model {options} --json").out)
    assert found["bytes"] == coded.stat().st_size
    assert found["source_bytes"] == Path(source).stat().st_size
    said(capsys, f"decompress {coded} {back} --model {model}/model")
    if source.endswith(".txt"):
        assert back.read_bytes() == Path(source).read_bytes()
    elif source.endswith(".png"):
        assert np.array_equal(np.array(Image.open(back)), np.array(Image.open(source)))
    else:
        assert np.array_equal(soundfile.read(back, dtype="int16")[0], soundfile.read(source, dtype="int16")[0])


def test_a_sound_is_what_its_ids_say(world, tmp_path, capsys):
    said(capsys, "create mulaw --sample-rate 16000 --out tokenizer")
    for options in ("--tokenizer tokenizer", "--model mulaw/model --streams 4"):
        said(capsys, f"compress a.wav {tmp_path}/a.tkc {options} --overwrite")
        options = options.partition(" --streams")[0]
        said(
            capsys,
            f"decompress {tmp_path}/a.tkc {tmp_path}/{options.split('/')[0][2:].replace(' ', '-')}.wav {options}",
        )
    first, second = (path.read_bytes() for path in sorted(tmp_path.glob("*.wav")))
    assert first == second


def test_an_empty_text_comes_back(world, tmp_path, capsys):
    (tmp_path / "empty.txt").write_bytes(b"")
    said(capsys, f"compress {tmp_path}/empty.txt {tmp_path}/a.tkc --model text/model")
    said(capsys, f"decompress {tmp_path}/a.tkc {tmp_path}/b.txt --model text/model")
    assert (tmp_path / "b.txt").read_bytes() == b""


def test_a_file_tells_what_it_needs(world, capsys):
    facts = json.loads(said(capsys, "inspect a.tkc --json").out)
    assert (facts["kind"], facts["modality"], facts["grid"]) == ("compressed file", "text", [len(TEXT)])
    assert (facts["streams"], facts["window"], facts["carry"], facts["machine"]["threads"]) == (1, 47, 23, 1)
    assert facts["bytes"] - facts["coded_bytes"] < 200
    assert facts["machine"]["device"] == "cpu"
    found = said(capsys, "verify a.tkc").out
    assert f"coded by the model {facts['model'][:12]}" in found
    assert "was not decoded" in found
    assert "1 piece decoded" in said(capsys, "verify a.tkc --model text/model").out
    for line in ("decompress a.tkc b.txt --tokenizer text/made/text", "verify a.tkc --model other/model"):
        assert facts["model"][:12] in said(capsys, line, 1 if "tokenizer" in line else 3).err


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("decompress a.tkc c.txt --model other/model", 3, "a.tkc was coded by the model"),
        ("decompress a.tkc c.png --model text/model", 1, "c.png does not end in .txt"),
        ("decompress a.tkc c.txt", 2, "give either --tokenizer"),
        ("decompress packed.tkc c.txt --model text/model", 2, "packed.tkc holds packed ids"),
        ("compress a.txt c.tkc", 2, "give either --tokenizer"),
        ("compress a.txt c.tkc --model text/model --tokenizer text/made/text", 2, "give either --tokenizer"),
        ("compress a.txt c.tkc --tokenizer text/made/text --verify", 2, "are for --model"),
        ("compress a.txt c.tkc --model text/model --streams 0", 1, "--streams 0 must be from 1 to 256"),
        ("compress a.png c.tkc --model captions/model", 1, "train it with a template of that stream alone"),
        ("compress a.png c.tkc --model both/model --template image:spiral", 1, "was not trained on the template"),
        ("compress a.wav c.tkc --model none", 1, "no model folder at none"),
        ("verify packed.tkc --model text/model", 2, "--model is for .tkc files that a model coded"),
    ],
)
def test_wrong_words_get_one_true_line_and_leave_nothing(world, capsys, line, code, message):
    if not Path("packed.tkc").exists():
        said(capsys, "compress a.txt packed.tkc --tokenizer text/made/text")
    assert message in said(capsys, line, code).err
    assert not list(Path.cwd().glob("c.*"))


def test_every_altered_and_every_missing_byte_is_refused(world):
    data = Path("a.tkc").read_bytes()
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 1 << place % 8
        with pytest.raises(ValueError):  # noqa: PT011
            from_bytes(bytes(altered))
        if place >= len(MAGIC):
            with pytest.raises(VerificationError, match=r"cut short|altered"):
                from_bytes(data[:place])
    with pytest.raises(VerificationError, match="1 bytes follow after its end"):
        from_bytes(data + b"x")


def test_crafted_files_are_refused_before_memory_is_asked_for(world, tmp_path, capsys):
    found = from_file("a.tkc")
    assert isinstance(found, CodedSample)
    with pytest.raises(ValueError, match="ids at most"):
        to_bytes(replace(found, shape=(1 << 40,)))
    path = tmp_path / "a.tkc"
    for changes, message in (
        ({"code": found.code[:30]}, "cut short inside its header"),
        ({"code": b""}, "cut short inside its header"),
        ({"code": b"\x09" + found.code[1:]}, "was coded in version 9"),
        ({"shape": (1 << 20,)}, "cannot be decoded here"),
        ({"fingerprint": "00" * 32}, "made by another tokenizer"),
        ({"shape": (len(TEXT), 2), "widths": (6,)}, "is none of 'text'"),
    ):
        path.write_bytes(to_bytes(replace(found, **changes)))
        assert (
            message
            in said(capsys, f"decompress {path} {tmp_path}/b.txt --model text/model", 1 if "9" in message else 3).err
        )
    assert [one.name for one in tmp_path.iterdir()] == ["a.tkc"]


def test_a_killed_command_leaves_nothing_and_can_be_run_again(world, tmp_path, capsys):
    long = tmp_path / "long.txt"
    long.write_text(TEXT * 200, encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    line = ["compress", str(long), str(out / "a.tkc"), "--model", "text/model", "--streams", "1"]
    code = "import sys; from tokenize_kit.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *line], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(out.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "a.tkc").exists()
    said(capsys, f"compress a.txt {out}/a.tkc --model text/model")
    assert [one.name for one in out.iterdir()] == ["a.tkc"]
    assert (out / "a.tkc").read_bytes() == Path("a.tkc").read_bytes()
