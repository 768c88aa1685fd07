"""Frames and latent steps, at both ends."""

import pytest

from tokenize_kit.tokenizers.learned.video.time import covers, frames_of, latent_steps


def test_the_figures():
    assert [latent_steps(frames, 4) for frames in range(11)] == [0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4]
    assert [frames_of(steps, 4) for steps in range(5)] == [0, 1, 5, 9, 13]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_frame_more_is_a_step_more_just_behind_a_whole_number_of_steps(factor):
    for steps in range(1, 20):
        frames = frames_of(steps, factor)
        assert frames == 1 + (steps - 1) * factor
        assert (latent_steps(frames, factor), latent_steps(frames + 1, factor)) == (steps, steps + 1)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_grid_covers_the_videos_that_are_encoded_to_it(factor):
    for steps in range(6):
        assert [frames for frames in range(60) if covers(steps, frames, factor)] == [
            frames for frames in range(1, 60) if latent_steps(frames, factor) == steps
        ]
    assert not covers(0, 0, factor)
