"""Files of every modality to samples and back.

This module is the table of media: which file endings belong to a modality, and how bytes become a sample and a sample a
file. The work is done in one module a modality (`image`, `text`, `audio`), imported when it is first used, so that the command
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

    from tokenize_kit.protocol import Sample, TokenSpec


def _none(_data: bytes, _spec: TokenSpec) -> str:
    return ""


def _as_it_is(_extension: str, data: bytes) -> bytes:
    return data


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
    write: Callable[[Sample, Path, TokenSpec], None]
    """Write one sample of that spec as a file, whole or not at all."""
    conversion: Callable[[bytes, TokenSpec], str] = _none
    """Say in words what `read` has to change so that a file is what the spec asks for, beyond what its kind implies.

    A sound of another sample rate gives ``48000 Hz stereo to 16000 Hz mono``, one that fits gives nothing.
    """
    self_describing: Callable[[str, bytes], bytes] = _as_it_is
    """Given the file's ending and its bytes, return bytes that `read` knows without the ending."""


def _read_image(data: bytes | NDArray[np.uint8], spec: TokenSpec) -> Sample:
    from tokenize_kit.media.image import image_of_pixels, read_image

    return read_image(data, spec.channels) if isinstance(data, bytes) else image_of_pixels(data, spec.channels)


def _write_image(sample: Sample, path: Path, _spec: TokenSpec) -> None:
    from tokenize_kit.media.image import write_image

    write_image(sample, path)


def _read_text(data: bytes | NDArray[np.uint8], _spec: TokenSpec) -> Sample:
    from tokenize_kit.media.text import read_text

    assert isinstance(data, bytes), "only pictures come as pixels"
    return read_text(data)


def _write_text(sample: Sample, path: Path, _spec: TokenSpec) -> None:
    from tokenize_kit.media.text import write_text

    write_text(sample, path)


def _read_audio(data: bytes | NDArray[np.uint8], spec: TokenSpec) -> Sample:
    from tokenize_kit.media.audio import read_audio

    assert isinstance(data, bytes), "only pictures come as pixels"
    return read_audio(data, spec.sample_rate, spec.channels).samples


def _write_audio(sample: Sample, path: Path, spec: TokenSpec) -> None:
    from tokenize_kit.media.audio import write_audio

    if spec.sample_rate is None:
        raise ValueError("the spec of this sound names no sample rate, so no file can be written")
    write_audio(sample, path, spec.sample_rate)


def _audio_conversion(data: bytes, spec: TokenSpec) -> str:
    from tokenize_kit.media.audio import conversion_of

    return conversion_of(data, spec.sample_rate, spec.channels)


def _self_describing_audio(extension: str, data: bytes) -> bytes:
    from tokenize_kit.media.audio import self_describing

    return self_describing(extension, data)


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

# Of the last line the sound track is read.
_AUDIO_EXTENSIONS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"),
    *(".g722", ".m4a", ".aac", ".mka"),
    *(".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"),
)

MEDIA: dict[str, Medium] = {
    "text": Medium("text", (".txt",), ".txt", _read_text, _write_text),
    "image": Medium("image", _IMAGE_EXTENSIONS, ".png", _read_image, _write_image),
    "audio": Medium(
        "audio",
        _AUDIO_EXTENSIONS,
        ".wav",
        _read_audio,
        _write_audio,
        _audio_conversion,
        _self_describing_audio,
    ),
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
