"""Options of ``train image``, as plain data that a command line can read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tokenize_kit.tokenizers.learned.image.config import NetworkConfig
from trainers.autoencoder.image.config import LossConfig
from trainers.autoencoder.options import RunOptions, SourceOptions, check_squares
from trainers.overrides import Overrides


class NetworkOverrides(Overrides, of=NetworkConfig, without=("channels",)):
    """Parts of the network; see `tokenize_kit.tokenizers.learned.image.config.NetworkConfig`. None keeps the preset's value."""


class LossOverrides(Overrides, of=LossConfig):
    """Weights and starts of the losses; see `trainers.autoencoder.image.config.LossConfig`. None keeps the preset's value."""


@dataclass(frozen=True, kw_only=True)
class PictureOptions(SourceOptions):
    """Which pictures a tokenizer learns from, and which tokenizer it is."""

    data: tuple[str, ...]
    """What to read: files, folders, globs or fsspec URLs of pictures, tar, parquet and idx."""
    preset: Literal["vqvae", "vqgan", "dvae", "fsq", "lfq"] = "fsq"
    """Recipe of a paper: quantizer, losses and optimiser."""
    size: Literal["tiny", "base"] = "tiny"
    """tiny learns in minutes on a CPU, base is the paper's network."""
    image_size: int | None = None
    """Train on squares of this many pixels; None takes pictures, which must all have one size, as they are. A trained
    tokenizer takes pictures of any size."""
    channels: Literal[1, 3, 4] = 3
    """1 grey, 3 RGB (transparent pictures on white), 4 RGBA."""
    crop: Literal["random", "center"] = "random"
    """Where squares are cut out of pictures that are not square, or larger because of --max-scale."""
    pad: bool = False
    """With --image-size: scale and pad pictures to squares instead, see encode."""
    max_scale: float = 1.0
    """Above 1: squares of 1 to so many times --image-size are cut out of pictures whose short side has that, and scaled down."""
    flip: bool = False
    """Mirror half of the training pictures left to right."""
    network: NetworkOverrides = field(default_factory=NetworkOverrides)
    """Parts of the network that shall differ from the preset."""
    loss: LossOverrides = field(default_factory=LossOverrides)
    """Losses that shall differ from the preset."""
    batch_size: int = 64
    """Pictures of a batch on each device."""
    validation_pictures: int = 1024
    """The most held-out pictures that a validation looks at."""
    pictures: str | None = None
    """Folder for the decoded pictures, which runs on the same data may share; by default one inside out."""


@dataclass(frozen=True, kw_only=True)
class TrainImageOptions(RunOptions, PictureOptions):
    """Train a discrete autoencoder on pictures: a tokenizer. The same command continues a run that was stopped."""

    summary: ClassVar[str] = "train a learned tokenizer (VQ-VAE, VQGAN, dVAE, FSQ, LFQ) on pictures"
    examples: ClassVar[tuple[str, ...]] = (
        "train image --data photos --image-size 128 --preset fsq --out tokenizers/photos",
        "train image --data assets/emoji.tar --preset vqgan --steps 1000 --out tokenizers/emoji",
        "train image --data photos --image-size 64 --quantizer.kind rvq --quantizer.codebooks 4 --out tokenizers/rvq",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_learned("batch_size", "validation_pictures")
        check_squares(self.image_size, self.max_scale)
        if self.pad and self.image_size is None:
            raise ValueError("--pad needs an --image-size: the side of the square that pictures are padded to")
