"""Video the whole way on the command line: clips of films, with sound and words, to shards and back."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import av
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from toys.talkies import SOUND_RATE, numbered, numbers_of, ramp, write_film

from tokenize_kit.cli import main
from tokenize_kit.media.video import read_video, write_video
from tokenize_kit.protocol import frame_of, load_tokenizer, modality_named
from tokenize_kit.protocol.augmentations import augmentation_of
from tokenize_kit.shards import ShardSet
from tokenize_kit.sources.decoding import DROPPED

SRT = """1
00:00:00,000 --> 00:00:00,400
one

2
00:00:00,300 --> 00:00:01,200
two

3
00:00:01,600 --> 00:00:02,000
three
"""


def run(line, code=0):
    assert main([*line.split(), "--quiet"]) == code


def result_of(capsys, line, code=0):
    capsys.readouterr()
    assert main([*line.split(), "--json", "--quiet"]) == code
    return json.loads(capsys.readouterr().out)


def listed(folder, name="failures"):
    return [json.loads(line) for line in Path(folder, f"{name}.jsonl").read_text().splitlines()]


def frames_in(folder):
    """The numbers of the frames of each sample, by key."""
    grids = {record.key: record.grids["video"] for record in ShardSet.open(folder).records()}
    return {key: numbers_of(torch.tensor(grid).permute(0, 3, 1, 2)) for key, grid in grids.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """``films``: a of 20 frames and b of 30, at 12 a second; ``scenes``: the same with sound and words, and a silent one."""
    root = tmp_path_factory.mktemp("video")
    before = Path.cwd()
    os.chdir(root)
    Path("films").mkdir()
    Path("scenes").mkdir()
    for name, frames in (("a", 20), ("b", 30)):
        write_film(f"films/{name}.mkv", numbered(frames))
        write_film(f"scenes/{name}.mkv", numbered(frames), sound=ramp(round(frames / 12 * SOUND_RATE)))
    Path("scenes/a.srt").write_text(SRT)
    Path("scenes/b.txt").write_text("a caption")
    write_film("scenes/c.mkv", numbered(5))
    Path("scenes/c.txt").write_text("silent")
    run("create frames --fps 12 --out frames")
    run("create frames --fps 24 --out fast")
    run(f"create pcm --sample-rate {SOUND_RATE} --out sound")
    Path("words.txt").write_text(SRT + "a caption, silent " * 20)
    run("train bpe --data words.txt --vocab-size 270 --out text")
    run("encode --tokenizer frames --data films --clip-frames 8 --out clips")
    yield root
    os.chdir(before)


def test_films_become_clips_and_files_again(world, capsys):
    wanted = {"a.mkv@0.00": (0, 8), "a.mkv@0.67": (8, 16), "a.mkv@1.33": (16, 20)}
    wanted |= {"b.mkv@0.00": (0, 8), "b.mkv@0.67": (8, 16), "b.mkv@1.33": (16, 24), "b.mkv@2.00": (24, 30)}
    assert frames_in("clips") == {key: list(range(*span)) for key, span in wanted.items()}
    assert all(frame_of(key, 12) == first for key, (first, _) in wanted.items())
    run("verify clips --tokenizer frames")
    found = result_of(capsys, "inspect clips")
    assert found["rows"] == 7
    assert found["streams"]["video"]["frame_rate"] == 12
    assert result_of(capsys, "decode --shards clips --tokenizer frames --out back")["files"] == 7
    for key, (first, stop) in wanted.items():
        video = read_video(Path(f"back/{key}.mp4").read_bytes())
        assert (len(video.frames), video.frame_rate) == (stop - first, 12)
        # H.264 keeps grey frames of one value within a few levels.
        assert all(
            abs(found - one) <= 2 for found, one in zip(numbers_of(video.frames), range(first, stop), strict=True)
        )


def test_what_is_drawn_for_the_words_of_a_clip_follows_from_its_key(world):
    Path("listed").mkdir()
    Path("listed/a.mkv").write_bytes(Path("scenes/a.mkv").read_bytes())
    Path("listed/a.srt").write_text(
        SRT.replace("one", "one, uno, un").replace("two", "two, dos").replace("three", "three, tres")
    )
    base = "encode --tokenizer frames --tokenizer text --data listed --clip-frames 8 --out"
    run(f"{base} listed-plain")
    run(f"{base} listed-drawn --augment text=parts video=flip --augment-seed 5")
    words = load_tokenizer("text")
    plain, drawn = (
        {
            record.key: words.decode(torch.tensor(record.grids["text"].astype("int64")))
            for record in ShardSet.open(name).records()
        }
        for name in ("listed-plain", "listed-drawn")
    )
    draw = augmentation_of(modality_named("text"), "parts", 5)
    assert drawn == {key: draw(text, key) for key, text in plain.items()}
    assert drawn != plain
    grids = [
        {one.key: one.grids["video"] for one in ShardSet.open(f"listed-{name}").records()}
        for name in ("plain", "drawn")
    ]
    flip = augmentation_of(modality_named("video"), "flip", 5)
    for key, grid in grids[0].items():
        wanted = flip(torch.tensor(grid).permute(0, 3, 1, 2), key).permute(0, 2, 3, 1)
        assert torch.equal(torch.tensor(grids[1][key]), wanted)


def test_a_whole_film_is_one_sample_without_clips(world):
    run("encode --tokenizer frames --data films --out whole")
    assert frames_in("whole") == {"a.mkv": list(range(20)), "b.mkv": list(range(30))}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--clip-frames 8 --clip-stride 6", {0: (0, 8), 6: (6, 14), 12: (12, 20)}),
        ("--clip-frames 8 --clip-stride 11", {0: (0, 8), 11: (11, 19)}),
        ("--clip-frames 8 --clip-tail drop", {0: (0, 8), 8: (8, 16)}),
        ("--clip-frames 20", {0: (0, 20)}),
        ("--clip-frames 64", {0: (0, 20)}),
        ("--clip-frames 8 --limit 2", {0: (0, 8), 8: (8, 16)}),
    ],
)
def test_strides_and_tails(world, capsys, words, wanted):
    out = "cut" + words.replace(" ", "").replace("-", "")
    found = result_of(capsys, f"encode --tokenizer frames --data films/a.mkv --out {out} {words}")
    assert {frame_of(key, 12): span for key, span in frames_in(out).items()} == {
        first: list(range(*span)) for first, span in wanted.items()
    }
    assert found["conversions"] == ({DROPPED: 1} if "drop" in words else {})
    assert found["rows"] == len(wanted)


def test_the_bytes_are_the_same_whoever_makes_them(world, capsys):
    line = "encode --tokenizer frames --data films --clip-frames 8 --shard-mb 0.001 --out"
    assert result_of(capsys, f"{line} one")["shards"] == 2
    run(f"{line} two --workers 2")
    names = [f"0000{number}.{ending}" for number in (0, 1) for ending in ("arrow", "json")]
    assert all(Path("one", name).read_bytes() == Path("two", name).read_bytes() for name in names)
    # A unit that is not finished is made again, and only that.
    shutil.copytree("one", "three")
    for name in ("dataset.json", "00001.json"):
        Path("three", name).unlink()
    written = Path("three/00000.arrow").stat().st_mtime_ns
    run(f"{line} three")
    assert Path("three/00001.arrow").read_bytes() == Path("one/00001.arrow").read_bytes()
    assert Path("three/00000.arrow").stat().st_mtime_ns == written
    assert main(f"{line} three --clip-stride 4 --quiet".split()) == 1
    assert "clip_stride" in capsys.readouterr().err


def test_another_rate_is_taken_and_said_so(world, capsys):
    found = result_of(capsys, "encode --tokenizer frames --data films/b.mkv --fps 4 --clip-frames 8 --out slow")
    assert frames_in("slow") == {"b.mkv@0.00": list(range(0, 24, 3)), "b.mkv@2.00": [24, 27]}
    assert found["conversions"] == {
        "12 frames a second to 4": 2,
        "frames taken at 4 a second for a tokenizer of 12": 2,
    }
    run("decode --shards slow --tokenizer frames --out slow-back")
    assert read_video(Path("slow-back/b.mkv@0.00.mp4").read_bytes()).frame_rate == 4
    assert main("encode --tokenizer frames --tokenizer fast=fast --data films --out mixed --quiet".split()) == 1
    assert "give the rate for both with --fps" in capsys.readouterr().err
    run("encode --tokenizer frames --tokenizer fast=fast --data films --fps 6 --out mixed")


@pytest.mark.parametrize("spool", [0, 1 << 30])
def test_every_source_gives_the_same_clips(world, monkeypatch, spool):
    for room in ("archives", "containers"):
        monkeypatch.setattr(f"tokenize_kit.sources.{room}.SPOOL_BYTES", spool)
    with tarfile.open("films.tar", "w") as archive:
        for path in sorted(Path("films").iterdir()):
            archive.add(path, path.name)
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(Path("films").iterdir())]
    pq.write_table(pa.table({"video": rows}), "films.parquet")
    memory = fsspec.filesystem("memory")
    for path in Path("films").iterdir():
        memory.pipe(f"/films/{path.name}", path.read_bytes())
    found = list(frames_in("clips").values())
    for number, data in enumerate(
        ("films.tar", "films.parquet", "memory://films", f"file://{world}/films", "films/*.mkv")
    ):
        run(f"encode --tokenizer frames --data {data} --clip-frames 8 --out source{number}-{spool}")
        assert list(frames_in(f"source{number}-{spool}").values()) == found
    assert list(frames_in(f"source0-{spool}"))[1] == "films.tar/a@0.67"
    assert list(frames_in(f"source1-{spool}"))[1] == "films.parquet@0@0.67"


def test_frames_are_resized_and_pictures_are_films_of_one_frame(world, capsys):
    Path("pictures").mkdir()
    Image.fromarray(np.full((30, 40, 3), 20, np.uint8)).save("pictures/a.png")
    shutil.copy("films/a.mkv", "pictures/b.mkv")
    run("encode --tokenizer frames --data pictures --image-size 4 --clip-frames 8 --out small")
    shapes = {record.key: record.grids["video"].shape for record in ShardSet.open("small").records()}
    assert shapes == {
        "a.png@0.00": (1, 4, 4, 3),
        "b.mkv@0.00": (8, 4, 4, 3),
        "b.mkv@0.67": (8, 4, 4, 3),
        "b.mkv@1.33": (4, 4, 4, 3),
    }
    assert frames_in("small")["a.png@0.00"] == [10]


def test_a_film_its_sound_and_its_words_are_one_sample(world, capsys):
    line = "encode --tokenizer frames --tokenizer sound --tokenizer text --data scenes"
    found = result_of(capsys, f"{line} --clip-frames 8 --out told")
    assert (found["rows"], found["failures"], found["incomplete"]) == (7, 0, 1)
    ((key, reason),) = [(one["key"], one["reason"]) for one in listed("told", "incomplete")]
    assert (key, "without a sound track" in reason) == ("c", True)
    text = load("text")
    words, sounds = {}, {}
    for record in ShardSet.open("told").records():
        words[record.key] = text.decode(torch.from_numpy(record.grids["text"].astype(np.int64)))
        sounds[record.key] = load("sound").decode(torch.from_numpy(record.grids["audio"].astype(np.int64)))[0]
    assert {key: words[key] for key in words if key.startswith("a")} == {
        "a@0.00": "one\ntwo",
        "a@0.67": "two",
        "a@1.33": "three",
    }
    assert {words[key] for key in words if key.startswith("b")} == {"a caption"}
    # Sample n says n, so the pieces are those of the clips' spans, and joined they are the whole.
    for name, frames in (("a", 20), ("b", 30)):
        joined = torch.cat([sounds[key] for key in sorted(sounds) if key.startswith(name)])
        assert torch.equal((joined * 32_768).round(), torch.arange(round(frames / 12 * SOUND_RATE)).float())
    assert len(sounds["a@0.00"]) == round(8 / 12 * SOUND_RATE)
    found = result_of(capsys, f"{line} --out told-whole --incomplete fail")
    assert (found["rows"], found["failures"]) == (2, 1)
    (record, _) = ShardSet.open("told-whole").records()
    assert text.decode(torch.from_numpy(record.grids["text"].astype(np.int64))) == "one\ntwo\nthree"
    assert record.grids["audio"].shape == (round(20 / 12 * SOUND_RATE),)


def test_a_sound_of_its_own_comes_before_the_sound_track(world):
    import soundfile

    Path("dubbed").mkdir()
    shutil.copy("scenes/a.mkv", "dubbed/a.mkv")
    soundfile.write("dubbed/a.wav", np.zeros(round(20 / 12 * SOUND_RATE)), SOUND_RATE, subtype="PCM_16")
    run("encode --tokenizer frames --tokenizer sound --data dubbed --clip-frames 20 --out dubbed-shards")
    (record,) = ShardSet.open("dubbed-shards").records()
    assert set(load("sound").decode(torch.from_numpy(record.grids["audio"].astype(np.int64)))[0].tolist()) == {0.0}


def test_a_damaged_film_gives_what_stands_before_and_one_failure(world, capsys):
    Path("broken").mkdir()
    shutil.copy("films/a.mkv", "broken/a.mkv")
    noise = torch.randint(0, 255, (30, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    write_video(noise, Path("broken/b.mp4"), 12)
    with av.open("broken/b.mp4") as film:
        place = [packet.pos for packet in film.demux(video=0)][17]
    data = bytearray(Path("broken/b.mp4").read_bytes())
    data[place : place + 20] = b"\xff" * 20
    Path("broken/b.mp4").write_bytes(data)
    Path("broken/c.mkv").write_bytes(b"no film")
    run("encode --tokenizer frames --data broken --clip-frames 4 --out rest")
    keys = [key for key in frames_in("rest") if key.startswith("b")]
    assert keys == [f"b.mp4@{4 * number / 12:.2f}" for number in range(len(keys))]
    assert 2 <= len(keys) <= 4
    failures = listed("rest")
    assert [one["key"].split("@")[0] for one in failures] == ["b.mp4", "c.mkv"]
    assert frame_of(failures[0]["key"], 12) == 4 * len(keys)
    assert failures[0]["reason"].endswith("; the rest of b.mp4 is not read")
    assert failures[1] == {"key": "c.mkv", "reason": failures[1]["reason"]}
    assert failures[1]["reason"].endswith("; a whole file")


def test_inspect_says_both_facts_of_a_film(world, capsys):
    found = result_of(capsys, "inspect scenes/a.mkv")
    assert (found["kind"], found["codec"], found["frames"], found["frame_rate"]) == ("video file", "ffv1", 20, 12)
    assert (found["width"], found["height"], found["seconds"]) == (8, 8, pytest.approx(20 / 12, abs=0.01))
    assert found["sound_track"] == {"format": "matroska,webm pcm_s16le", "sample_rate": SOUND_RATE, "channels": 1}
    assert result_of(capsys, "inspect films/a.mkv")["sound_track"] is None
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save("still.webp")
    assert result_of(capsys, "inspect still.webp")["kind"] == "image file"
    Path("both").mkdir()
    shutil.copy("films/a.mkv", "both/a.mkv")
    shutil.copy("still.webp", "both/b.webp")
    assert result_of(capsys, "inspect both")["files"] == {"video": 1, "image": 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--tokenizer text --data scenes --fps 12",
            "--fps 12 is for films, but the tokenizer reads text; leave it out",
        ),
        (
            "--tokenizer sound --data scenes --clip-frames 4",
            "--clip-frames 4 is for films, but the tokenizer reads audio",
        ),
        ("--tokenizer frames --data films --clip-stride 4", "--clip-stride 4 needs --clip-frames"),
        ("--tokenizer frames --data films --clip-tail drop", "--clip-tail drop needs --clip-frames"),
        ("--tokenizer frames --data films --clip-frames 0", "--clip-frames 0 must be at least 1"),
        ("--tokenizer frames --data films --fps 0", "--fps 0 is outside 0 to 1000 frames a second"),
    ],
)
@pytest.mark.parametrize("command", ["encode", "evaluate"])
def test_options_that_are_for_films_alone(world, capsys, command, words, said):
    capsys.readouterr()
    assert main([command, *words.split(), "--out", "refused", "--quiet"]) == 1
    assert said in capsys.readouterr().err


def test_a_dry_run_looks_at_a_part_of_a_long_film(world, capsys, monkeypatch):
    monkeypatch.setattr("tokenize_kit.shards.chunks.CHUNK_BYTES", 8 * 3 * 64 * 3)
    monkeypatch.setattr("tokenize_kit.shards.estimate.SECONDS_EACH", -1.0)
    write_film("long.mkv", numbered(240))
    found = result_of(capsys, "encode --tokenizer frames --data long.mkv --clip-frames 8 --out nowhere --dry-run")
    # Of 30 clips it has seen 3.
    assert found["estimated"]
    assert 20 <= found["rows"] <= 40
    assert 0.5 < found["tokens"]["video"] / (240 * 8 * 8 * 3) < 1.5


def test_evaluate_measures_clips_and_keeps_a_film_on_one_side(world, capsys):
    found = result_of(capsys, "evaluate --tokenizer frames --data films --clip-frames 8 --fps 6")
    assert (found["samples"], found["conversions"]["12 frames a second to 6"]) == (4, 4)
    Path("keys.txt").write_text("b.mkv@0.67\n")
    line = "evaluate --tokenizer frames --data films --clip-frames 8 --validation-keys keys.txt --part"
    assert [result_of(capsys, f"{line} {part}")["samples"] for part in ("held-out", "train")] == [4, 3]


def load(name):
    from tokenize_kit import load_tokenizer

    return load_tokenizer(name)
