"""Videos in a report: animations that play in step, exact where they are small and bounded where they are not."""

import base64
import io
import re

import pytest
import torch
from PIL import Image
from toys.clips import moving_square

from tokenize_kit.media.video import read_video
from tokenize_kit.metrics.image import psnr
from tokenize_kit.report import Page, VideoPair, animation
from tokenize_kit.report.animation import MAX_BYTES, side_by_side


def written(page, tmp_path):
    return page.write(tmp_path / "report.html").read_text(encoding="utf-8")


def embedded(html, kind):
    return [base64.b64decode(data) for data in re.findall(rf"data:image/{kind};base64,([^\"]+)\"", html)]


def test_an_original_and_its_reconstruction_play_in_one_animation(tmp_path):
    original, other = moving_square(9, 20, 30), moving_square(9, 20, 30, seed=1)
    page = Page("p")
    page.videos([VideoPair(original, other, "a <b>.mp4@0", "31.20 dB")], 12.0)
    html = written(page, tmp_path)
    (data,) = embedded(html, "webp")
    video = read_video(data, 12.0)
    assert video.frames.shape == (9, 3, 20, 61)  # enlarged four times, so that the gap of four is one pixel
    assert torch.equal(video.frames[..., :30], original)
    assert torch.equal(video.frames[..., 31:], other)
    assert video.frames[..., 30].min() == 255
    assert 'width="244" height="80"' in html
    assert "<b>31.20 dB</b>a &lt;b&gt;.mp4@0" in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)


def test_the_first_the_middle_and_the_last_frame_stand_still_below(tmp_path):
    original, other = moving_square(9, 20, 30), moving_square(9, 20, 30, seed=1)
    page = Page("p")
    page.videos([VideoPair(original, other, "a", "b")], 12.0)
    html = written(page, tmp_path)
    assert re.findall(r'alt="(\w+), frame (\d+)"', html) == [
        (what, place) for what in ("original", "reconstruction") for place in ("0", "4", "8")
    ]
    stills = [torch.tensor(list(Image.open(io.BytesIO(data)).tobytes())) for data in embedded(html, "png")]
    frames = [*original[[0, 4, 8]], *other[[0, 4, 8]]]
    for still, frame in zip(stills, frames, strict=True):
        assert torch.equal(still.reshape(20, 30, 3).permute(2, 0, 1).to(torch.uint8), frame)


def test_a_picture_is_a_video_of_one_frame_without_stills(tmp_path):
    page = Page("p")
    page.videos([VideoPair(moving_square(1, 20, 30, channels=1), moving_square(1, 20, 30, channels=1), "a", "b")], 12.0)
    html = written(page, tmp_path)
    assert len(embedded(html, "webp")) == 1
    assert "frame 0" not in html


def test_long_and_large_videos_are_shown_in_part_and_smaller():
    long = moving_square(70, 8, 8)
    made = animation.animation(long, 12.0, 100)
    assert torch.equal(read_video(made.data, 12.0).frames, long[:64])
    large = moving_square(2, 100, 260)
    made = animation.animation(large, 12.0, 100)
    assert (made.width, made.height) == (65, 25)
    expected = large.float().unflatten(3, (65, 4)).mean(4).unflatten(2, (25, 4)).mean(3)
    assert (read_video(made.data, 12.0).frames.float() - expected).abs().max() <= 1


def test_what_is_too_large_for_a_page_loses_a_little_and_then_pixels(monkeypatch):
    noise = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    noise = noise.float().cumsum(3).div(64).add(noise.float() / 8).clamp(0, 255).to(torch.uint8)
    exact = animation.animation(noise, 12.0, 100)
    assert torch.equal(read_video(exact.data, 12.0).frames, noise)
    monkeypatch.setattr(animation, "MAX_BYTES", len(exact.data) - 1)
    lossy = animation.animation(noise, 12.0, 100)
    assert len(lossy.data) < len(exact.data) / 2
    assert (lossy.width, lossy.height) == (64, 64)
    assert 25 < psnr(noise, read_video(lossy.data, 12.0).frames) < 60
    monkeypatch.setattr(animation, "MAX_BYTES", len(lossy.data) // 2)
    smaller = animation.animation(noise, 12.0, 100)
    assert smaller.width < 64
    assert len(smaller.data) <= len(lossy.data) // 2
    assert MAX_BYTES == 1 << 20


def test_transparent_and_grey_videos_are_shown_in_rgb():
    clear = moving_square(2, 8, 8, channels=4)
    clear[:, 3] = 0
    grey = moving_square(2, 8, 8, channels=1)
    both = side_by_side([clear, grey], gap=2)
    assert both.shape == (2, 3, 8, 18)
    assert both[..., :10].min() == 255
    assert torch.equal(both[:, 2, :, 10:], grey[:, 0])


def test_the_times_of_frames_do_not_drift(tmp_path):
    video = moving_square(20, 8, 8)
    page = Page("p")
    page.videos([VideoPair(video, video, "a", "b")], 24000 / 1001)
    (data,) = embedded(written(page, tmp_path), "webp")
    picture = Image.open(io.BytesIO(data))
    total = 0
    for place in range(picture.n_frames):
        picture.seek(place)
        picture.load()
        total += picture.info["duration"]
    assert total == pytest.approx(20 * 1001 / 24, abs=0.5)
