"""A run of `pairs`, from options to a finished shard set. Only the standard library is imported before `make_pairs` is called."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.progress import Progress
from tokenize_kit.shards.pairs.options import PairsOptions, PairsResult, check_options

if TYPE_CHECKING:
    from tokenize_kit.shards.format import FileEntry
    from tokenize_kit.shards.pairs.draw import Drawn

HELD_OUT_FILE = "held_out.txt"
"""The keys of the held-out sequences, one a line, as ``--validation-keys`` takes them."""

COLUMNS = {"operation": "string", "sample": "string", "part": "string"}
"""What is done in the sequence, the key of the sample in the set that it is from, and ``train`` or ``held-out``."""

_SHARD_ROWS = 8192
"""A shard has no more samples than this, unless a sequence has."""
_SHARD_IDS = 1 << 26
"""And about so many ids at most."""
_BATCH_ROWS = 512
"""Samples of a record batch."""


def make_pairs(options: PairsOptions, progress: Progress | None = None) -> PairsResult:
    """Make the sequences; continues a run that was stopped, and returns at once if it is complete.

    Raises:
        FileNotFoundError: there is no such set.
        ValueError: an option is wrong, there are too few pictures, one cannot be changed, or the folder belongs to another run.
        VerificationError: the set is not what was written.
        OSError: the disk is full; finished shards are kept.
    """
    return _Run(options, progress or Progress(enabled=False)).run()


class _Run:
    def __init__(self, options: PairsOptions, progress: Progress) -> None:
        from tokenize_kit.files import check_local
        from tokenize_kit.shards.pairs.draw import Draw
        from tokenize_kit.shards.pairs.maker import Maker
        from tokenize_kit.shards.reader import ShardSet

        check_options(options)
        check_local(options.out, what="shard set")
        self._options, self._progress = options, progress
        self._began = time.monotonic()
        self._shards = ShardSet.open(options.shards, options.trust_shards, progress.note)
        self._maker = Maker(self._shards, options)
        self._draw = Draw(self._shards.column("key").to_pylist(), options, self._maker.operations, self._maker.kept)
        self._out = Path(options.out)
        self._each = 2 * options.pairs + 2
        rows = min(_SHARD_ROWS, _SHARD_IDS // self._maker.mean_ids)
        self._step = max(1, rows // self._each)
        self._units = range(-(-options.count // self._step))

    def run(self) -> PairsResult:
        from tokenize_kit.claims import shared
        from tokenize_kit.files import canonical_json
        from tokenize_kit.partial import remove_abandoned_below
        from tokenize_kit.shards.plan import begin_plan

        plan = self._plan()
        identity = hashlib.sha256(canonical_json(plan)).hexdigest()
        with shared(self._out, lambda alone: _begun(begin_plan(self._out, plan, alone=alone))):
            remove_abandoned_below(self._out)
            self._maker.save(self._out)
            self._progress.task("pairs", self._options.count)
            entries = [self._unit(number, identity) for number in self._units]
            self._finish(entries, plan)
        drawn = [self._draw.sequence(number) for number in range(self._options.count)]
        counts = Counter(one.operation for one in drawn)
        name = self._maker.info.name
        return PairsResult(
            self._options.out,
            len(drawn),
            sum(one.held_out for one in drawn),
            sum(entry.rows for entry in entries),
            sum(entry.tokens[name] for entry in entries),
            {operation: counts[operation] for operation in self._maker.operations},
            f"{' '.join([name] * (self._each - 1))} -> {name}",
            round(time.monotonic() - self._began, 3),
        )

    def _plan(self) -> dict[str, Any]:
        """Return what must be equal for two runs to be the same one."""
        from tokenize_kit.files import canonical_json, sha256_of_bytes
        from tokenize_kit.shards.preparation import Preparation

        manifest = self._shards.manifest
        options = asdict(self._options)
        names = (
            "operations",
            "streams",
            "stream",
            "pairs",
            "count",
            "seed",
            "validation_fraction",
            "held_out_operations",
        )
        said = {name: list(options[name]) if isinstance(options[name], tuple) else options[name] for name in names}
        # How the samples were brought to what they are, so that prompts are, too; each is given as it is.
        prepared = Preparation.of_options(manifest.options).to_dict()
        prepared.pop("views", None)
        return {
            "format_version": 1,
            "streams": {self._maker.info.name: self._maker.info.to_dict()},
            "columns": COLUMNS,
            "options": {**prepared, **{name: value for name, value in said.items() if value not in (None, [])}},
            "inputs": {
                "files": len(manifest.files),
                "bytes": sum(file.bytes for file in manifest.files),
                "digest": sha256_of_bytes(canonical_json([file.sha256 for file in manifest.files])),
            },
            "shards": len(self._units),
        }

    def _unit(self, number: int, identity: str) -> FileEntry:
        """Make one shard and its ledger, unless they are there."""
        from tokenize_kit.files import signed, write_json
        from tokenize_kit.protocol import Placement
        from tokenize_kit.shards.ledger import UnitResult, ledger_path
        from tokenize_kit.shards.provenance import made_with
        from tokenize_kit.shards.writer import open_shard

        digest = hashlib.sha256(f"{identity} {number}".encode()).hexdigest()
        first = number * self._step
        numbers = range(first, min(first + self._step, self._options.count))
        if (entry := _finished(self._out, number, digest)) is None:
            path, batch = self._out / f"{number:05}.arrow", max(1, _BATCH_ROWS // self._each)
            # The ledger follows in the same folder, and counts only if the shard is there.
            with open_shard(path, [self._maker.info], COLUMNS, durable_name=False) as writer:
                for start in range(first, numbers.stop, batch):
                    some = range(start, min(start + batch, numbers.stop))
                    writer.write(*self._rows({index: self._draw.sequence(index) for index in some}))
                    self._progress.update(some.stop, samples=some.stop * self._each)
            entry = writer.entry
            result = UnitResult(number, digest, entry.rows, entry, (), {}, made_with(Placement()))
            write_json(ledger_path(self._out, number), signed(result.to_dict()))
        self._progress.update(numbers.stop, samples=numbers.stop * self._each)
        return entry

    def _rows(self, drawn: Mapping[int, Drawn]) -> tuple[list[str], dict[str, Any], dict[str, list[Any]]]:
        """Return keys, ids and columns of the rows of some sequences."""
        import numpy as np

        keys: list[str] = []
        wanted: list[tuple[int, str | None]] = []
        columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for number, sequence in drawn.items():
            names = [*map(str, range(1, len(sequence.rows))), ""]
            for name, row in zip(names, sequence.rows, strict=True):
                keys += [self._key(number, f"{kind}{name}") for kind in (("a", "b") if name else ("query", "answer"))]
                wanted += [(row, None), (row, sequence.operation)]
                columns["operation"] += [sequence.operation] * 2
                columns["sample"] += [self._draw.keys[row]] * 2
                columns["part"] += ["held-out" if sequence.held_out else "train"] * 2
        grids = self._maker.grids(wanted)
        ids = np.concatenate([grids[one][0].reshape(-1) for one in wanted])
        shapes = np.array([(*grids[one][0].shape, *grids[one][1]) for one in wanted], np.int64)
        return keys, {self._maker.info.name: (ids, shapes)}, columns

    def _key(self, number: int, name: str) -> str:
        """Return the key of a sample of a sequence; those of sets of other lengths or seeds are others."""
        return f"pairs{self._options.pairs}.{self._options.seed}/{number:08}/{name}"

    def _finish(self, entries: Sequence[FileEntry], plan: dict[str, Any]) -> None:
        from tokenize_kit.files import write_json, write_text
        from tokenize_kit.shards.card import write_card
        from tokenize_kit.shards.format import FAILURES_FILE, MANIFEST_FILE, Manifest

        name = self._maker.info.name
        held = [number for number in range(self._options.count) if self._draw.sequence(number).held_out]
        first = "a1" if self._options.pairs else "query"
        write_text(self._out / FAILURES_FILE, "", durable_name=False)
        if held:
            write_text(
                self._out / HELD_OUT_FILE,
                "".join(self._key(number, first) + "\n" for number in held),
                durable_name=False,
            )
        manifest = Manifest(
            {name: self._maker.info}, COLUMNS, tuple(entries), plan["options"], plan["inputs"], failures=0
        )
        write_card(self._out, manifest)
        write_json(self._out / MANIFEST_FILE, manifest.to_dict())


def _begun(_before: dict[str, Any]) -> None:
    """What was there is of the same run; nothing of it is needed."""


def _finished(out: Path, number: int, digest: str) -> FileEntry | None:
    """Return what the ledger of a shard says, if it is of this run and the shard is there and as long as it says."""
    from tokenize_kit.files import read_signed
    from tokenize_kit.shards.ledger import UnitResult, ledger_path

    try:
        result = UnitResult.from_dict(read_signed(ledger_path(out, number)))
        size = (out / result.file.name).stat().st_size
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return result.file if result.digest == digest and size == result.file.bytes else None
