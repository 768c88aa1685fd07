"""The options of `compare`. The module loads no torch, so that ``--help`` is instant."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trainers.autoregressive.options import TransformerOverrides
from trainers.config import OptimizerConfig

COMPARE_FILE = "compare.json"
RESULTS_FILE = "results.json"
REPORT_FILE = "report.html"
KEYS_FILE = "held_out.jsonl"


def _optimizer() -> OptimizerConfig:
    return OptimizerConfig(optimizer="muon", learning_rate=3e-3, warmup_steps=40, decay_fraction=0.5)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Say which tokenizer suits some data and a model of them: distortion, bits, and bits under what a Transformer learns.

    The same small Transformer is trained on the ids of each tokenizer for equal time. How many steps that is, is measured
    once for each and kept, so that what is trained follows from the steps; the same command goes on after it was stopped.
    """

    tokenizer: tuple[str, ...]
    """Tokenizer folders, all of one kind of data."""
    data: tuple[str, ...]
    """What to read, as encode reads it."""
    minutes: float
    """How long the Transformer of each tokenizer is trained, on this machine as it is now; validation is not counted."""
    out: str
    """Folder for everything: shards, models, samples, results.json and report.html."""
    steps: tuple[int, ...] = ()
    """Instead of measuring how many steps fit into the minutes: the steps of each tokenizer, as in an earlier results.json."""
    captions: str | None = None
    """A tokenizer of the texts or labels that come with the samples: models are then given these, and the rank of the true one
    among others is measured."""
    split: Literal["none", "lines", "paragraphs"] = "none"
    """What one sample of a txt file is: the whole file, a line, or a paragraph (ended by blank lines)."""
    field: str | None = None
    """Where the text is (with --captions that of the captions), see encode."""
    media_field: str | None = None
    """Where the picture, sound or film is, see encode."""
    image_size: int | None = None
    """Scale and crop pictures, and the frames of films, to a square of this many pixels first."""
    pad: bool = False
    """With --image-size: scale and pad pictures to the square instead."""
    fps: float | None = None
    """Films: take this many frames a second instead of as many as the tokenizer was made for."""
    clip_frames: int | None = None
    """Films: cut them into clips of this many frames."""
    clip_stride: int | None = None
    """With --clip-frames: frames from the beginning of one clip to the next."""
    clip_tail: Literal["keep", "drop"] = "keep"
    """With --clip-frames: frames at the end that are too few for a clip are a shorter one (keep) or left out (drop)."""
    codebooks: int | None = None
    """Keep only the first N ids of each place where a tokenizer gives one a codebook."""
    allow_special: tuple[str, ...] = ()
    """Special tokens that become their ids where they stand in a text: all, or each by its name."""
    max_failures: int = 1000
    """Stop when more samples than this cannot be read."""
    limit: int | None = None
    """Encode only the first N samples."""
    workers: int = 1
    """Processes that encode at the same time."""
    validation_fraction: float = 0.05
    """The part of the samples, by the hash of their keys, of which those are taken that are held out."""
    held_out: int = 256
    """At most so many samples are held out: the same for all, never trained on, and all figures are measured on them."""
    preset: Literal["tiny", "small", "base"] = "tiny"
    """Size of the Transformer."""
    model: TransformerOverrides = dataclasses.field(default_factory=TransformerOverrides)
    """Parts of the Transformer that shall differ from the preset."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=_optimizer)
    """Optimiser, learning rate and its schedule, which runs over the steps of each training."""
    batch_tokens: int = 4096
    """About so many tokens are a batch, whatever the tokenizer."""
    context: int | None = None
    """Tokens of a row. None means what train transformer takes: by preset for texts and sounds, else the longest sample."""
    samples: int = 8
    """How many samples of each tokenizer are drawn, and how many are shown with what comes back."""
    rank_samples: int = 32
    """With --captions: among the captions of so many held-out samples the rank of the true one is measured."""
    seed: int = 0
    """Decides weights, batches and samples."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where everything computes; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        for name in ("held_out", "batch_tokens", "samples", "rank_samples", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        if not 0 < self.minutes < float("inf"):
            raise ValueError(f"--minutes {self.minutes} must be a number above 0")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"--validation-fraction {self.validation_fraction} must be above 0 and below 1")
        if self.steps and (len(self.steps) != len(self.tokenizer) or min(self.steps) < 1):
            given = " ".join(map(str, self.steps))
            raise ValueError(
                f"--steps {given}: give a number of at least 1 for each of the {len(self.tokenizer)} tokenizers, in their order"
            )

    def identity(self) -> dict[str, Any]:
        """Return all that decides what is in the folder."""
        left_out = ("out", "workers", "device")
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def interrupted(self) -> str:
        """Return what is true when the command was interrupted."""
        return f"what is finished is kept in {Path(self.out)}, and the same command goes on from there"
