"""Options of ``train video``, as plain data that a command line can read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tokenize_kit.tokenizers.learned.video.config import VideoNetworkConfig
from trainers.autoencoder.options import RunOptions, SourceOptions, check_squares
from trainers.autoencoder.video.config import VideoLossConfig
from trainers.overrides import Overrides


class VideoNetworkOverrides(Overrides, of=VideoNetworkConfig, without=("frame_rate", "channels")):
    """Parts of the network; see `VideoNetworkConfig`. None keeps the preset's value, or
    with another body than the preset's the default of that body.
    """


class VideoLossOverrides(Overrides, of=VideoLossConfig):
    """Weights and starts of the losses; see `trainers.autoencoder.video.config.VideoLossConfig`. None keeps the preset's."""


@dataclass(frozen=True, kw_only=True)
class FilmOptions(SourceOptions):
    """Which films a tokenizer learns from, and which tokenizer it is."""

    data: tuple[str, ...]
    """What to read: files, folders, globs or fsspec URLs of films and animations (mp4, mkv, webm, avi, gif, webp), tar and
    parquet."""
    preset: Literal["fsq", "lfq", "bsq", "vq", "rvq", "vqgan"] = "fsq"
    """Quantizer and losses; vqgan has a discriminator of clips."""
    size: Literal["tiny", "small", "base"] = "tiny"
    """tiny learns in minutes on a CPU, small in hours; base is the convolutional network of papers, for GPUs."""
    image_size: int | None = None
    """Train on squares of this many pixels; None takes films, which must all have one size, as they are. A trained tokenizer
    takes videos of any size."""
    fps: float = 12.0
    """Frames a second; films of another rate are converted by their time stamps."""
    clip_frames: int = 17
    """Frames of the clips that are trained on: one, and a multiple of the temporal factor."""
    film_frames: int | None = None
    """Films are decoded in pieces of this many frames, inside which clips begin anywhere; None means eight times as long as a
    clip."""
    short: Literal["pad", "drop"] = "pad"
    """What becomes of films, and ends of films, that are shorter than a clip: their last frame is repeated, or they are left
    out."""
    pictures: tuple[str, ...] = ()
    """Pictures to train on as well, as videos of one frame: files, folders, globs, URLs, tar, parquet and idx."""
    picture_weight: float = 0.2
    """Part of the steps that are trained on them."""
    channels: Literal[1, 3, 4] = 3
    """1 grey, 3 RGB (transparent films on white), 4 RGBA."""
    crop: Literal["random", "center"] = "random"
    """Where squares are cut out of frames that are not square, or larger because of --max-scale."""
    max_scale: float = 1.0
    """Above 1: squares of 1 to so many times --image-size are cut out of films whose short side has that, and scaled down."""
    flip: bool = False
    """Mirror half of the training clips left to right."""
    network: VideoNetworkOverrides = field(default_factory=VideoNetworkOverrides)
    """Parts of the network that shall differ from the preset."""
    loss: VideoLossOverrides = field(default_factory=VideoLossOverrides)
    """Losses that shall differ from the preset."""
    batch_size: int = 16
    """Clips of a batch on each device, or pictures of a batch of pictures."""
    validation_clips: int = 64
    """The most held-out clips that a validation looks at."""
    films: str | None = None
    """Folder for the decoded films and pictures, which runs on the same data may share; by default one inside out."""


@dataclass(frozen=True, kw_only=True)
class TrainVideoOptions(RunOptions, FilmOptions):
    """Train a causal autoencoder on clips and pictures: a tokenizer. The same command continues a run that was stopped."""

    summary: ClassVar[str] = "train a causal video tokenizer (FSQ, LFQ, BSQ, VQ, RVQ, VQGAN) on films and pictures"
    examples: ClassVar[tuple[str, ...]] = (
        "train video --data films --image-size 64 --out tokenizers/films",
        "train video --data films --image-size 64 --pictures photos --picture-weight 0.25 --out tokenizers/both",
        "train video --data films --image-size 128 --fps 24 --clip-frames 33 --size small --preset vqgan --out tokenizers/vqgan",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_learned("batch_size", "validation_clips", "clip_frames")
        check_squares(self.image_size, self.max_scale)
        if self.film_frames is not None and self.film_frames < self.clip_frames:
            raise ValueError(
                f"--film-frames {self.film_frames} are fewer than the --clip-frames {self.clip_frames} of a clip"
            )
        if not 0 <= self.picture_weight < 1:
            raise ValueError(f"--picture-weight {self.picture_weight} is a part of the steps and must be in [0, 1)")

    @property
    def piece_frames(self) -> int:
        """``film_frames`` with its default filled in."""
        return self.film_frames or 8 * self.clip_frames


def check_clips(options: FilmOptions, factor: int) -> None:
    """Refuse clips that the network does not have.

    Raises:
        ValueError: their frames are not one and a multiple of the temporal factor; names the nearest ones.
    """
    if over := (options.clip_frames - 1) % factor:
        lower, higher = options.clip_frames - over, options.clip_frames - over + factor
        raise ValueError(
            f"--clip-frames {options.clip_frames} is not 1 + n * {factor} (the tokenizer's temporal factor); use {lower} or "
            f"{higher}"
        )
