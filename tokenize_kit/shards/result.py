"""What `encode` says of a run: in numbers, and in a few lines for a person."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tokenize_kit.progress import several
from tokenize_kit.shards.request import MB


@dataclass(frozen=True)
class EncodeResult:
    """What a run made, or with ``estimated`` what it would make."""

    out: str
    rows: int
    """Samples in the shards."""
    tokens: dict[str, int]
    """Ids of each stream."""
    shards: int
    failures: int
    """Samples that could not be read; failures.jsonl lists them."""
    input_bytes: int
    output_bytes: int
    seconds: float
    """Duration of this run; the work of the runs that it continues is not in it."""
    complete: bool = True
    """False while other parts of the same run are not finished."""
    estimated: bool = False
    """Whether this is the estimate of a dry run."""
    incomplete: int = 0
    """Samples of which a part is not there, such as the caption; incomplete.jsonl lists them."""
    conversions: dict[str, int] = field(default_factory=dict)
    """How many samples had to be changed when they were read, by what was done, such as ``8000 Hz mono to ...``."""
    converted: str = "samples"
    """What those are called."""
    passed_over: list[dict[str, Any]] = field(default_factory=list)
    """What folders and globs of the input hold and is not read: ending, why, count and the first names of each reason."""
    told: bool = False
    """Whether that was said when the run began."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        values = asdict(self)
        # What says nothing is left out; a run mostly has neither.
        empty = {name for name in ("incomplete", "passed_over") if not values[name]}
        return {name: value for name, value in values.items() if name not in ("converted", "told", *empty)}

    def to_text(self) -> str:
        """Return a line or two for a person."""
        from tokenize_kit.protocol.notes import counted

        tokens = ", ".join(f"{count:,} {name}" for name, count in self.tokens.items())
        about = "about " if self.estimated else ""
        state = "would be made in" if self.estimated else "are in" if self.complete else "are so far in"
        shards = f"{several(self.shards, 'shards')} of {self.output_bytes / MB:,.1f} MB"
        lines = [
            f"{about}{several(self.rows, 'samples')}, {tokens} tokens, {shards} {state} {self.out} ({about}{self.seconds:,.1f} s)"
        ]
        if self.failures:
            where = "" if self.estimated else f"; {self.out}/failures.jsonl says why"
            lines.append(f"{about}{several(self.failures, 'samples')} could not be read{where}")
        if self.incomplete:
            where = "" if self.estimated else f"; {self.out}/incomplete.jsonl lists them"
            lines.append(f"{about}{several(self.incomplete, 'incomplete samples')} left out{where}")
        if not self.told and (count := sum(group["count"] for group in self.passed_over)):
            lines.append(f"{several(count, 'other names')} of the input not read; --json says which, and why")
        for what, count in self.conversions.items():
            lines.append(about + counted(count, self.converted, what))
        if not self.complete:
            lines.append("other parts of the run are not finished yet; the last one to finish writes dataset.json")
        return "\n".join(lines)
