"""How frames and latent steps belong together: told here, and nowhere else.

The first frame has a latent step of its own, each later step covers ``factor`` frames:

    frames   0 | 1 2 3 4 | 5 6 7 8 | ..        factor 4
    steps    0 |    1    |    2    | ..

So ``1 + n * factor`` frames are ``1 + n`` steps. Other numbers of frames are filled up to the next such one.
"""

from __future__ import annotations


def latent_steps(frames: int, factor: int) -> int:
    """Return the latent steps of ``frames`` frames: 1 + (frames - 1) / factor, rounded up; 0 of none."""
    assert frames >= 0
    return 1 + -(-(frames - 1) // factor) if frames else 0


def frames_of(steps: int, factor: int) -> int:
    """Return the frames that ``steps`` latent steps cover: 1 + (steps - 1) * factor; 0 of none."""
    assert steps >= 0
    return 1 + (steps - 1) * factor if steps else 0


def covers(steps: int, frames: int, factor: int) -> bool:
    """Return whether a video of ``frames`` frames has ``steps`` latent steps."""
    return frames > 0 and latent_steps(frames, factor) == steps
