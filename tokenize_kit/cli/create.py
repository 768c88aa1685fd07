"""``tokenize-kit create NAME``: save a tokenizer that needs no training.

Only the standard library is imported before a command is run, so that ``--help`` is instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tokenize_kit.protocol import Tokenizer


@dataclass(frozen=True)
class CreateMuLawOptions:
    """Save a tokenizer of sound: one of 256 mu-law ids a sample, mono, as in WaveNet. Nothing is trained."""

    out: str
    """Folder for the tokenizer."""
    sample_rate: int = 16_000
    """Samples a second; files of another rate are converted when they are read."""
    overwrite: bool = False
    """Replace another tokenizer that is in the folder."""


@dataclass(frozen=True)
class CreatePCMOptions:
    """Save a tokenizer of sound: one of 65,536 ids a sample, so that 16-bit files come back exactly. Nothing is trained."""

    out: str
    """Folder for the tokenizer."""
    sample_rate: int = 16_000
    """Samples a second; files of another rate are converted when they are read."""
    channels: Literal[1, 2] = 1
    """1 (mono) or 2 (stereo); files of other channels are converted when they are read."""
    overwrite: bool = False
    """Replace another tokenizer that is in the folder."""


@dataclass(frozen=True)
class CreatePixelsOptions:
    """Save a lossless tokenizer of pictures: the value of every channel of every pixel is an id. Nothing is trained."""

    out: str
    """Folder for the tokenizer."""
    channels: Literal[1, 3, 4] = 3
    """1 (grey), 3 (RGB) or 4 (RGBA); pictures are converted when they are read."""
    overwrite: bool = False
    """Replace another tokenizer that is in the folder."""


@dataclass(frozen=True)
class CreateFramesOptions:
    """Save a lossless tokenizer of video: the value of every channel of every pixel is an id. Nothing is trained."""

    out: str
    """Folder for the tokenizer."""
    fps: float = 12.0
    """Frames a second; films of another rate are brought to it when they are read."""
    channels: Literal[1, 3, 4] = 3
    """1 (grey), 3 (RGB) or 4 (RGBA); films are converted when they are read."""
    overwrite: bool = False
    """Replace another tokenizer that is in the folder."""


@dataclass(frozen=True)
class CreateResult:
    """What was saved."""

    out: str
    """The tokenizer's folder."""
    tokenizer: str
    """Its registered name."""
    fingerprint: str
    """Its fingerprint."""


def create_mulaw(options: CreateMuLawOptions) -> CreateResult:
    """Save a `MuLawTokenizer`.

    Raises:
        ValueError: the sample rate is out of range, or the folder holds another tokenizer.
    """
    from tokenize_kit.tokenizers.audio.mulaw import MuLawTokenizer

    return _saved(MuLawTokenizer(options.sample_rate), options.out, options.overwrite)


def create_pcm(options: CreatePCMOptions) -> CreateResult:
    """Save a `PCMTokenizer`.

    Raises:
        ValueError: the sample rate is out of range, or the folder holds another tokenizer.
    """
    from tokenize_kit.tokenizers.audio.pcm import PCMTokenizer

    return _saved(PCMTokenizer(options.sample_rate, options.channels), options.out, options.overwrite)


def create_pixels(options: CreatePixelsOptions) -> CreateResult:
    """Save a `PixelTokenizer`.

    Raises:
        ValueError: the folder holds another tokenizer.
    """
    from tokenize_kit.tokenizers.image.pixels import PixelTokenizer

    return _saved(PixelTokenizer(options.channels), options.out, options.overwrite)


def create_frames(options: CreateFramesOptions) -> CreateResult:
    """Save a `FramesTokenizer`.

    Raises:
        ValueError: the frame rate is out of range, or the folder holds another tokenizer.
    """
    from tokenize_kit.tokenizers.video.frames import FramesTokenizer

    return _saved(FramesTokenizer(options.fps, options.channels), options.out, options.overwrite)


def _saved(tokenizer: Tokenizer, out: str, overwrite: bool) -> CreateResult:
    from tokenize_kit.protocol import save_as, tokenizer_name

    save_as(tokenizer, out, overwrite=overwrite)
    return CreateResult(out, tokenizer_name(tokenizer), tokenizer.fingerprint)
