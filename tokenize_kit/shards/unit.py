"""From one unit to one shard: read, encode, write, and leave the proof that it is done.

`encode_unit` is all that a worker, or a machine of a cluster, has to run. It depends on the unit, the recipe and the
tokenizers alone, so the same bytes come out wherever and however often it runs. A unit is done when its ledger
``NNNNN.json`` stands beside its shard ``NNNNN.arrow``.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.files import canonical_json, read_json_object, write_json
from tokenize_kit.protocol import PipelinedEncoder, Placement, RaggedEncoder, Tokenizer, modality_named
from tokenize_kit.shards.format import COLUMN_TYPES, FileEntry, StreamInfo
from tokenize_kit.shards.prefetch import read_ahead
from tokenize_kit.shards.provenance import made_with
from tokenize_kit.shards.writer import Ids, ShardWriter, open_shard
from tokenize_kit.sources.blocks import Content, one_line
from tokenize_kit.sources.planning import ReadOptions, Unit
from tokenize_kit.sources.reading import Failure, SampleBlock, read_unit

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.protocol import Sample

BATCH_BYTES = 4 << 20
"""A record batch is written when it holds this many bytes of ids."""

CHUNK_BYTES = 16 << 20
"""How much is decoded and given to a tokenizer at a time, so that large pictures do not fill the memory."""

USUAL = Placement()
"""The CPU in float32."""

_Ragged: TypeAlias = tuple[Ids, NDArray[np.int64]]
_Encoded: TypeAlias = dict[str, _Ragged]
_Values: TypeAlias = "Sequence[Sample] | pa.Array"


@dataclass(frozen=True)
class Recipe:
    """Everything besides the units and the tokenizers' folders that determines the bytes of the shards."""

    read: ReadOptions
    streams: tuple[StreamInfo, ...]
    image_size: int | None = None
    crop: bool = True
    codebooks: int | None = None
    """Keep only so many of the ids of each place of a grid with codebooks."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        streams = {stream.name: stream.to_dict() for stream in self.streams}
        values = {"read": self.read.to_dict(), "streams": streams, "image_size": self.image_size, "crop": self.crop}
        # Left out where it says nothing, so that runs from before there was the option can be continued.
        return values if self.codebooks is None else {**values, "codebooks": self.codebooks}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from `to_dict`'s form."""
        streams = tuple(StreamInfo.from_dict(name, stream) for name, stream in values["streams"].items())
        read = ReadOptions.from_dict(values["read"])
        return cls(read, streams, values["image_size"], values["crop"], values.get("codebooks"))


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
        failures = [{"key": failure.key, "reason": failure.reason} for failure in self.failures]
        return {**asdict(self), "failures": failures}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UnitResult:
        """Read the content of ``NNNNN.json``."""
        failures = tuple(Failure(failure["key"], failure["reason"]) for failure in values["failures"])
        file = FileEntry(**values["file"])
        conversions, made = dict(values.get("conversions", {})), dict(values.get("made", {}))
        return cls(
            int(values["unit"]), str(values["digest"]), int(values["samples"]), file, failures, conversions, made
        )


class FailureLimitError(TooManyFailuresError):
    """A unit alone has more failures than allowed; carries them for the ledger."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(f"{len(failures)} samples could not be read")
        self.failures = list(failures)


Report: TypeAlias = Callable[[int, int, int], None]
"""Called now and then with the samples, tokens and input bytes that were added since."""


def unit_digest(unit: Unit, recipe: Recipe, limit: int | None = None) -> str:
    """Return the digest by which a ledger is known to be of this unit and recipe."""
    keys = [[piece.key, piece.size, piece.start, piece.stop] for piece in unit.pieces]
    return hashlib.sha256(canonical_json([unit.index, keys, recipe.to_dict(), limit])).hexdigest()


def ledger_path(out: str | os.PathLike[str], index: int) -> Path:
    """Return where the ledger of a unit is."""
    return Path(out) / f"{index:05}.json"


def finished_unit(
    out: str | os.PathLike[str], unit: Unit, recipe: Recipe, limit: int | None = None
) -> UnitResult | None:
    """Return the ledger of a unit if it is done: the ledger is of this run, and the shard is there and as long as it says."""
    path = ledger_path(out, unit.index)
    try:
        result = UnitResult.from_dict(read_json_object(path))
        size = (Path(out) / result.file.name).stat().st_size
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    done = result.digest == unit_digest(unit, recipe, limit) and size == result.file.bytes
    return result if done else None


def encode_unit(
    unit: Unit,
    tokenizers: Mapping[str, Tokenizer],
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    limit: int | None = None,
    max_failures: int | None = None,
    report: Report | None = None,
    placement: Placement = USUAL,
) -> UnitResult:
    """Make one shard and its ledger.

    Args:
        unit: what to read.
        tokenizers: the tokenizer of each stream.
        recipe: how to read and encode.
        out: folder of the shard set.
        limit: take only this many samples.
        max_failures: stop when more samples than this cannot be read.
        report: called after each chunk.
        placement: where the tokenizers were placed, for the ledger.

    Raises:
        TooManyFailuresError: more than ``max_failures`` samples failed.
        OSError: the disk is full, or an input file cannot be read.
    """
    failures: list[Failure] = []
    samples = 0
    path = Path(out) / f"{unit.index:05}.arrow"
    try:
        with (
            # The ledger follows in the same folder, and counts only if the shard is there.
            open_shard(path, recipe.streams, recipe.read.columns, durable_name=False) as writer,
            read_ahead(read_unit(unit, recipe.read)) as blocks,
            # While chunks go through a network the next one is decoded.
            read_ahead(_all_chunks(blocks, recipe, limit)) as chunks,
        ):
            rows = Rows(writer, recipe)
            for done in _encode_chunks(chunks, tokenizers, rows):
                failures += done.failures
                samples += done.samples
                if report:
                    report(done.samples, done.tokens, done.size)
                if max_failures is not None and len(failures) > max_failures:
                    raise FailureLimitError(failures)
            rows.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message = "the disk is full; finished shards are kept, so make room and run the same command again"
            raise OSError(error.errno, message, str(path)) from None
        raise
    digest = unit_digest(unit, recipe, limit)
    conversions, made = dict(sorted(rows.conversions.items())), made_with(placement)
    result = UnitResult(unit.index, digest, samples, writer.entry, tuple(failures), conversions, made)
    write_json(ledger_path(out, unit.index), result.to_dict())
    return result


def encode_block(block: SampleBlock, tokenizers: Mapping[str, Tokenizer], recipe: Recipe, rows: Rows) -> list[Failure]:
    """Encode a block into rows; returns the failures of samples that could be read but not encoded."""
    done = _encode_chunks(_chunks(block, recipe), tokenizers, rows)
    return [failure for one in done for failure in one.failures][len(block.failures) :]


def encode_samples(tokenizers: Mapping[str, Tokenizer], samples: Mapping[str, _Values]) -> _Encoded:
    """Encode samples, given by modality, with the tokenizer of each stream: flat ids, and shapes.

    Shapes are (samples, axes), or with the true sizes of the samples beside them (samples, axes + size_axes).
    """
    return {name: _encode_values(tokenizer, samples[tokenizer.spec.modality]) for name, tokenizer in tokenizers.items()}


def _encode_values(tokenizer: Tokenizer, values: _Values) -> _Ragged:
    if isinstance(tokenizer, RaggedEncoder):
        ids, lengths = tokenizer.encode_ragged(values)
        return ids, np.asarray(lengths, np.int64)[:, None]
    samples = _as_list(values)
    return _flat(tokenizer, samples, tokenizer.encode_batch(samples))


def _flat(tokenizer: Tokenizer, samples: Sequence[Sample], grids: Sequence[Tensor]) -> _Ragged:
    """Return grids as flat ids and shapes."""
    spec = tokenizer.spec
    axes = len(spec.axes)
    name = type(tokenizer).__qualname__
    assert len(grids) == len(samples), f"{name} gave {len(grids)} grids for {len(samples)} samples"
    assert all(grid.ndim == axes for grid in grids), f"the grids of {name} must have {axes} axes"
    flat = [grid.detach().cpu().numpy().reshape(-1) for grid in grids]
    rows = [tuple(grid.shape) for grid in grids]
    if size_axes := spec.size_axes:
        kind = modality_named(spec.modality)
        rows = [(*row, *kind.size(sample)) for row, sample in zip(rows, samples, strict=True)]
    shapes = np.array(rows, np.int64).reshape(len(grids), axes + size_axes)
    return np.concatenate(flat) if flat else np.zeros(0, np.int64), shapes


@contextmanager
def _encoders(
    tokenizers: Mapping[str, Tokenizer],
) -> Iterator[Callable[[Mapping[str, _Values]], Callable[[], _Encoded]]]:
    """Yield a function that begins to encode samples and returns another one, which waits for what `encode_samples` gives."""
    with ExitStack() as stack:
        begins = {
            name: stack.enter_context(tokenizer.encode_ahead())
            for name, tokenizer in tokenizers.items()
            if isinstance(tokenizer, PipelinedEncoder)
        }

        def begin_one(name: str, tokenizer: Tokenizer, values: _Values) -> Callable[[], _Ragged]:
            if name not in begins:
                return partial(_encode_values, tokenizer, values)
            grids = begins[name](_as_list(values))
            return lambda: _flat(tokenizer, values, grids())

        def begin(samples: Mapping[str, _Values]) -> Callable[[], _Encoded]:
            waits = {
                name: begin_one(name, tokenizer, samples[tokenizer.spec.modality])
                for name, tokenizer in tokenizers.items()
            }
            return lambda: {name: wait() for name, wait in waits.items()}

        yield begin


@dataclass
class _Chunk:
    """Some samples of a block, decoded, or a whole block of texts that need no decoding."""

    keys: Sequence[str] | pa.Array
    samples: dict[str, _Values]
    columns: dict[str, Sequence[Any] | pa.Array]
    read: int
    """How many samples were read for it: the rows, and those that could not be decoded."""
    failures: list[Failure]
    conversions: Counter[str]
    size: int = 0
    """Bytes of input; the last chunk has those of its block."""

    def pick(self, places: Sequence[int]) -> _Chunk:
        """Return the chunk with only some of its rows."""
        return _Chunk(
            [self.keys[place] for place in places],
            {name: [values[place] for place in places] for name, values in self.samples.items()},
            {name: [values[place] for place in places] for name, values in self.columns.items()},
            self.read,
            self.failures,
            self.conversions,
            self.size,
        )

    def as_lists(self) -> _Chunk:
        """Return the chunk with Python's own values, which `pick` needs."""
        return _Chunk(
            _as_list(self.keys),
            {name: _as_list(values) for name, values in self.samples.items()},
            {name: _as_list(values) for name, values in self.columns.items()},
            self.read,
            self.failures,
            self.conversions,
            self.size,
        )


class _Done(NamedTuple):
    """What became of a chunk."""

    samples: int
    tokens: int
    size: int
    """Bytes of input."""
    failures: list[Failure]


def _all_chunks(blocks: Iterable[SampleBlock], recipe: Recipe, limit: int | None) -> Iterator[_Chunk]:
    """Yield the chunks of all blocks, up to ``limit`` samples."""
    for block in blocks:
        if limit is not None:
            if len(block) > limit:
                block = block.head(limit)
            limit -= len(block)
        yield from _chunks(block, recipe)
        if limit == 0:
            return


def _chunks(block: SampleBlock, recipe: Recipe) -> Iterator[_Chunk]:
    """Decode a block chunk by chunk; samples that are not what their tokenizer wants become failures."""
    textual = recipe.read.textual
    if recipe.read.text_only and textual and isinstance(block.contents[textual], pa.Array):
        failures = list(block.failures)
        yield _Chunk(block.keys, {**block.contents}, block.columns, len(block), failures, Counter(), block.size)
        return
    keys, columns = _as_list(block.keys), {name: _as_list(values) for name, values in block.columns.items()}
    contents = {name: _as_list(values) for name, values in block.contents.items()}
    failures, conversions = list(block.failures), Counter[str]()
    decoded: list[dict[str, Sample]] = []
    kept: list[int] = []
    start = size = 0

    def chunk(stop: int) -> _Chunk:
        return _Chunk(
            [keys[row] for row in kept],
            {name: [samples[name] for samples in decoded] for name in contents},
            {name: [values[row] for row in kept] for name, values in columns.items()},
            stop - start,
            failures,
            conversions,
        )

    for row, key in enumerate(keys):
        if size >= CHUNK_BYTES:
            yield chunk(row)
            failures, conversions, decoded, kept = [], Counter(), [], []
            start, size = row, 0
        try:
            samples = {name: _decode(values[row], name, recipe, conversions) for name, values in contents.items()}
        except (ValueError, TypeError) as error:
            failures.append(Failure(key, one_line(error)))
            continue
        decoded.append(samples)
        kept.append(row)
        size += sum(modality_named(name).values(sample) for name, sample in samples.items())
    last = chunk(len(keys))
    last.size = block.size
    yield last


def _encode_chunks(chunks: Iterable[_Chunk], tokenizers: Mapping[str, Tokenizer], rows: Rows) -> Iterator[_Done]:
    """Encode chunks into rows, in order; pipelined tokenizers have begun with a chunk before the one before is done."""
    ahead = any(isinstance(tokenizer, PipelinedEncoder) for tokenizer in tokenizers.values())
    running: deque[tuple[_Chunk, Callable[[], _Encoded] | None]] = deque()
    with _encoders(tokenizers) as begin:
        for chunk in chunks:
            try:
                running.append((chunk, begin(chunk.samples)))
            except (ValueError, TypeError):
                running.append((chunk, None))
            if len(running) > ahead:
                yield _finish(*running.popleft(), tokenizers, rows)
        while running:
            yield _finish(*running.popleft(), tokenizers, rows)


def _finish(
    chunk: _Chunk, wait: Callable[[], _Encoded] | None, tokenizers: Mapping[str, Tokenizer], rows: Rows
) -> _Done:
    """Wait for what becomes of a chunk and add it to the rows; ``wait`` is None if the tokenizers refused at once."""
    encoded = None
    with suppress(ValueError, TypeError):
        encoded = wait() if wait else None
    if encoded is None:  # one of the samples is refused: find out which
        chunk = _without_refused(chunk.as_lists(), tokenizers)
        encoded = encode_samples(tokenizers, chunk.samples)
    tokens = rows.add(chunk.keys, encoded, chunk.columns)
    rows.conversions.update(chunk.conversions)
    return _Done(chunk.read, tokens, chunk.size, chunk.failures)


def _decode(content: Content, modality: str, recipe: Recipe, conversions: Counter[str]) -> Sample:
    kind = modality_named(modality)
    if kind.textual:
        return cast("str", content)
    # Streams of one modality share the sample, so their specs agree in what it must look like; the run checked that.
    spec = next(stream.spec for stream in recipe.streams if stream.spec.modality == modality)
    sample = kind.read(cast("bytes | NDArray[np.uint8]", content), spec)
    if isinstance(content, bytes) and (conversion := kind.conversion(content, spec)):
        conversions[conversion] += 1
    if recipe.image_size is not None and kind.resizable:
        sample = kind.resize(sample, recipe.image_size, crop=recipe.crop)
    return sample


def _without_refused(chunk: _Chunk, tokenizers: Mapping[str, Tokenizer]) -> _Chunk:
    """Return the chunk without the samples that a tokenizer refuses; they are added to its failures."""

    def accepted(places: range) -> list[int]:
        try:
            encode_samples(tokenizers, chunk.pick(places).samples)
        except (ValueError, TypeError) as error:
            if len(places) == 1:
                chunk.failures.append(Failure(chunk.keys[places[0]], one_line(error)))
                return []
            middle = len(places) // 2
            return accepted(places[:middle]) + accepted(places[middle:])
        return list(places)

    return chunk.pick(accepted(range(len(chunk.keys))))


class Rows:
    """Collects encoded rows into record batches of a bounded size."""

    def __init__(self, writer: ShardWriter, recipe: Recipe) -> None:
        self._writer = writer
        self._recipe = recipe
        self.tokens = {stream.name: 0 for stream in recipe.streams}
        self.conversions: Counter[str] = Counter()
        """What was done to files that were not as their tokenizer wants them, and to how many."""
        self._clear()

    def _clear(self) -> None:
        self._bytes = 0
        self._keys: list[pa.Array] = []
        self._ids: dict[str, list[tuple[Ids, NDArray[np.int64]]]] = {name: [] for name in self.tokens}
        self._columns: dict[str, list[pa.Array]] = {name: [] for name in self._recipe.read.columns}

    def add(
        self, keys: Sequence[str] | pa.Array, encoded: _Encoded, columns: Mapping[str, Sequence[Any] | pa.Array]
    ) -> int:
        """Add rows and return how many ids they have; every `BATCH_BYTES` of ids they are written."""
        if len(keys) == 0:
            return 0
        tokens = 0
        self._keys.append(_as_array(keys, pa.string()))
        for stream in self._recipe.streams:
            values, shapes = encoded[stream.name]
            if self._recipe.codebooks is not None and stream.spec.axes[-1] == "codebook":
                values, shapes = _first_codebooks(values, shapes, stream.num_axes - 1, self._recipe.codebooks)
            self._ids[stream.name].append((values, shapes))
            self.tokens[stream.name] += len(values)
            tokens += len(values)
            self._bytes += len(values) * np.dtype(stream.dtype).itemsize
        for name, kind in self._recipe.read.columns.items():
            self._columns[name].append(_as_array(columns[name], COLUMN_TYPES[kind]))
        if self._bytes >= BATCH_BYTES:
            self.flush()
        return tokens

    def flush(self) -> None:
        """Write what was collected as one record batch."""
        if not self._keys:
            return
        ids = {}
        for name, parts in self._ids.items():
            one = len(parts) == 1
            values = parts[0][0] if one else np.concatenate([values for values, _ in parts])
            ids[name] = values, parts[0][1] if one else np.concatenate([shapes for _, shapes in parts])
        columns = {name: pa.concat_arrays(arrays) for name, arrays in self._columns.items()}
        self._writer.write(pa.concat_arrays(self._keys), ids, columns)
        self._clear()


def _first_codebooks(values: Ids, shapes: NDArray[np.int64], axis: int, count: int) -> _Ragged:
    """Keep the ids of the first ``count`` codebooks of flat grids whose axis number ``axis``, the last one, is the codebook."""
    stored = shapes[:, axis]
    if len(stored) and int(stored.min()) < count:
        raise ValueError(
            f"the tokenizer gave a grid of {stored.min()} codebooks, fewer than --codebooks {count}; use {stored.min()} or fewer"
        )
    sizes = shapes[:, : axis + 1].prod(1)
    within = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    shapes = shapes.copy()
    shapes[:, axis] = count
    return values[within % np.repeat(stored, sizes) < count], shapes


def _as_list(values: Sequence[Any] | pa.Array) -> list[Any]:
    return list(values.to_pylist()) if isinstance(values, pa.Array) else list(values)


def _as_array(values: Sequence[Any] | pa.Array, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)
