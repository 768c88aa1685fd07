"""A clip is the frames of the whole film, wherever it begins and however key frames lie."""

from __future__ import annotations

import pytest
import torch
from toys.films import film, moving

from tokenize_kit.media.video import VideoReader, read_video

FILMS = {
    "sparse key frames": lambda: film(moving(60), options={"g": "1000", "bf": "0"}),
    "B-frames": lambda: film(moving(60), options={"g": "12", "bf": "3"}),
    "open groups": lambda: film(moving(60), options={"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    "matroska": lambda: film(moving(60), "matroska", options={"g": "12", "bf": "3"}),
    "vp9": lambda: film(moving(60), "webm", "libvpx-vp9", options={"g": "12"}),
    "h265": lambda: film(moving(60), codec="libx265", options={"x265-params": "keyint=12:log-level=none"}),
    "avi": lambda: film(moving(60), "avi", "mpeg4", options={"g": "12"}),
    "mpegts": lambda: film(moving(60), "mpegts", options={"g": "12"}),
}


@pytest.fixture(scope="module", params=FILMS)
def data(request):
    return FILMS[request.param]()


@pytest.mark.parametrize("rate", [None, 12, 24, 30])
def test_a_clip_is_a_part_of_the_whole(data, rate):
    whole = read_video(data, rate).frames
    for start, frames in [(0, 1), (1, 5), (11, 3), (13, 9), (len(whole) - 1, 1), (len(whole) - 2, 9), (7, None)]:
        clip = read_video(data, rate, start=start, frames=frames).frames
        expected = whole[start:] if frames is None else whole[start : start + frames]
        assert clip.equal(expected), (start, frames)


def test_a_clip_behind_the_end_is_refused(data):
    with pytest.raises(ValueError, match="no frame 60"):
        read_video(data, None, start=60)
    with pytest.raises(ValueError, match="no frame 30"):
        read_video(data, 12, start=30)


def test_blocks_are_the_whole(data, monkeypatch):
    whole = read_video(data, 12).frames
    monkeypatch.setattr("tokenize_kit.media.video.reader.BLOCK_VALUES", 7 * whole[0].numel() + 5)
    blocks = list(VideoReader(data, 12).blocks())
    assert [len(block) for block in blocks] == [7, 7, 7, 7, 2]
    assert torch.cat(blocks).equal(whole)


def test_blocks_can_be_read_twice(data):
    reader = VideoReader(data, 12)
    assert torch.cat(list(reader.blocks())).equal(torch.cat(list(reader.blocks())))
