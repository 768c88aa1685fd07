"""Options of ``score``, as plain data that a command line can read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenize_kit.errors import UsageError
from tokenize_kit.shards.options import ShardReading

SCORE_FILE = "score.json"
"""Says what is scored."""
SUMMARY_FILE = "summary.json"
"""The totals, written last."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ShardReading):
    """Say how probable a trained model finds samples: the log-likelihood of each, and what is surprising in it.

    Of a template with an arrow, what is right of it is scored given what is left. A text that is longer than the model's context
    is scored in pieces of that length, as it was trained on; each is predicted from itself alone.
    """

    model: str
    """The model folder, which carries its tokenizers, that of a training that goes on, or a checkpoint in it."""
    shards: tuple[str, ...] = ()
    """Folders or URLs of shard sets whose streams were made with the model's tokenizers."""
    data: tuple[str, ...] = ()
    """Or what to read, as encode does: files, folders, globs, URLs. It is prepared as the data of the model were and
    encoded into OUT/shards."""
    out: str
    """Folder for scores.jsonl, a line a sample, and summary.json; empty or new, the same command makes them again."""
    overwrite: bool = False
    """Replace scores of another command that are in the folder."""
    template: str | None = None
    """Of a model with several templates the one to follow, such as "image -> text"; by default the first."""
    part: Literal["all", "train", "held-out"] = "all"
    """Which samples: all, or by the hash of their key those that a training with this fraction trains on or holds out."""
    validation_fraction: float = 0.05
    """The fraction that is held out, as it was given to the training; used by --part train and held-out."""
    validation_keys: str | None = None
    """Instead of the fraction: the file of keys that was given to the training, one a line, or a jsonl of objects with a
    "key"."""
    limit: int | None = None
    """Score only the first N samples."""
    batch_size: int = 16
    """Samples that are scored side by side."""
    readings: int = 32
    """Of a model of hidden tokens how often a sample is read, each time with others hidden; its score is the estimate of a
    bound."""
    maps: int = 0
    """Show where the bits of the first N samples are: pictures in OUT/maps, and all of them in report.html."""
    against: tuple[str, ...] = ()
    """A second set, shard sets or files: how well the likelihood tells it from the first (AUROC), by itself and corrected by the
    size of a lossless code of each sample. Its scores go to against.jsonl."""
    split: Literal["none", "lines", "paragraphs"] = "none"
    """What one sample of a txt file of --data is: the whole file, a line, or a paragraph (ended by blank lines)."""
    field: tuple[str, ...] = ()
    """Where the text of --data is: a field of JSON, a column of a table, an ending in a tar; or STREAM=FIELD, see encode."""
    media_field: str | None = None
    """The same for pictures, sounds and films."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to score; auto takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed", "float32", "bfloat16"] = "32-true"
    """bf16-mixed holds the weights in bfloat16 and rounds the logits: faster where the device computes in it natively."""

    def interrupted(self) -> str:
        """Return what is true when the command was interrupted."""
        return f"scores.jsonl in {self.out} is not written yet; the same command scores all samples again, with the same numbers"

    def __post_init__(self) -> None:
        if bool(self.shards) == bool(self.data):
            what = "both are" if self.shards else "neither is"
            raise UsageError(f"--shards and --data say what is scored, and {what} given; give one of them")
        for name, least in (("limit", 1), ("batch_size", 1), ("readings", 1), ("maps", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} {value} must be at least {least}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"--validation-fraction {self.validation_fraction} must be at least 0 and below 1")
        if self.validation_keys is not None and self.part == "all":
            raise ValueError(
                "--validation-keys divides the samples in two; say which to score with --part held-out or train"
            )
