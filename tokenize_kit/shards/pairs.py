"""``pairs``: sequences of example pairs and a query out of a shard set, for visual prompting (Bai et al. 2023, arXiv 2312.00785).

    a1 op(a1) a2 op(a2) .. query op(query)

The rows of the new set are the single samples of the sequences, one after another, so that a template that names the stream as
often as a sequence has samples reads a sequence as one document. What a sequence is made of follows from the seed and its number
alone; a shard is a number of sequences, so a run that was stopped makes those that are missing. Ids are copied: from the stream
itself, from one of its views, or where there is none from the sample, decoded, changed and encoded once.
"""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tokenize_kit.progress import Progress, several
from tokenize_kit.shards.options import ShardReading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tokenize_kit.protocol import Tokenizer
    from tokenize_kit.shards.format import FileEntry, StreamInfo
    from tokenize_kit.shards.reader import ShardSet, StreamArray

    Grid: TypeAlias = tuple[NDArray[np.integer[Any]], tuple[int, ...]]

HELD_OUT_FILE = "held_out.txt"
"""The keys of the held-out sequences, one a line, as ``--validation-keys`` takes them."""

COLUMNS = {"operation": "string", "sample": "string", "part": "string"}
"""What is done in the sequence, the key of the sample in the set that it is from, and ``train`` or ``held-out``."""

_SHARD_ROWS = 8192
"""A shard has no more samples than this, unless a sequence has."""
_SHARD_IDS = 1 << 26
"""And about so many ids at most."""
_KEPT_IDS = 1 << 24
"""About so many ids of changed samples are kept, as they come again."""
_BATCH_ROWS = 512
"""Samples of a record batch."""
_BATCH = 64
"""Samples that are encoded together."""


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


class Drawn(NamedTuple):
    """What one sequence is made of."""

    operation: str
    rows: tuple[int, ...]
    """Of the examples, and last of the query."""
    held_out: bool


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
        from tokenize_kit.shards.reader import ShardSet

        _check(options)
        check_local(options.out, what="shard set")
        self._options, self._progress = options, progress
        self._began = time.monotonic()
        self._shards = ShardSet.open(options.shards, options.trust_shards, progress.note)
        self._maker = _Maker(self._shards, options)
        self._draw = _Draw(self._shards.column("key").to_pylist(), options, self._maker.operations, self._maker.kept)
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
        write_json(self._out / MANIFEST_FILE, manifest.to_dict())


class _Draw:
    """Says what each sequence is made of.

    Args:
        keys: of the samples.
        options: of the run.
        operations: all of them, those that are held out last.
        kept: how many of them are for training, too.

    Raises:
        ValueError: there are too few samples on a side.
    """

    def __init__(self, keys: Sequence[str], options: PairsOptions, operations: Sequence[str], kept: int) -> None:
        import numpy as np

        from tokenize_kit.sources.heldout import key_fractions

        self.keys, self._options, self._operations, self._kept = keys, options, operations, kept
        held = key_fractions(keys) < options.validation_fraction
        self._sides = np.flatnonzero(~held), np.flatnonzero(held)
        for what, rows in zip(("for training", "held out"), self._sides, strict=True):
            needed = options.pairs + 1
            if len(rows) < needed and (what == "for training" or options.validation_fraction):
                raise ValueError(
                    f"{len(rows)} of {len(keys):,} samples are {what} (--validation-fraction {options.validation_fraction:g}), "
                    f"but a sequence needs {needed} of them; use fewer --pairs, another fraction, or more samples"
                )

    def sequence(self, number: int) -> Drawn:
        """Return what sequence ``number`` is made of."""
        import numpy as np

        from tokenize_kit.sources.heldout import held_out

        apart = held_out(f"{self._options.seed}/{number}", self._options.validation_fraction)
        generator = np.random.default_rng([self._options.seed, number])
        operation = self._operations[int(generator.integers(len(self._operations) if apart else self._kept))]
        side = self._sides[apart]
        rows = side[generator.choice(len(side), self._options.pairs + 1, replace=False)]
        return Drawn(operation, tuple(rows.tolist()), apart)


class _Maker:
    """Gives the ids of samples, and of what operations make of them."""

    def __init__(self, shards: ShardSet, options: PairsOptions) -> None:
        from dataclasses import replace

        from tokenize_kit.protocol import change_of, modality_of
        from tokenize_kit.protocol.views import AT
        from tokenize_kit.shards.preparation import Preparation

        self._shards = shards
        first = options.streams[0] if options.streams else _stream_of(shards, options.stream)
        source = _known(shards, first)
        self._kind = modality_of(source.spec)
        self.info: StreamInfo = replace(source, name=first.rpartition(AT)[0] or first)
        """The stream of the new set."""
        if options.streams:
            second = _known(shards, options.streams[1])
            if second.fingerprint != source.fingerprint:
                raise ValueError(
                    f"the streams {first} and {second.name} have different tokenizers, so they cannot be one stream; the set can "
                    f"be trained on as it is, with a template such as {f'{first} {second.name} {first} -> {second.name}'!r}"
                )
            self.operations: tuple[str, ...] = (f"{first} -> {second.name}",)
            self._stored = {self.operations[0]: _Stored(shards.stream_arrays(second.name))}
        else:
            self.operations = (*options.operations, *options.held_out_operations)
            views = {
                what: name
                for name, what in shards.manifest.options.get("views", {}).items()
                if name.rpartition(AT)[0] == first and shards.streams[name].fingerprint == source.fingerprint
            }
            self._changes = {one: change_of(self._kind, one) for one in self.operations}
            self._stored = {one: _Stored(shards.stream_arrays(views[one])) for one in self.operations if one in views}
        self.kept = len(self.operations) - len(options.held_out_operations)
        """How many of the operations are for training."""
        self._own = _Stored(shards.stream_arrays(first))
        self.mean_ids = max(1, -(-shards.num_tokens[first] // max(1, shards.num_rows)))
        """Ids of a sample."""
        self._kept: dict[tuple[int, str], Grid] = {}
        self._kept_ids = 0
        self._first = first
        self._codebooks = Preparation.of_options(shards.manifest.options).codebooks
        self._loaded: Tokenizer | None = None

    @property
    def _tokenizer(self) -> Tokenizer:
        from tokenize_kit.protocol import load_tokenizer
        from tokenize_kit.shards.format import TOKENIZERS_FOLDER

        if self._loaded is None:
            self._loaded = load_tokenizer(self._shards.folder / TOKENIZERS_FOLDER / self._first)
        return self._loaded

    def save(self, out: Path) -> None:
        """Let the tokenizer travel with the ids."""
        from tokenize_kit.shards.format import TOKENIZERS_FOLDER

        self._tokenizer.save(out / TOKENIZERS_FOLDER / self.info.name)

    def grids(self, wanted: Sequence[tuple[int, str | None]]) -> dict[tuple[int, str | None], Grid]:
        """Return the grid of each sample, by its row and operation (None: as it is), and its true size where that is kept."""
        found: dict[tuple[int, str | None], Grid] = {}
        left: list[tuple[int, str]] = []
        for row, operation in dict.fromkeys(wanted):
            if operation is None:
                found[row, operation] = self._own.get(row)
            elif operation in self._stored:
                found[row, operation] = self._stored[operation].get(row)
            elif (row, operation) in self._kept:
                found[row, operation] = self._kept[row, operation]
            else:
                left.append((row, operation))
        for start in range(0, len(left), _BATCH):
            some = left[start : start + _BATCH]
            for one, made in zip(some, self._made(some), strict=True):
                if self._kept_ids > _KEPT_IDS:
                    self._kept.clear()
                    self._kept_ids = 0
                found[one] = self._kept[one] = made
                self._kept_ids += made[0].size
        return found

    def _made(self, some: Sequence[tuple[int, str]]) -> Iterator[Grid]:
        """Decode samples, change them, and encode what comes out."""
        import numpy as np
        import torch

        from tokenize_kit.protocol import decode_sized, first_codebooks

        stored = [self._own.get(row) for row, _ in some]
        grids = [torch.from_numpy(grid.astype(np.int64)) for grid, _ in stored]
        samples = decode_sized(self._tokenizer, grids, [size for _, size in stored])
        try:
            changed = [self._changes[operation](sample) for (_, operation), sample in zip(some, samples, strict=True)]
            made = self._tokenizer.encode_batch(changed)
        except (ValueError, TypeError) as error:
            used = ", ".join(dict.fromkeys(operation for _, operation in some))
            raise ValueError(f"samples cannot be changed by one of {used} and encoded: {error}") from None
        for grid, sample in zip(made, changed, strict=True):
            kept = first_codebooks(grid, self._codebooks) if self._codebooks else grid
            yield kept.numpy(), self._kind.size(sample) if self.info.spec.size_axes else ()


class _Stored:
    """The grids of a stream by the number of their sample."""

    def __init__(self, arrays: Sequence[StreamArray]) -> None:
        self._arrays = arrays
        self._starts = [0, *accumulate(map(len, arrays))]

    def get(self, row: int) -> Grid:
        """Return a grid, a view, and the true size of its sample where that is kept."""
        number = bisect_right(self._starts, row) - 1
        array, place = self._arrays[number], row - self._starts[number]
        return array.grid(place), () if array.sizes is None else tuple(array.sizes[place].tolist())


def _check(options: PairsOptions) -> None:
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


def _stream_of(shards: ShardSet, given: str | None) -> str:
    """Return the stream of the pictures."""
    from tokenize_kit.protocol import modality_of
    from tokenize_kit.protocol.views import operations_of, view_streams

    if given is not None:
        return given
    views = view_streams(shards.streams)
    able = [
        name for name, info in shards.streams.items() if name not in views and operations_of(modality_of(info.spec))
    ]
    if len(able) != 1:
        what = f"the streams {', '.join(able)} can be changed" if able else "no stream can be changed"
        raise ValueError(f"{what} by operations; say which is meant with --stream ({', '.join(shards.streams)})")
    return able[0]


def _known(shards: ShardSet, name: str) -> StreamInfo:
    from tokenize_kit.sequences.vocabulary import unknown_stream

    if name not in shards.streams:
        raise ValueError(f"{shards.folder}: {unknown_stream(name, shards.streams)}")
    return shards.streams[name]


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
