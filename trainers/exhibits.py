"""Samples that a run shows of its work, of any kind of data: written, and shown on a tracker, as their modality declares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenize_kit.modalities import modality_named
from tokenize_kit.protocol import TokenSpec

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample
    from trainers.trackers import Tracker


@dataclass(frozen=True)
class Exhibit:
    """A sample to look at or listen to."""

    modality: str
    """Which kind of sample it is, such as ``image``."""
    sample: Sample
    """As `TokenSpec` says for its modality: a picture uint8 (C, H, W) with 1 or 3 channels, a video uint8
    (T, C, H, W), a sound float32 (C, N)."""
    sample_rate: int | None = None
    """Samples a second of a sound."""
    frame_rate: float | None = None
    """Frames a second of a video."""


def hang(exhibit: Exhibit, name: str, step: int, out: Path, board: Tracker) -> None:
    """Write an exhibit of step ``step`` into the folder of a run, as ``FOLDER/00000200-NAME.SUFFIX``, and on its tracker.

    Raises:
        ValueError: samples of this modality cannot be written.
    """
    kind = modality_named(exhibit.modality)
    # A file needs of a spec no more than what its kind of samples leaves open.
    spec = TokenSpec(
        exhibit.modality,
        1,
        ("time",),
        (None,),
        lossless=True,
        sample_rate=exhibit.sample_rate,
        frame_rate=exhibit.frame_rate,
    )
    kind.write(
        exhibit.sample, out / kind.exhibit_folder / f"{step:08}-{name}{kind.exhibit_suffix or kind.suffix}", spec
    )
    kind.board(board, name, exhibit.sample, step, spec)


def grid_of(rows: Sequence[Sequence[Tensor]], gap: int = 2) -> Tensor:
    """Return one picture (C, H, W) of rows of pictures of one size, with white gaps; small ones are enlarged."""
    channels, height, width = rows[0][0].shape
    scale = max(1, 64 // max(height, width))
    step_y, step_x = height * scale + gap, width * scale + gap
    sheet = torch.full((channels, gap + len(rows) * step_y, gap + max(map(len, rows)) * step_x), 255, dtype=torch.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            large: Any = picture.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
            top, left = gap + y * step_y, gap + x * step_x
            sheet[:, top : top + height * scale, left : left + width * scale] = large
    return sheet
