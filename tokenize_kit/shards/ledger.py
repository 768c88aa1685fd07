"""The proof that a unit is done: its ledger ``NNNNN.json`` beside its shard ``NNNNN.arrow``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.files import read_signed
from tokenize_kit.shards.format import FAILURES_FILE, INCOMPLETE_FILE, FileEntry
from tokenize_kit.shards.recipe import Recipe, unit_digest
from tokenize_kit.sources.blocks import count_lost
from tokenize_kit.sources.planning import Unit
from tokenize_kit.sources.reading import Failure


@dataclass(frozen=True)
class UnitResult:
    """The ledger of a finished unit."""

    unit: int
    digest: str
    """Digest of the unit and the recipe, so that a ledger of another run is not taken for one of this."""
    samples: int
    """Samples that were read: the rows, and those that could be read but not encoded."""
    file: FileEntry
    failures: tuple[Failure, ...]
    conversions: dict[str, int] = field(default_factory=dict)
    """How many files were not of the sample rate or channels that were wanted, by what was done; see `Modality.conversion`."""
    made: dict[str, str] = field(default_factory=dict)
    """Versions, platform, device and precision; see `provenance`. Takes no part in the digest, and old ledgers have none."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``NNNNN.json``."""
        return {**asdict(self), "failures": [failure.to_dict() for failure in self.failures]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UnitResult:
        """Read the content of ``NNNNN.json``."""
        failures = tuple(map(Failure.from_dict, values["failures"]))
        file = FileEntry(**values["file"])
        conversions, made = dict(values.get("conversions", {})), dict(values.get("made", {}))
        return cls(
            int(values["unit"]), str(values["digest"]), int(values["samples"]), file, failures, conversions, made
        )


class FailureLimitError(TooManyFailuresError):
    """A unit alone has more failures than allowed; carries them for the ledger."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(f"{count_lost(failures)} samples could not be read")
        self.failures = list(failures)


def failure_lines(failures: Iterable[Failure]) -> str:
    """Return the content of ``failures.jsonl`` or ``incomplete.jsonl``: a line for each of these failures."""
    return "".join(json.dumps(failure.to_dict(), ensure_ascii=False) + "\n" for failure in failures)


def listed(failures: Iterable[Failure]) -> dict[str, list[Failure]]:
    """Return which failures of units are listed in ``failures.jsonl``, and which, as incomplete, in ``incomplete.jsonl``."""
    lists: dict[str, list[Failure]] = {FAILURES_FILE: [], INCOMPLETE_FILE: []}
    for failure in failures:
        if failure.incomplete:
            lists[INCOMPLETE_FILE].append(replace(failure, incomplete=False))
        else:
            lists[FAILURES_FILE].append(failure)
    return lists


def ledger_path(out: str | os.PathLike[str], index: int) -> Path:
    """Return where the ledger of a unit is."""
    return Path(out) / f"{index:05}.json"


def finished_unit(
    out: str | os.PathLike[str], unit: Unit, recipe: Recipe, limit: int | None = None
) -> UnitResult | None:
    """Return the ledger of a unit if it is done: the ledger is of this run and what was written, and the shard is there and as
    long as it says.
    """
    path = ledger_path(out, unit.index)
    try:
        result = UnitResult.from_dict(read_signed(path))
        size = (Path(out) / result.file.name).stat().st_size
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    done = result.digest == unit_digest(unit, recipe, limit) and size == result.file.bytes
    return result if done else None
