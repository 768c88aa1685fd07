"""Sound the whole way on the command line: sources of every kind, shards, files again, a model that makes sound."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from tokenize_kit.cli import main
from tokenize_kit.media.audio import read_audio
from tokenize_kit.shards import ShardSet
from tokenize_kit.tokenizers.audio.mulaw import BOUND, MuLawTokenizer

SPEECH = Path(__file__).parents[2] / "assets" / "speech"
NAMES = sorted(path.stem for path in SPEECH.glob("*.flac"))
SAMPLES = {name: soundfile.info(SPEECH / f"{name}.flac").frames for name in NAMES}


def result_of(capsys, line, code=0):
    capsys.readouterr()
    assert main([*line.split(), "--json", "--quiet"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    before = Path.cwd()
    os.chdir(root)
    assert main("create mulaw --sample-rate 16000 --out mulaw --quiet".split()) == 0
    with tarfile.open("speech.tar", "w") as archive:
        for path in sorted(SPEECH.iterdir()):
            archive.add(path, path.name)
    rows = [{"bytes": (SPEECH / f"{name}.flac").read_bytes(), "path": f"{name}.flac"} for name in NAMES]
    pq.write_table(
        pa.table({"audio": rows, "text": [(SPEECH / f"{name}.txt").read_text() for name in NAMES]}), "s.parquet"
    )
    yield root
    os.chdir(before)


@pytest.mark.parametrize("source", ["{speech}", "{speech}/*.flac", "file://{speech}", "speech.tar", "s.parquet"])
def test_every_source_gives_the_same_ids(world, capsys, source):
    out = f"shards-{abs(hash(source))}"
    data = source.format(speech=SPEECH)
    found = result_of(capsys, f"encode --tokenizer mulaw --data {data} --out {out}")
    assert (found["rows"], found["failures"], found["tokens"]) == (5, 0, {"audio": sum(SAMPLES.values())})
    assert found["conversions"] == {}
    records = list(ShardSet.open(out).records())
    assert [len(record.grids["audio"]) for record in records] == [SAMPLES[name] for name in NAMES]
    first = MuLawTokenizer().encode(read_audio((SPEECH / f"{NAMES[0]}.flac").read_bytes()).samples)
    assert torch.equal(torch.from_numpy(records[0].grids["audio"].astype(np.int64)), first)


@pytest.mark.parametrize("source", [str(SPEECH), "speech.tar", "s.parquet"])
def test_speech_with_its_text_is_one_sample(world, capsys, source):
    if not Path("text").exists():
        assert main(f"train bpe --data {SPEECH} --vocab-size 280 --out text --quiet".split()) == 0
    out = f"pairs-{abs(hash(source))}"
    found = result_of(capsys, f"encode --tokenizer mulaw --tokenizer text --data {source} --out {out}")
    assert (found["rows"], found["failures"]) == (5, 0)
    assert sorted(ShardSet.open(out).streams) == ["audio", "text"]


def test_another_sample_rate_is_converted_and_said_so(world, capsys):
    Path("music").mkdir()
    for name, rate, channels in (("a.wav", 44_100, 2), ("b.wav", 44_100, 2), ("c.flac", 8000, 1), ("d.wav", 16_000, 1)):
        soundfile.write(Path("music") / name, np.zeros((rate // 10, channels)), rate)
    expected = {"44100 Hz stereo to 16000 Hz mono": 2, "8000 Hz mono to 16000 Hz mono": 1}
    found = result_of(capsys, "encode --tokenizer mulaw --data music --out converted")
    assert found["conversions"] == expected
    assert found["tokens"] == {"audio": 4 * 1600}
    # Also where the work was done by a run before this one.
    assert result_of(capsys, "encode --tokenizer mulaw --data music --out converted")["conversions"] == expected
    assert main("encode --tokenizer mulaw --data music --out again".split()) == 0
    captured = capsys.readouterr()
    assert "2 sounds were converted from 44100 Hz stereo to 16000 Hz mono" in captured.out
    assert "sounds of 44100 Hz stereo are converted to 16000 Hz mono" in captured.err


def test_clipping_and_mixing_are_said(world, capsys):
    Path("loud").mkdir()
    soundfile.write("loud/a.wav", np.float32([0, 2, -3, 0.5] * 100), 16_000, subtype="FLOAT")
    soundfile.write("loud/b.flac", np.zeros((1600, 6)), 16_000)
    assert main("create pcm --sample-rate 16000 --channels 2 --out stereo --quiet".split()) == 0
    assert main("encode --tokenizer stereo --data loud --out mixed-down".split()) == 0
    said = capsys.readouterr().out
    assert "1 sound: 100-999 values beyond full scale clipped" in said
    assert "1 sound was converted from 16000 Hz 6 channels to 16000 Hz stereo" in said


def test_what_is_no_sound_is_listed_and_the_rest_is_encoded(world, capsys):
    Path("mixed").mkdir()
    Path("mixed/a.wav").write_bytes(b"RIFF nonsense")
    Path("mixed/b.mp3").write_bytes(b"")
    good = (SPEECH / f"{NAMES[0]}.flac").read_bytes()
    Path("mixed/c.flac").write_bytes(good[: len(good) // 2])
    Path("mixed/d.flac").write_bytes(good)
    assert result_of(capsys, "encode --tokenizer mulaw --data mixed --out partly")["rows"] == 1
    failures = [json.loads(line) for line in Path("partly/failures.jsonl").read_text().splitlines()]
    assert [failure["key"] for failure in failures] == ["a.wav", "b.mp3", "c.flac"]
    assert "not a sound that can be read" in failures[0]["reason"]
    assert "damaged or cut short" in failures[2]["reason"]


def test_raw_g722_is_known_by_its_name(world, capsys):
    import av

    Path("raw").mkdir()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="g722") as output:
        stream = output.add_stream("g722", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 3200), np.int16), "s16", "mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    Path("raw/a.g722").write_bytes(buffer.getvalue())
    with tarfile.open("raw.tar", "w") as archive:
        archive.add("raw/a.g722", "a.g722")
    for number, data in enumerate(("raw", "raw/a.g722", "raw.tar")):
        found = result_of(capsys, f"encode --tokenizer mulaw --data {data} --out raw-shards-{number}")
        assert found["tokens"] == {"audio": 3200}
    found = result_of(capsys, "inspect raw/a.g722")
    assert (found["sample_rate"], found["samples"], found["seconds"]) == (16_000, 3200, 0.2)


def test_there_and_back(world, capsys):
    result_of(capsys, f"encode --tokenizer mulaw --data {SPEECH} --out shards")
    assert main("verify shards --tokenizer mulaw --quiet".split()) == 0
    assert result_of(capsys, "decode --shards shards --tokenizer mulaw --out decoded")["files"] == 5
    for name in NAMES:
        original = read_audio((SPEECH / f"{name}.flac").read_bytes())
        decoded = read_audio(Path(f"decoded/{name}.wav").read_bytes())
        assert decoded.sample_rate == original.sample_rate
        allowed = BOUND * (original.samples.abs() + 1 / 255) + 1 / 65_536 + 1e-6
        assert bool(((decoded.samples - original.samples).abs() <= allowed).all())


def test_inspect_says_what_a_sound_is(world, capsys):
    found = result_of(capsys, f"inspect {SPEECH}/amiable.flac")
    assert (found["kind"], found["format"], found["sample_rate"], found["channels"]) == (
        "audio file",
        "FLAC PCM_16",
        16_000,
        1,
    )
    assert (found["samples"], found["seconds"]) == (52_640, 3.29)


def test_a_transformer_trains_on_sound_and_makes_some(world, capsys):
    Path("short").mkdir()
    for number in range(8):
        soundfile.write(f"short/{number}.wav", np.sin(np.arange(60 + number) / 5) / 2, 16_000)
    result_of(capsys, "encode --tokenizer mulaw --data short --out short-shards")
    words = "train transformer --shards short-shards --template audio --out model --steps 6 --batch-size 4 --context 96"
    result_of(capsys, f"{words} --model.layers 1 --model.width 32 --model.heads 2")
    found = result_of(capsys, "generate --model model --out samples --count 2 --seed 1")
    assert len(found["files"]) == 2
    for name in found["files"]:
        sound = read_audio(Path(name).read_bytes())
        assert name.endswith(".wav")
        assert sound.sample_rate == 16_000
        assert 1 <= sound.samples.shape[1] <= 96
    found = result_of(capsys, "generate --model model --prompt-file short/0.wav --out more --count 1 --seed 1")
    continued = read_audio(Path(found["files"][0]).read_bytes()).samples
    prompt = read_audio(Path("short/0.wav").read_bytes()).samples
    assert continued.shape[1] >= prompt.shape[1]
    assert float((continued[:, : prompt.shape[1]] - prompt).abs().max()) < 0.02
