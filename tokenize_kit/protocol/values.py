"""Samples as Python users have them, where an array alone does not say all: sounds and films with their rates.

Pictures are `PIL.Image`, texts and labels ``str``; see `Modality.to_python` and `Modality.save`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Sound(NamedTuple):
    """A sound."""

    samples: NDArray[np.float32]
    """(channels, samples) in [-1, 1]; a sound that is given may be (samples,)."""
    sample_rate: int
    """Samples a second."""


class Film(NamedTuple):
    """Frames that follow each other."""

    frames: NDArray[np.uint8]
    """(T, H, W, C) of 1, 3 or 4 channels; a film that is given may be (T, H, W)."""
    frame_rate: float
    """Frames a second."""
