"""Samples that a run shows of its work: what they are, and where the log puts those of each modality.

The file of a sample is written as its modality declares (`tokenize_kit.modalities`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tokenize_kit.modalities import medium
from tokenize_kit.protocol import TokenSpec

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample


@dataclass(frozen=True)
class Exhibit:
    """A sample to look at or listen to."""

    modality: str
    """Which kind of sample it is, such as ``image``."""
    sample: Sample
    """As `TokenSpec` says for its modality: a picture uint8 (C, H, W) with 1 or 3 channels, a sound float32 (C, N)."""
    sample_rate: int | None = None
    """Samples a second of a sound."""


class _Wall(NamedTuple):
    """Where exhibits of a modality hang."""

    folder: str
    """Of their files, in the folder of the run."""
    board: Callable[[Any, str, Any, int], None]
    """Puts one on a TensorBoard: the writer, its name, itself, the step."""


_WALLS = {
    "text": _Wall("texts", lambda board, name, shown, step: board.add_text(name, shown.sample, step)),
    "image": _Wall("pictures", lambda board, name, shown, step: board.add_image(name, shown.sample, step)),
    # On the board sounds are mono.
    "audio": _Wall(
        "sounds", lambda board, name, shown, step: board.add_audio(name, shown.sample.mean(0), step, shown.sample_rate)
    ),
}


def hang(exhibit: Exhibit, name: str, step: int, out: Path, board: Any) -> None:
    """Write an exhibit of step ``step`` into the folder of a run, as ``FOLDER/00000200-NAME.SUFFIX``, and on its TensorBoard.

    Raises:
        ValueError: samples of this modality cannot be written or shown.
    """
    kind = medium(exhibit.modality)
    if exhibit.modality not in _WALLS:
        raise ValueError(f"a run cannot show samples of modality {exhibit.modality!r} (known: {', '.join(_WALLS)})")
    wall = _WALLS[exhibit.modality]
    # A file needs of a spec no more than what its kind of samples leaves open.
    spec = TokenSpec(exhibit.modality, 1, ("time",), (None,), lossless=True, sample_rate=exhibit.sample_rate)
    path = out / wall.folder / f"{step:08}-{name}{kind.suffix}"
    kind.write(exhibit.sample, path, spec)
    wall.board(board, name, exhibit, step)


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
