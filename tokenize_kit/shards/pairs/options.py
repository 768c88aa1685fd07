"""What `pairs` is asked for, and what it says. Only the standard library is imported, so that ``--help`` is instant."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenize_kit.progress import several
from tokenize_kit.shards.options import ShardReading


@dataclass(frozen=True)
class PairsOptions(ShardReading):
    """Make sequences for visual prompting out of a shard set: examples of what an operation does, a query and its answer.

    A run that was stopped continues where it was when the same command is run again.
    """

    shards: str
    """The shard set: a folder or an fsspec URL."""
    out: str
    """Folder for the new shard set."""
    operations: tuple[str, ...] = ()
    """What may be done in a sequence, one of them is drawn for each: those of encode --view, such as grey, edges, blur:2 or
    grey+flip. Where the set has the view the ids are taken from there."""
    streams: tuple[str, ...] = ()
    """Instead of operations: two streams of the set by one tokenizer; the second is the answer to the first."""
    stream: str | None = None
    """With --operations: the stream of the pictures; by default the only one that can be changed."""
    pairs: int = 3
    """Example pairs before the query of a sequence; 0 or more."""
    count: int = 1000
    """How many sequences."""
    seed: int = 0
    """Decides which pictures and which operation each sequence has."""
    validation_fraction: float = 0.0
    """Part of the pictures, by the hash of their keys, of which no sequence for training is made; about the same part of the
    sequences is made of them alone. held_out.txt lists those, for train transformer --validation-keys."""
    held_out_operations: tuple[str, ...] = ()
    """Further operations, which only the held-out sequences have."""

    def interrupted(self) -> str:
        """Return what is true when the command was interrupted."""
        if not (Path(self.out) / "plan.json").exists():
            return "nothing was written, and the same command begins anew"
        return f"the shards that are finished are in {self.out}, and the same command makes the others"


@dataclass(frozen=True)
class PairsResult:
    """What was made."""

    out: str
    sequences: int
    held_out: int
    """Those of them that are held out."""
    rows: int
    """Samples of all sequences."""
    tokens: int
    operations: dict[str, int]
    """How many sequences each operation has."""
    template: str
    """The template that reads a sequence as one document and learns its answer."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def to_text(self) -> str:
        """Return a few lines for a person."""
        held = f", {self.held_out:,} of them held out" if self.held_out else ""
        drawn = ", ".join(f"{name} {count:,}" for name, count in self.operations.items())
        return (
            f"{several(self.sequences, 'sequences')}{held}, {several(self.rows, 'samples')} of {self.tokens:,} tokens are in "
            f"{self.out} ({self.seconds:,.1f} s)\n{drawn}\ntemplate: {self.template}"
        )


def check_options(options: PairsOptions) -> None:
    """Check what can be said of the options alone.

    Raises:
        ValueError: one is out of range or beside another that it has no meaning with.
    """
    from tokenize_kit.sources.heldout import check_fraction

    if bool(options.operations) == bool(options.streams):
        raise ValueError("give --operations, or else the two --streams that make a pair")
    if options.streams and len(options.streams) != 2:
        raise ValueError(f"--streams {' '.join(options.streams)}: a pair is made of two streams")
    if options.streams and (options.stream or options.held_out_operations):
        raise ValueError("--stream and --held-out-operations are for --operations; leave them out with --streams")
    if options.pairs < 0:
        raise ValueError(f"--pairs {options.pairs} must be 0 or more")
    if options.count < 1:
        raise ValueError(f"--count {options.count} must be at least 1")
    if options.seed < 0:
        raise ValueError(f"--seed {options.seed} must be 0 or more")
    check_fraction(options.validation_fraction)
    every = Counter((*options.operations, *options.held_out_operations))
    if (twice := every.most_common(1)) and twice[0][1] > 1:
        raise ValueError(f"the operation {twice[0][0]} is given twice; name each once")
    if options.held_out_operations and not options.validation_fraction:
        raise ValueError("--held-out-operations are for held-out sequences; give --validation-fraction")
