"""Evaluation of tokenizers of video: the numbers over a set of files, codecs beside, and the report."""

import json
import re

import numpy as np
import pytest
import torch
from toys.clips import ToyVideo, moving_square

from tokenize_kit.cli import main
from tokenize_kit.cli.evaluate import evaluate_command
from tokenize_kit.media.video import write_video
from tokenize_kit.metrics.evaluate import evaluate
from tokenize_kit.metrics.image import psnr
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.modalities.video import VIDEO
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import decode_like
from tokenize_kit.tokenizers.video.frames import FramesTokenizer

SIZES = ((9, 32, 40), (6, 64, 64), (1, 16, 16))


@pytest.fixture
def films(tmp_path):
    """A folder of two films and a picture, without loss, and their frames by the names of the files."""
    (tmp_path / "films").mkdir()
    made = {}
    for number, (name, size) in enumerate(zip(("a.mkv", "b.webp", "c.png"), SIZES, strict=True)):
        made[name] = moving_square(*size, seed=number)
        write_video(made[name], tmp_path / "films" / name, 12.0)
    return tmp_path / "films", made


def options(tmp_path, folder, tokenizer=None, **changes):
    (tokenizer or ToyVideo()).save(tmp_path / "tokenizer")
    return EvaluateOptions(str(tmp_path / "tokenizer"), (str(folder),), **changes)


def test_numbers_are_means_over_the_videos_of_a_folder(tmp_path, films):
    folder, made = films
    result = evaluate(options(tmp_path, folder), Progress(False))
    tokenizer = ToyVideo()
    pairs = [
        (video, decode_like(tokenizer, [tokenizer.encode(video)], [video])[0]) for video in list(made.values())[:2]
    ]
    expected = [psnr(*pair) for pair in pairs]
    assert result.modality == "video"
    notes = {example.key: example.note for example in result.examples}
    assert notes["a.mkv"] == f"{expected[0]:.2f} dB"
    assert notes["b.webp"] == f"{expected[1]:.2f} dB"
    assert result.samples == len(result.examples)
    assert result.metrics["bits_per_pixel"] == pytest.approx(
        6 * result.metrics["tokens"] / sum(frames * height * width for frames, height, width in SIZES[: result.samples])
    )
    assert result.metrics["kilobits_per_second"] == pytest.approx(
        6 * result.metrics["tokens"] * 12 / 1000 / result.metrics["frames"]
    )
    assert [row.cells()[:3] for row in result.speed_by_size][:2] == [("64 x 64", 6, 1), ("40 x 32", 9, 1)]
    assert "flicker: root mean square" in result.protocol


def test_a_lossless_tokenizer_loses_nothing(tmp_path, films):
    folder, _ = films
    result = evaluate(options(tmp_path, folder, FramesTokenizer(12.0)), Progress(False))
    found = result.metrics
    assert found["exact_samples"] == result.samples
    assert (found["psnr"], found["psnr_of_differences"], found["flicker"]) == (None, None, 0)
    assert found["ssim"] == pytest.approx(1)
    assert found["bits_per_pixel"] == pytest.approx(24)
    assert found["seam_error_ratio"] is None
    assert result.worst == []


def test_the_report_plays_films_and_has_codecs(tmp_path, films, monkeypatch):
    folder, _ = films
    (folder / "c.png").unlink()  # a picture has no strip of frames
    monkeypatch.setattr("tokenize_kit.metrics.rate_search._BEYOND", (2,))
    out = tmp_path / "out"
    result = evaluate_command(options(tmp_path, folder, out=str(out), examples=2, codec_pictures=1), Progress(False))
    html = (out / "report.html").read_text()
    assert html.count("data:image/webp;base64,UklGR") == 4  # two first and two worst, each beside its reconstruction
    assert html.count('alt="original, frame 0"') == html.count('alt="reconstruction, frame 8"') * 2 == 4
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert "libx264, preset veryslow, tune psnr" in html
    found = json.loads((out / "evaluation.json").read_text())
    assert found["metrics"]["psnr"] == pytest.approx(result.metrics["psnr"])
    assert set(found["rate"]["codecs"]) == {"h264", "av1"}  # H.265 takes no side of 32 pixels
    assert "libx265 is given no side below 64 pixels" in found["rate"]["protocol"]
    near = {pair["codec"]["name"]: pair["codec"] for pair in found["rate"]["nearest"]}
    assert near["h264"]["psnr"] > 15
    assert found["rate"]["fixed_rate"][0]["bits_per_pixel"] == pytest.approx(6 * 3 * 80 / (9 * 32 * 40))
    assert found["speed_by_size"][0]["encode_frames_per_second"] > 0
    assert np.isfinite(near["h264"]["kilobits_per_second"])


def test_the_command_prints_its_numbers(tmp_path, films, capsys):
    folder, _ = films
    FramesTokenizer(12.0).save(tmp_path / "frames")
    assert main(["evaluate", "--tokenizer", str(tmp_path / "frames"), "--data", str(folder), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"psnr of first frames +not defined", printed)
    assert re.search(r"encode frames per second +[\d.,]+", printed)
    assert re.search(r"bits per pixel +24", printed)


def test_parts_of_a_batch_of_one_size_are_measured_apart(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    videos = [moving_square(5, 16, 16, seed=seed) for seed in range(3)]
    for number, video in enumerate(videos):
        write_video(video, folder / f"{number}.mkv", 12.0)
    result = evaluate(options(tmp_path, folder), Progress(False))
    tokenizer = ToyVideo()
    expected = [psnr(video, tokenizer.decode(tokenizer.encode(video))) for video in videos]
    assert result.metrics["psnr"] == pytest.approx(np.mean(expected))
    assert [example.note for example in result.examples] == [f"{value:.2f} dB" for value in expected]
    assert torch.equal(result.examples[2].sample, videos[2])


def test_a_report_keeps_little_of_long_and_large_videos():
    spec = ToyVideo().spec
    long, large = moving_square(70, 8, 8), moving_square(2, 480, 500)
    kept = VIDEO.excerpt(long, spec)
    assert torch.equal(kept, long[:64])
    assert kept.untyped_storage().nbytes() == kept.numel()
    assert VIDEO.excerpt(large, spec).shape == (2, 3, 240, 250)
