"""The options of `evaluate`. Only the standard library is imported, so that ``--help`` is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SPECIAL_OPTIONS = {
    **dict.fromkeys(("lpips", "lpips_weights"), "LPIPS measures pictures and videos"),
    **dict.fromkeys(("fid", "fid_weights"), "FID measures pictures"),
    "fvd_weights": "FVD measures videos",
}
"""Options that only some measures take, see `tokenize_kit.metrics.measures.Measure.special`, and what is said to the others."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a tokenizer on real data: what is lost, how short the tokens are, how the vocabulary is used, how fast."""

    tokenizer: str
    """The tokenizer's folder, that of a training that goes on, or a checkpoint in it."""
    data: tuple[str, ...]
    """What to read: files, folders, globs, fsspec URLs, pipes or - (standard input) of txt, jsonl, json, csv, tsv, parquet,
    pictures, sounds, films, tar and idx; also gz, zst, bz2 and xz."""
    out: str | None = None
    """Folder for report.html and evaluation.json; without it the numbers are only printed."""
    overwrite: bool = False
    """Replace the report of another evaluation that is in the folder."""
    limit: int | None = None
    """Use only the first N samples."""
    image_size: int | None = None
    """Scale and crop pictures, and the frames of films, to a square of this many pixels first."""
    pad: bool = False
    """With --image-size: scale and pad pictures to the square instead, see encode."""
    fps: float | None = None
    """Films: take this many frames a second instead of as many as the tokenizer was made for."""
    clip_frames: int | None = None
    """Films: cut them into clips of this many frames; by default a film is one sample."""
    clip_stride: int | None = None
    """With --clip-frames: frames from the beginning of one clip to the next; by default clips follow one another."""
    clip_tail: Literal["keep", "drop"] = "keep"
    """With --clip-frames: frames at the end that are too few for a clip are a shorter one (keep) or left out (drop)."""
    codebooks: int | None = None
    """Measure with only the first N codebooks of a tokenizer that has several."""
    split: Literal["none", "lines", "paragraphs"] = "none"
    """What one sample of a txt file is: the whole file, a line, or a paragraph (ended by blank lines)."""
    field: str | None = None
    """Where the sample is: a field of JSON, a column of a table, an ending in a tar; by default the modality, such as text."""
    media_field: str | None = None
    """The same for pictures, sounds and films."""
    allow_special: tuple[str, ...] = ()
    """Special tokens that become their ids where they stand in a text: all, or each by its name; by default they are text."""
    max_failures: int = 1000
    """Stop when more samples than this cannot be read or encoded."""
    part: Literal["all", "train", "held-out"] = "all"
    """Which samples: all, or by the hash of their key those that a trainer with this fraction trains on or holds out."""
    validation_fraction: float = 0.05
    """The fraction that is held out, as it was given to the trainer; used by --part train and held-out."""
    validation_keys: str | None = None
    """Instead of the fraction: the file of keys that was given to the trainer, one a line, or a jsonl of objects with a "key"."""
    lpips: bool = False
    """Measure LPIPS (VGG16) on pictures or the frames of films; fetches the weights if torch has them not yet."""
    lpips_weights: str | None = None
    """Weights of torchvision's VGG16 to measure LPIPS with (vgg16-397923af.pth); implies --lpips."""
    fid: bool = False
    """Measure the Fréchet distance (rFID) of pictures; fetches the weights of InceptionV3 if torch has them not yet."""
    fid_weights: str | None = None
    """Weights of FID's InceptionV3 (weights-inception-2015-12-05-6726825d.pth); implies --fid."""
    fvd_weights: str | None = None
    """Measure the Fréchet distance (rFVD) of videos with this I3D, a TorchScript, which is run (i3d_torchscript.pt of
    StyleGAN-V)."""
    examples: int = 8
    """How many samples the report shows: the first ones, and as many of the worst of all."""
    codecs: bool = True
    """With --out: compare pictures with JPEG, WebP and AVIF (and JPEG XL if its plugin is there), sounds with Opus and MP3,
    videos with H.264, H.265 and AV1."""
    codec_pictures: int = 64
    """How many pictures, sounds or videos the comparison with the codecs takes, the first ones; at most 4 megapixels, a minute,
    or half a megapixel of all frames together."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where a learned tokenizer computes; auto takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Numbers in the matrix products of a learned tokenizer; bfloat16 is faster on a GPU, and some ids differ."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit {self.limit} must be 1 or more")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size {self.image_size} must be 1 or more")
        if self.pad and self.image_size is None:
            raise ValueError("--pad needs an --image-size: the side of the square that pictures are padded to")
        if self.examples < 0:
            raise ValueError(f"examples {self.examples} must be 0 or more")
        if self.codec_pictures < 1:
            raise ValueError(f"codec_pictures {self.codec_pictures} must be 1 or more")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction {self.validation_fraction} must be at least 0 and below 1")
        if self.validation_keys is not None and self.part == "all":
            raise ValueError(
                "--validation-keys divides the samples in two; say which to measure with --part held-out or train"
            )
