"""Options that the training of every learned tokenizer has, as plain data that a command line can read without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tokenize_kit.shards.options import ShardReading
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig
from trainers.config import LoopConfig, OptimizerConfig
from trainers.overrides import Overrides

# A dataclass takes the fields of its last base first: what a user must say comes before how long and on what it runs.


class QuantizerOverrides(Overrides, of=QuantizerConfig, without=("library_defaults",)):
    """The quantizer; see `tokenize_kit.tokenizers.learned.quantizers.config.QuantizerConfig`. None keeps the preset's value, or
    with another kind than the preset's the default of that kind.
    """


class OptimizerOverrides(Overrides, of=OptimizerConfig):
    """The optimiser; see `trainers.config.OptimizerConfig`. None keeps the preset's value."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """From where to where a training goes."""

    data: tuple[str, ...]
    """What to read."""
    out: str
    """Folder of the run; when it is finished it is the tokenizer."""


@dataclass(frozen=True, kw_only=True)
class LearnedOptions(ShardReading):
    """What all learned tokenizers have in common."""

    quantizer: QuantizerOverrides = field(default_factory=QuantizerOverrides)
    """Parts of the quantizer that shall differ from the preset."""
    optimizer: OptimizerOverrides = field(default_factory=OptimizerOverrides)
    """Parts of the optimiser that shall differ from the preset."""
    validation_fraction: float = 0.05
    """Part of the data, chosen by the hash of the keys, that is never trained on."""
    validation_keys: str | None = None
    """Instead: a file with the keys of the samples to hold out, one a line, or a jsonl of objects with a "key"."""
    validation_data: tuple[str, ...] = ()
    """Other data to measure on instead; then all of the data is trained on."""
    usage_floor: float = 0.1
    """Warn when a validation uses a smaller part of a codebook than this; 0 never warns."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """Whether a run whose codebook use falls under the floor goes on."""
    media_field: str | None = None
    """Column of a parquet file that holds the samples; by default the modality: image, audio or video."""
    workers: int = 1
    """Processes that decode the data at the start."""
    max_failures: int = 1000
    """Stop when more samples than this cannot be read."""
    init_from: str | None = None
    """A tokenizer folder whose weights to begin with; it must have the same configuration."""

    def check_learned(self, *positive: str) -> None:
        """Refuse values that are out of range; those named by ``positive`` must be at least 1 too.

        Raises:
            ValueError: names the option and its range.
        """
        for name in (*positive, "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"--validation-fraction {self.validation_fraction} must be at least 0 and below 1")
        if self.validation_keys is not None and self.validation_data:
            raise ValueError("--validation-keys and --validation-data both say what to measure on; give one of them")
        if not 0 <= self.usage_floor <= 1:
            raise ValueError(f"--usage-floor {self.usage_floor} must be in [0, 1]")
        if self.max_failures < 0:
            raise ValueError(f"--max-failures {self.max_failures} must not be negative")


def check_squares(size: int | None, scale: float) -> None:
    """Refuse an ``--image-size`` and a ``--max-scale`` that no squares can be cut out with.

    Raises:
        ValueError: names the option and its range.
    """
    if size is not None and size < 1:
        raise ValueError(f"--image-size {size} must be at least 1")
    if not scale >= 1:
        raise ValueError(f"--max-scale {scale} must be at least 1 (1 cuts squares of image_size)")
    if scale > 1 and size is None:
        raise ValueError(f"--max-scale {scale} needs an --image-size to scale to")


@dataclass(frozen=True, kw_only=True)
class RunOptions(LoopConfig, LearnedOptions, SourceOptions):
    """What `trainers.autoencoder.run` asks of the options of any kind of data."""
