"""Models of video on the command line: shards of frames, a Transformer, clips of the right length and shape."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys.talkies import numbered, write_film

from tokenize_kit.cli import main
from tokenize_kit.media.video import read_video

SMALL = "--steps 4 --batch-size 4 --model.layers 1 --model.width 32 --model.heads 2"


def result_of(capsys, line, code=0):
    capsys.readouterr()
    assert main([*line.split(), "--json", "--quiet"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Clips of 3 frames of 4x4 pixels, grey, at 6 a second, and a model of them; the same with the words of each."""
    root = tmp_path_factory.mktemp("models")
    before = Path.cwd()
    os.chdir(root)
    Path("films").mkdir()
    for number in range(3):
        write_film(f"films/{number}.mkv", numbered(18 + 6 * number))
        Path(f"films/{number}.txt").write_text(f"film {number}")
    Path("words.txt").write_text("film 0 1 2 " * 50)
    for line in (
        "create frames --fps 6 --channels 1 --out frames",
        "train bpe --data words.txt --vocab-size 260 --out text",
        "encode --tokenizer frames --data films --image-size 4 --clip-frames 3 --clip-tail drop --out clips",
        "encode --tokenizer frames --tokenizer text --data films --image-size 4 --clip-frames 3 --out told",
        f"train transformer --shards clips --template video --out model --context 64 {SMALL}",
    ):
        assert main([*line.split(), "--quiet"]) == 0
    yield root
    os.chdir(before)


def videos_of(found):
    return [read_video(Path(name).read_bytes(), channels=1) for name in found["files"]]


def test_a_model_makes_clips_of_the_right_length_shape_and_rate(world, capsys):
    found = videos_of(result_of(capsys, "generate --model model --out made --count 2 --seed 1"))
    assert [(tuple(one.frames.shape), one.frame_rate) for one in found] == [((3, 1, 4, 4), 6.0)] * 2


def test_a_film_is_continued_from_its_first_frames(world, capsys):
    line = "generate --model model --count 2 --seed 1 --prompt-file films/1.mkv --out"
    assert main(f"{line} one --json".split()) == 0
    captured = capsys.readouterr()
    assert "continued from its first frame; --prompt-frames takes more" in captured.err
    assert "the first 3 frames taken, as the data of the model had" in captured.err
    assert "8x8 pixels to 4x4, as the data of the model had" in captured.err
    lines = [json.loads(one) for one in Path("one/samples.jsonl").read_text().splitlines()]
    starts = [one["ids"][2 : 2 + 16] for one in lines]
    assert starts[0] == starts[1]
    assert lines[0]["ids"] != lines[1]["ids"]
    assert {len(one["ids"]) for one in lines} == {2 + 48 + 1}
    result_of(capsys, f"{line} two --prompt-frames 2")
    (first, second) = (json.loads(one)["ids"] for one in Path("two/samples.jsonl").read_text().splitlines())
    # Frames of the film at 6 a second: numbers 0 and 2, whose values are 0 and 4.
    offset = first[2]
    assert [value - offset for value in first[2:34]] == [0] * 16 + [4] * 16
    assert first[:34] == second[:34]
    capsys.readouterr()
    for words, said in (
        ("3", "nothing is left to generate"),
        ("4", "must be from 1 to 3"),
        ("0", "must be from 1 to 3"),
    ):
        assert main(f"{line} three --prompt-frames {words}".split()) == 1
        assert said in capsys.readouterr().err


def test_a_picture_is_the_first_frame(world, capsys):
    Image.fromarray(np.full((12, 12, 3), 40, np.uint8)).save("grey.png")
    found = result_of(capsys, "generate --model model --prompt-file grey.png --out from-picture --seed 2")
    (line,) = (json.loads(one) for one in Path("from-picture/samples.jsonl").read_text().splitlines())
    assert len(set(line["ids"][2:18])) == 1
    assert videos_of(found)[0].frames.shape == (3, 1, 4, 4)


def test_words_become_a_film(world, capsys):
    line = f"train transformer --shards told --out told-model --context 96 {SMALL} --quiet"
    assert main([*line.split(), "--template", "text -> video"]) == 0
    line = ["generate", "--model", "told-model", "--prompt", "film 1", "--out", "told-made", "--json", "--quiet"]
    capsys.readouterr()
    assert main(line) == 0
    (video,) = videos_of(json.loads(capsys.readouterr().out))
    assert video.frames.shape == (3, 1, 4, 4)


def test_a_picture_beside_a_film_is_its_condition(world, capsys):
    Path("posters").mkdir()
    for number in range(2):
        shutil.copy(f"films/{number}.mkv", f"posters/{number}.mkv")
        Image.fromarray(np.full((9, 9), 16 * number, np.uint8)).save(f"posters/{number}.png")
    for line in (
        "create pixels --channels 1 --out pixels",
        "encode --tokenizer frames --tokenizer pixels --data posters --image-size 4 --clip-frames 3 --out pairs",
        f"train transformer --shards pairs --out pair-model --context 96 {SMALL}",
    ):
        words = [*line.split(), *(["--template", "image -> video"] if line.startswith("train") else [])]
        assert main([*words, "--quiet"]) == 0
    found = result_of(capsys, "generate --model pair-model --prompt-file posters/1.png --out pair-made")
    assert videos_of(found)[0].frames.shape == (3, 1, 4, 4)
    # The picture is whole, and the film after it continued from its first two frames.
    line = "generate --model pair-model --prompt-file posters/1.png films/1.mkv --prompt-frames 2 --out pair-more"
    assert videos_of(result_of(capsys, line))[0].frames.shape == (3, 1, 4, 4)


def test_frames_are_asked_for_where_there_are_films(world, capsys):
    for line in (
        "encode --tokenizer text --data words.txt --out lines --split lines",
        f"train transformer --shards lines --template text --out text-model --context 96 {SMALL}",
    ):
        assert main([*line.split(), "--quiet"]) == 0
    assert main("generate --model text-model --prompt-frames 2 --out refused".split()) == 1
    assert "--prompt-frames 2 is for films, and the model has none" in capsys.readouterr().err


def test_a_film_is_compressed_and_decompressed(world, capsys):
    shutil.copy("films/0.mkv", "in.mkv")
    assert main("create frames --fps 12 --out fast --quiet".split()) == 0
    found = result_of(capsys, "compress in.mkv in.tkc --tokenizer fast")
    size = Path("in.tkc").stat().st_size
    assert found["size"] == [18, 8, 8]
    assert found["kilobits_per_second"] == pytest.approx(8 * size / 1.5 / 1000)
    assert result_of(capsys, "inspect in.tkc")["frame_rate"] == 12
    result_of(capsys, "decompress in.tkc out.mkv --tokenizer fast")
    video = read_video(Path("out.mkv").read_bytes())
    assert torch.equal(video.frames, numbered(18))
    assert video.frame_rate == 12
    assert main("decompress in.tkc out.avi --tokenizer fast".split()) == 1
    assert "does not end in .mp4 or .m4v or" in capsys.readouterr().err


def test_files_are_written_as_their_ending_says(world, capsys):
    result_of(capsys, "decode --shards clips --tokenizer frames --suffix .mkv --out exact")
    frames = [read_video(path.read_bytes(), channels=1).frames for path in sorted(Path("exact").glob("0*.mkv"))]
    assert [int(frame[0, 0, 0]) for clip in frames for frame in clip] == [4 * number for number in range(9)]
    assert main("decode --shards clips --tokenizer frames --suffix .avi --out other".split()) == 1
    assert "--suffix .avi is not one of .mp4," in capsys.readouterr().err
