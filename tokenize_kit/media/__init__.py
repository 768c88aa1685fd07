"""Files of every modality to samples and back.

This module is the table of media: which file endings belong to a modality, and how bytes become a sample and a sample a
file. The work is done in one module a modality (`image`, `text`), imported when it is first used, so that the command
line can look at the table without loading torch. Finding samples (folders, archives, tables) is `media.sources`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tokenize_kit.tokenizer import Sample, TokenSpec


@dataclass(frozen=True)
class Medium:
    """How samples of one modality live in files."""

    modality: str
    """The `TokenSpec.modality` that this serves."""
    extensions: tuple[str, ...]
    """File endings that can be read, in lower case with the dot."""
    suffix: str
    """The file ending that `write` makes."""
    read: Callable[[bytes | NDArray[np.uint8], TokenSpec], Sample]
    """Turn the bytes of one file into the sample that the spec asks for; ValueError if they are not one.

    Pictures may come as bare pixels too, uint8 ``(C, H, W)``.
    """
    write: Callable[[Sample, Path], None]
    """Write one sample as a file, whole or not at all."""


def _read_image(data: bytes | NDArray[np.uint8], spec: TokenSpec) -> Sample:
    from tokenize_kit.media.image import image_of_pixels, read_image

    return read_image(data, spec.channels) if isinstance(data, bytes) else image_of_pixels(data, spec.channels)


def _write_image(sample: Sample, path: Path) -> None:
    from tokenize_kit.media.image import write_image

    write_image(sample, path)


def _read_text(data: bytes | NDArray[np.uint8], _spec: TokenSpec) -> Sample:
    from tokenize_kit.media.text import read_text

    assert isinstance(data, bytes), "only pictures come as pixels"
    return read_text(data)


def _write_text(sample: Sample, path: Path) -> None:
    from tokenize_kit.media.text import write_text

    write_text(sample, path)


_IMAGE_EXTENSIONS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
)

MEDIA: dict[str, Medium] = {
    "text": Medium("text", (".txt",), ".txt", _read_text, _write_text),
    "image": Medium("image", _IMAGE_EXTENSIONS, ".png", _read_image, _write_image),
}


def medium(modality: str) -> Medium:
    """Return how samples of ``modality`` are read and written.

    Raises:
        ValueError: files of this modality cannot be read or written yet.
    """
    if modality not in MEDIA:
        raise ValueError(
            f"no files of modality {modality!r} can be read or written (known: {', '.join(sorted(MEDIA))})"
        )
    return MEDIA[modality]
