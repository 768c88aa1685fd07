"""Clips: how a film is cut, and keys that say where each clip is."""

from fractions import Fraction

import pytest
import torch

from tokenize_kit.protocol.clips import Clips, clip_key, digits_for, file_of, frame_of


def cut_plainly(frames, clips):
    """What `Clips.cut` gives, from the whole film."""
    found, start, covered = [], 0, 0
    while start + clips.frames <= len(frames):
        found.append((start, frames[start : start + clips.frames]))
        covered = start + clips.frames
        start += clips.step
    if len(frames) > max(start, covered):
        found.append((start, frames[start:] if clips.tail == "keep" else frames[:0]))
    return found


@pytest.mark.parametrize("total", [1, 4, 5, 6, 10, 11, 23])
@pytest.mark.parametrize("stride", [None, 1, 3, 5, 8, 40])
@pytest.mark.parametrize("tail", ["keep", "drop"])
@pytest.mark.parametrize("block", [1, 2, 7, 100])
def test_a_film_in_blocks_is_cut_as_the_whole_one_is(total, stride, tail, block):
    frames, clips = torch.arange(total), Clips(5, stride, tail)
    found = list(clips.cut(frames.split(block)))
    wanted = cut_plainly(frames, clips)
    assert [(first, clip.tolist()) for first, clip in found] == [(first, clip.tolist()) for first, clip in wanted]
    # A clip keeps nothing alive but itself.
    assert all(clip.untyped_storage().nbytes() == clip.nbytes for _, clip in found if len(clip))


@pytest.mark.parametrize("rate", [1, 12, 25, 29.97, Fraction(30_000, 1001), 60, 120, 1000])
def test_the_key_of_a_clip_says_its_frame(rate):
    digits = digits_for(float(rate))
    assert digits == {1: 2, 12: 2, 25: 2, 60: 3, 120: 3, 1000: 4}.get(rate, 2)
    keys = [clip_key("a/film.mp4", float(frame / rate), float(rate)) for frame in range(5000)]
    assert len(set(keys)) == 5000
    assert [frame_of(key, rate) for key in keys] == list(range(5000))
    # Ten hours on as well.
    far = round(36_000 * rate) + 1
    assert frame_of(clip_key("film.mp4", float(far / rate), float(rate)), rate) == far
    assert {file_of(key) for key in keys} == {"a/film.mp4"}
    assert keys[0] == f"a/film.mp4@0.{'0' * digits}"


def test_seconds_stand_in_a_key_as_people_write_them():
    assert clip_key("film.mp4", 312 / 25, 25) == "film.mp4@12.48"
    assert clip_key("film.mp4", 17 * 1001 / 30_000, 29.97) == "film.mp4@0.57"
    assert clip_key("data.parquet@7", 1 / 120, 120) == "data.parquet@7@0.008"


@pytest.mark.parametrize("key", ["film.mp4", "data.parquet@12", "a@b", "@0.50"])
def test_other_keys_are_no_keys_of_clips(key):
    assert file_of(key) == key
    with pytest.raises(ValueError, match="is not the key of a clip"):
        frame_of(key, 12)


def test_numbers_of_clips_are_checked():
    for wrong, said in (((0,), "--clip-frames 0"), ((5, 0), "--clip-stride 0"), ((5, None, "pad"), "--clip-tail pad")):
        with pytest.raises(ValueError, match=said):
            Clips(*wrong)
    for clips in (Clips(17), Clips(17, 8), Clips(17, None, "drop")):
        assert Clips.from_dict(clips.to_dict()) == clips
    assert Clips(17).to_dict() == {"frames": 17}
