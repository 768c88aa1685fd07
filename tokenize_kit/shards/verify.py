"""Checks that a shard set is what its manifest says: every byte, every count, every id."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenize_kit.errors import VerificationError
from tokenize_kit.files import is_signed, read_signed, sha256_of_file
from tokenize_kit.progress import Progress, several
from tokenize_kit.protocol import check_files, load_tokenizer, split_name, tokenizer_name
from tokenize_kit.shards.format import (
    FAILURES_FILE,
    INCOMPLETE_FILE,
    KEY,
    MANIFEST_FILE,
    PLAN_FILE,
    TOKENIZERS_FOLDER,
    FileEntry,
    Manifest,
    StreamInfo,
    read_manifest,
)
from tokenize_kit.shards.ledger import UnitResult, failure_lines, listed
from tokenize_kit.shards.plan import differences
from tokenize_kit.shards.reader import carried_problem, is_remote, local_folder, read_batches, stream_array
from tokenize_kit.sources.blocks import Failure, count_lost

_SHOWN = 10
_UNSIGNED = (
    f"{MANIFEST_FILE} is from before manifests carried a digest of themselves: it is compared with the shards and the tokenizers "
    "alone; the same 'encode' writes it with one"
)
_COPIED = (
    f"no ledgers and no {PLAN_FILE} are in it, so it is a copy of the shards: each is what {MANIFEST_FILE} says; how it was made "
    "cannot be compared, and a run cannot be continued there"
)
_FETCHED = (
    f"of a set at a URL the shards, {MANIFEST_FILE} and the tokenizers are checked; its ledgers and {PLAN_FILE} are not"
)


@dataclass(frozen=True)
class VerifyReport:
    """What was checked; there is one only if nothing differs."""

    shards: str
    files: int
    rows: int
    tokens: dict[str, int]
    bytes: int
    failures: int
    """Samples that the run could not read, as failures.jsonl lists them."""
    tokenizers: dict[str, str]
    """Fingerprint of each stream that a given tokenizer was compared with."""
    notes: tuple[str, ...] = ()
    """What could not be checked: the set is from before there were sums, or a copy of the shards alone."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; without notes where there are none."""
        values = asdict(self)
        return values if values.pop("notes") == () else {**values, "notes": list(self.notes)}

    def to_text(self) -> str:
        """Return one line for a person."""
        tokens = ", ".join(f"{count:,} {name}" for name, count in self.tokens.items())
        compared = f"; the tokenizer of {', '.join(self.tokenizers)} is the right one" if self.tokenizers else ""
        line = (
            f"{self.shards} is sound: {several(self.files, 'files')}, {self.bytes:,} bytes, {several(self.rows, 'samples')}, "
            f"{tokens} tokens, {several(self.failures, 'failures')}{compared}"
        )
        return "\n".join([line, *self.notes])


def verify(
    url: str | os.PathLike[str], tokenizers: Sequence[str] = (), progress: Progress | None = None
) -> VerifyReport:
    """Check the manifest, hashes, sizes, row and token counts, id ranges, grid shapes, keys and tokenizers of a shard set.

    Args:
        url: folder or fsspec URL of the shard set.
        tokenizers: folders of tokenizers that streams must have been made with, each as DIR or NAME=DIR.
        progress: where to show how far it is.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not a finished shard set.
        VerificationError: something differs; the message lists it.
    """
    folder = local_folder(url)
    problems: list[str] = []
    try:
        manifest = read_manifest(folder, problems)
    except (ImportError, ValueError) as error:
        if not problems or isinstance(error, VerificationError):
            raise
        raise VerificationError(f"{problems[0]}, and it can no longer be read ({error})") from None
    notes = [] if is_signed(folder / MANIFEST_FILE) else [_UNSIGNED]
    compared: dict[str, str] = {}
    try:
        compared = _compare_tokenizers(manifest, tokenizers, problems)
        _check_carried(folder, manifest, problems)
        problems += _check_files(folder, manifest, progress)
        problems += _check_folder(folder, manifest, notes, fetched=is_remote(url))
    except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
        # A manifest that is not what was written may say anything.
        if not problems:
            raise
        problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise VerificationError(f"{url} is not what it should be: {'; '.join(problems[:_SHOWN])}{more}")
    return VerifyReport(
        shards=str(url),
        files=len(manifest.files),
        rows=sum(file.rows for file in manifest.files),
        tokens={name: sum(file.tokens[name] for file in manifest.files) for name in manifest.streams},
        bytes=sum(file.bytes for file in manifest.files),
        failures=manifest.failures,
        tokenizers=compared,
        notes=tuple(notes),
    )


def _check_files(folder: Path, manifest: Manifest, progress: Progress | None) -> list[str]:
    problems: list[str] = []
    keys: list[pa.Array] = []
    if progress:
        progress.task("verify", sum(file.bytes for file in manifest.files))
    done = 0
    for file in manifest.files:
        problems += [f"{file.name}: {problem}" for problem in _check_file(folder, file, manifest, keys)]
        done += file.bytes
        if progress:
            progress.update(done, files=file.name)
    if keys:
        distinct = pc.count_distinct(pa.chunked_array(keys)).as_py()
        if distinct != (total := sum(map(len, keys))):
            problems.append(f"{total - distinct} keys occur more than once")
    return problems


def _compare_tokenizers(manifest: Manifest, given: Sequence[str], problems: list[str]) -> dict[str, str]:
    compared = {}
    for text in given:
        name, folder = named_stream(text, manifest)
        tokenizer = load_tokenizer(folder)
        fingerprint = tokenizer.fingerprint
        streams = [name] if name else list(manifest.streams)
        found = [stream for stream in streams if manifest.streams[stream].fingerprint == fingerprint]
        for stream in found:
            differs = manifest.streams[stream].unlike(tokenizer_name(tokenizer), fingerprint, tokenizer.spec.to_dict())
            if differs:
                problems.append(f"the tokenizer in {folder} is not what {MANIFEST_FILE} says of {stream} ({differs})")
            compared[stream] = fingerprint
        if not found:
            expected = ", ".join(f"{stream} {manifest.streams[stream].fingerprint[:12]}" for stream in streams)
            problems.append(f"the tokenizer in {folder} ({fingerprint[:12]}) is not the one that made {expected}")
    return compared


def _check_carried(folder: Path, manifest: Manifest, problems: list[str]) -> None:
    """Check the copies of the tokenizers by what they say of themselves: the package of one may not be installed here."""
    for name in manifest.streams:
        if not (copy := folder / TOKENIZERS_FOLDER / name).is_dir():
            continue
        try:
            check_files(copy)
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))
            continue
        if problem := carried_problem(folder, manifest, name):
            problems.append(problem)


def named_stream(text: str, manifest: Manifest) -> tuple[str, str]:
    """Return stream name (or nothing) and folder of a tokenizer that is given as DIR or NAME=DIR.

    Raises:
        ValueError: there is no stream of that name.
    """
    name, folder = split_name(text)
    if name is None:
        return "", folder
    if name not in manifest.streams:
        raise ValueError(f"there is no stream {name!r} in the shards; they have {', '.join(manifest.streams)}")
    return name, folder


def _check_file(folder: Path, file: FileEntry, manifest: Manifest, keys: list[pa.Array]) -> list[str]:
    path = folder / file.name
    if not path.is_file():
        return ["it is missing"]
    if (size := path.stat().st_size) != file.bytes:
        return [f"it has {size} bytes, expected {file.bytes}"]
    if (digest := sha256_of_file(path)) != file.sha256:
        # Not looked into: what Arrow makes of damaged bytes may end the process.
        return [f"its sha256 is {digest[:12]}, expected {file.sha256[:12]}"]
    problems = []
    try:
        batches = read_batches(path, manifest.schema)
        for batch in batches:
            batch.validate(full=True)
    except (ValueError, pa.ArrowException) as error:
        return [f"it is damaged: {error}"]
    rows = sum(batch.num_rows for batch in batches)
    if rows != file.rows:
        problems.append(f"it has {rows} rows, expected {file.rows}")
    for stream in manifest.streams.values():
        problems += _check_stream(batches, stream, file.tokens[stream.name])
    if any(batch.column(KEY).null_count for batch in batches):
        problems.append("it has rows without a key")
    keys += [batch.column(KEY) for batch in batches]
    return problems


def _check_stream(batches: Sequence[pa.RecordBatch], stream: StreamInfo, expected: int) -> list[str]:
    problems = []
    tokens = 0
    for batch in batches:
        if batch.column(stream.name).null_count:
            return [f"stream {stream.name} has rows without ids"]
        array = stream_array(batch, stream.name)
        tokens += int(array.offsets[-1] - array.offsets[0])
        if (array.shapes < 0).any() or (array.shapes.prod(axis=1) != np.diff(array.offsets)).any():
            problems.append(f"stream {stream.name} has a grid whose shape does not fit its ids")
        elif (problem := _wrong_size(array.sizes, array.shapes, stream)) is not None:
            problems.append(f"stream {stream.name} has a sample {problem}")
        elif (wrong := _wrong_id(array.values, array.shapes, stream)) is not None:
            problems.append(
                f"stream {stream.name} has the id {wrong}, outside its vocabulary of {stream.spec.vocab_size}"
            )
    if tokens != expected:
        problems.append(f"stream {stream.name} has {tokens} ids, expected {expected}")
    return problems


def _wrong_size(sizes: Any, shapes: Any, stream: StreamInfo) -> str | None:
    """Return what is wrong with the first true size that cannot be that of its grid."""
    if sizes is None:
        return None
    if (sizes < 0).any():
        return "with a negative size"
    # Of time a step may cover more at the beginning (video), or reach over its end (sound).
    for axis, name in enumerate(stream.spec.axes):
        step = stream.spec.step[axis]
        if name in ("height", "width") and step is not None:
            covered = sizes[:, -2 if name == "height" else -1]
            wrong = np.flatnonzero(shapes[:, axis] != -(-covered // step))
            if len(wrong):
                row = int(wrong[0])
                return f"of the {name} {covered[row]}, but a grid of {shapes[row, axis]} steps of {step}"
    return None


def _wrong_id(values: Any, shapes: Any, stream: StreamInfo) -> int | None:
    sizes = stream.spec.codebook_sizes
    if not len(values):
        return None
    if len(set(sizes)) == 1:
        high = int(values.max())
        return high if high >= sizes[0] else None
    # The codebook is the last axis, so ids of one place follow each other.
    for begin, shape in zip(np.cumsum([0, *shapes.prod(axis=1)]), shapes, strict=False):
        grid = values[begin : begin + shape.prod()].reshape(shape)
        wrong = grid >= np.array(sizes[: shape[-1]])
        if wrong.any():
            return int(grid[wrong][0])
    return None


def _check_folder(folder: Path, manifest: Manifest, notes: list[str], *, fetched: bool) -> list[str]:
    """Compare the manifest with what else the run left: no other shards, its plan, its ledgers and the list of failures.

    Args:
        folder: the shard set.
        manifest: of it.
        notes: takes what could not be checked.
        fetched: whether it is a copy of a set elsewhere, in which only what is used is.
    """
    problems = []
    known = {file.name for file in manifest.files}
    if strays := sorted(path.name for path in folder.glob("*.arrow") if path.name not in known):
        problems.append(f"{strays[0]} is not listed in {MANIFEST_FILE}")
    ledgers, lost, more = _ledgers(folder, manifest)
    has_plan = (folder / PLAN_FILE).is_file()
    # A run leaves all of these. Who copies what is needed to use a set leaves all of them behind.
    copied = not has_plan and len(lost) == len(manifest.files)
    if has_plan:
        problems += _check_plan(folder / PLAN_FILE, manifest)
    elif not copied:
        problems.append(f"{PLAN_FILE} is missing")
    problems += more
    if copied:
        notes.append(_FETCHED if fetched else _COPIED)
    elif lost:
        others = f", and {len(lost) - 1:,} more ledgers" if len(lost) > 1 else ""
        problems.append(f"{lost[0]}, the ledger of its shard, is missing{others}")
    lists = listed(failure for ledger in ledgers for failure in ledger.failures)
    complete = len(ledgers) == len(manifest.files)
    for name, expected in ((FAILURES_FILE, manifest.failures), (INCOMPLETE_FILE, manifest.incomplete)):
        if not copied and expected and not (folder / name).is_file():
            problems.append(f"{name} is missing, which tells of {several(expected, 'samples')}")
        problems += _check_list(folder / name, expected, failure_lines(lists[name]) if complete else None)
    return problems


def _check_list(path: Path, expected: int, lines: str | None) -> list[str]:
    """Compare a list of failures with how many samples it tells of, and where they are known with the lines it shall have."""
    if not path.is_file():
        return []
    try:
        lost = count_lost(Failure.from_dict(json.loads(line)) for line in path.read_bytes().splitlines())
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{path.name} is damaged"]
    if lost != expected:
        return [f"{path.name} tells of {lost} samples, expected {expected}"]
    same = lines is None or path.read_bytes() == lines.encode()
    return [] if same else [f"{path.name} is not what the ledgers of the shards say"]


def _check_plan(path: Path, manifest: Manifest) -> list[str]:
    try:
        plan = read_signed(path)
    except VerificationError as error:
        return [str(error)]
    made = manifest.to_dict()
    parts = ("streams", "columns", "options", "inputs")
    found = differences({name: plan.get(name) for name in parts}, {name: made[name] for name in parts})
    return [f"{MANIFEST_FILE} is not of the run in {PLAN_FILE}: {'; '.join(found[:2])}"] if found else []


def _ledgers(folder: Path, manifest: Manifest) -> tuple[list[UnitResult], list[str], list[str]]:
    """Return the ledgers that can be read, the names of those that are not there, and what is wrong with the others."""
    ledgers: list[UnitResult] = []
    lost: list[str] = []
    problems = []
    for file in manifest.files:
        path = (folder / file.name).with_suffix(".json")
        if not path.is_file():
            lost.append(path.name)
            continue
        try:
            ledger = UnitResult.from_dict(read_signed(path))
        except VerificationError as error:
            problems.append(str(error))
        except (ValueError, KeyError, TypeError, AttributeError):
            problems.append(f"{path.name} is damaged")
        else:
            ledgers.append(ledger)
            if ledger.file != file:
                problems.append(f"{path.name} and {MANIFEST_FILE} do not say the same of {file.name}")
    return ledgers, lost, problems
