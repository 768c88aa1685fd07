"""Input files that were written again while a run was stopped: the shards that were made of them are proven, or it is refused.

A time says little (`touch`, a copy, another checkout), so what counts is what the files hold. No digest of the input is kept, for
that would have to be taken of every file each time; instead a shard is made once more beside the others, and it is the input of
before if the bytes are those of before.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.files import canonical_json
from tokenize_kit.partial import partial_folder
from tokenize_kit.shards.plan import OtherRunError

if TYPE_CHECKING:
    from tokenize_kit.shards.executors.base import Executor, Job
    from tokenize_kit.shards.ledger import UnitResult
    from tokenize_kit.sources.listing import SourceFile
    from tokenize_kit.sources.planning import Unit


def written_of(units: Iterable[Unit], files: Sequence[SourceFile]) -> list[str]:
    """Return for each unit a digest of when its input files were written."""
    versions = {file.url: file.version for file in files}
    return [_digest([versions.get(url, "") for url in _urls(unit)]) for unit in units]


def touched(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[int]:
    """Return the units whose input files were written again between two plans of the same run."""
    then, today = before.get("written"), now["written"]
    if isinstance(then, list) and len(then) == len(today):
        return {index for index, (old, new) in enumerate(zip(then, today, strict=True)) if old != new}
    # A plan of an earlier version knows only about all of them together.
    return set() if before.get("inputs_written") == now["inputs_written"] else set(range(len(today)))


def known_now(before: Mapping[str, Any], now: Mapping[str, Any], mine: Collection[int]) -> list[str]:
    """Return when the files of each unit were written, as far as the units ``mine`` are proven and the others are not."""
    then = before.get("written") or [""] * len(now["written"])
    return [new if index in mine else then[index] for index, new in enumerate(now["written"])]


def prove(
    finished: Mapping[int, UnitResult],
    units: Sequence[Unit],
    out: Path,
    job: Job,
    executor_for: Callable[[Sequence[Unit]], Executor],
) -> None:
    """Make units again and compare them with what was made of them before.

    Args:
        finished: the ledgers of these units, by number.
        units: those units.
        out: folder of the run.
        job: of the run.
        executor_for: returns who makes some units.

    Raises:
        OtherRunError: one gives another shard now; the message names its files.
    """
    by_index = {unit.index: unit for unit in units}

    def compare(result: UnitResult) -> None:
        before = finished[result.unit]
        if (result.file.sha256, result.samples, result.failures) != (
            before.file.sha256,
            before.samples,
            before.failures,
        ):
            urls = list(_urls(by_index[result.unit]))
            among = f"one of {urls[0]} to {urls[-1]}" if len(urls) > 1 else urls[0]
            raise OtherRunError(
                f"{out} belongs to another run: an input file was written again since it began and holds something else "
                f"({among}). Put the file of before back to continue it, or choose another --out"
            )

    with partial_folder(out / "proof") as folder:
        setup = replace(job.setup, out=str(folder))
        executor_for(units).run(units, replace(job, setup=setup, report=_silent, done=compare))
        shutil.rmtree(folder, ignore_errors=True)


def prove_in_order(
    changed: Collection[int],
    units: Sequence[Unit],
    limit: int,
    out: Path,
    job: Job,
    executor_for: Callable[[Sequence[Unit]], Executor],
) -> None:
    """`prove` the units ``changed`` of a run that takes only its first ``limit`` samples: what is left for one depends on others.

    Raises:
        OtherRunError: as `prove`.
    """
    from tokenize_kit.shards.ledger import finished_unit

    left = limit
    for unit in units:
        result = finished_unit(out, unit, job.setup.recipe, left)
        if result is None:
            return
        if unit.index in changed:
            prove({unit.index: result}, [unit], out, replace(job, left=partial(_limits, left, job)), executor_for)
        left -= result.samples


def _limits(left: int, job: Job) -> tuple[int | None, int]:
    return left, job.setup.max_failures


def _silent(*_added: int) -> None:
    """What is made again is no progress."""


def _urls(unit: Unit) -> Iterable[str]:
    for piece in unit.pieces:
        if piece.members:
            yield from (member.url for member in piece.members)
        else:
            yield piece.url


def _digest(values: list[str]) -> str:
    return hashlib.sha256(canonical_json(values)).hexdigest()[:16]
