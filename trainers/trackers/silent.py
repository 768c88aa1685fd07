"""No tracker at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


class Silent:
    """See `trainers.trackers.Tracker`; it tells nobody."""

    def __init__(self, out: Path, step: int) -> None:
        del out, step

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker.add_scalars`."""

    def add_text(self, tag: str, text_string: str, global_step: int) -> None:
        """See `Tracker.add_text`."""

    def add_image(self, tag: str, img_tensor: Tensor, global_step: int) -> None:
        """See `Tracker.add_image`."""

    def add_audio(self, tag: str, snd_tensor: Tensor, global_step: int, sample_rate: int) -> None:
        """See `Tracker.add_audio`."""

    def close(self) -> None:
        """See `Tracker.close`."""
