"""From one unit to one shard: read, encode, write, and leave the proof that it is done.

`encode_unit` is all that a worker, or a machine of a cluster, has to run. It depends on the unit, the recipe and the
tokenizers alone, so the same bytes come out wherever and however often it runs. A unit is done when its ledger
``NNNNN.json`` stands beside its shard ``NNNNN.arrow``.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.files import canonical_json, read_json_object, write_json
from tokenize_kit.media import medium
from tokenize_kit.media.blocks import Content, one_line
from tokenize_kit.media.reading import Failure, SampleBlock, read_unit
from tokenize_kit.media.sources import ReadOptions, Unit
from tokenize_kit.shards.format import COLUMN_TYPES, FileEntry, StreamInfo
from tokenize_kit.shards.prefetch import read_ahead
from tokenize_kit.shards.writer import Ids, ShardWriter, open_shard
from tokenize_kit.tokenizer import Tokenizer, size_of

if TYPE_CHECKING:
    from tokenize_kit.tokenizer import Sample

BATCH_BYTES = 4 << 20
"""A record batch is written when it holds this many bytes of ids."""

CHUNK_BYTES = 16 << 20
CHUNK_SAMPLES = 64
"""How much is decoded and given to a tokenizer at a time, so that large pictures do not fill the memory."""

_Encoded: TypeAlias = dict[str, tuple[Ids, NDArray[np.int64]]]


@runtime_checkable
class RaggedEncoder(Protocol):
    """A text tokenizer with a fast way: many texts in, flat ids and a length for each text out."""

    def encode_ragged(self, texts: Sequence[str] | pa.Array) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode a list of ``str`` or an Arrow array of (large) strings; equal to `encode` one by one."""
        ...


@dataclass(frozen=True)
class Recipe:
    """Everything besides the units and the tokenizers' folders that determines the bytes of the shards."""

    read: ReadOptions
    streams: tuple[StreamInfo, ...]
    image_size: int | None = None
    crop: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        streams = {stream.name: stream.to_dict() for stream in self.streams}
        return {"read": self.read.to_dict(), "streams": streams, "image_size": self.image_size, "crop": self.crop}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from `to_dict`'s form."""
        streams = tuple(StreamInfo.from_dict(name, stream) for name, stream in values["streams"].items())
        return cls(ReadOptions.from_dict(values["read"]), streams, values["image_size"], values["crop"])


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
    """How many files were not of the sample rate or channels that were wanted, by what was done; see `Medium.conversion`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``NNNNN.json``."""
        failures = [{"key": failure.key, "reason": failure.reason} for failure in self.failures]
        return {**asdict(self), "failures": failures}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UnitResult:
        """Read the content of ``NNNNN.json``."""
        failures = tuple(Failure(failure["key"], failure["reason"]) for failure in values["failures"])
        file = FileEntry(**values["file"])
        conversions = dict(values.get("conversions", {}))
        return cls(int(values["unit"]), str(values["digest"]), int(values["samples"]), file, failures, conversions)


class FailureLimitError(TooManyFailuresError):
    """A unit alone has more failures than allowed; carries them for the ledger."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(f"{len(failures)} samples could not be read")
        self.failures = list(failures)


Report: TypeAlias = Callable[[int, int, int], None]
"""Called after each block with the samples, tokens and input bytes that it added."""


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
) -> UnitResult:
    """Make one shard and its ledger.

    Args:
        unit: what to read.
        tokenizers: the tokenizer of each stream.
        recipe: how to read and encode.
        out: folder of the shard set.
        limit: take only this many samples.
        max_failures: stop when more samples than this cannot be read.
        report: called after each block.

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
        ):
            rows = Rows(writer, recipe)
            for block in blocks:
                if limit is not None and len(block) > limit - samples:
                    block = block.head(limit - samples)
                before = sum(rows.tokens.values())
                failures += block.failures
                failures += encode_block(block, tokenizers, recipe, rows)
                samples += len(block)
                if report:
                    report(len(block), sum(rows.tokens.values()) - before, block.size)
                if max_failures is not None and len(failures) > max_failures:
                    raise FailureLimitError(failures)
                if samples == limit:
                    break
            rows.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message = "the disk is full; finished shards are kept, so make room and run the same command again"
            raise OSError(error.errno, message, str(path)) from None
        raise
    digest = unit_digest(unit, recipe, limit)
    result = UnitResult(
        unit.index, digest, samples, writer.entry, tuple(failures), dict(sorted(rows.conversions.items()))
    )
    write_json(ledger_path(out, unit.index), result.to_dict())
    return result


def encode_block(block: SampleBlock, tokenizers: Mapping[str, Tokenizer], recipe: Recipe, rows: Rows) -> list[Failure]:
    """Encode a block into rows; returns the failures of samples that could be read but not encoded."""
    if recipe.read.text_only and isinstance(block.contents["text"], pa.Array):
        try:
            rows.add(block.keys, encode_samples(tokenizers, {"text": block.contents["text"]}), block.columns)
            return []
        except (ValueError, TypeError):
            pass  # one of the texts is refused: find out which, below
    undecodable: list[Failure] = []
    refused: list[Failure] = []
    # While a chunk goes through a network the next one is decoded. Two lists, so that their order is always the same.
    with read_ahead(_chunks(block, recipe, undecodable, rows.conversions)) as chunks:
        for chunk in chunks:
            try:
                encoded = encode_samples(tokenizers, chunk.samples)
            except (ValueError, TypeError):
                chunk = _without_refused(chunk, tokenizers, refused)
                encoded = encode_samples(tokenizers, chunk.samples)
            rows.add(chunk.keys, encoded, chunk.columns)
    return undecodable + refused


def encode_samples(tokenizers: Mapping[str, Tokenizer], samples: Mapping[str, Sequence[Sample] | pa.Array]) -> _Encoded:
    """Encode samples, given by modality, with the tokenizer of each stream: flat ids, and shapes.

    Shapes are (samples, axes), or with the true sizes of the samples beside them (samples, axes + size_axes).
    """
    encoded: _Encoded = {}
    for name, tokenizer in tokenizers.items():
        values = samples[tokenizer.spec.modality]
        if isinstance(tokenizer, RaggedEncoder):
            ids, lengths = tokenizer.encode_ragged(values)
            encoded[name] = ids, np.asarray(lengths, np.int64)[:, None]
            continue
        grids = tokenizer.encode_batch(values.to_pylist() if isinstance(values, pa.Array) else list(values))
        axes = len(tokenizer.spec.axes)
        assert len(grids) == len(values), (
            f"the tokenizer of stream {name} gave {len(grids)} grids for {len(values)} samples"
        )
        assert all(grid.ndim == axes for grid in grids), f"the grids of stream {name} must have {axes} axes"
        flat = [grid.detach().cpu().numpy().reshape(-1) for grid in grids]
        rows = [tuple(grid.shape) for grid in grids]
        if size_axes := tokenizer.spec.size_axes:
            rows = [(*row, *size_of(sample)) for row, sample in zip(rows, values, strict=True)]
        shapes = np.array(rows, np.int64).reshape(len(grids), axes + size_axes)
        encoded[name] = np.concatenate(flat) if flat else np.zeros(0, np.int64), shapes
    return encoded


@dataclass
class _Chunk:
    """Some samples of a block, decoded."""

    keys: list[str]
    samples: dict[str, list[Sample]]
    columns: dict[str, list[Any]]

    def pick(self, places: Sequence[int]) -> _Chunk:
        return _Chunk(
            [self.keys[place] for place in places],
            {name: [values[place] for place in places] for name, values in self.samples.items()},
            {name: [values[place] for place in places] for name, values in self.columns.items()},
        )


def _chunks(block: SampleBlock, recipe: Recipe, failures: list[Failure], conversions: Counter[str]) -> Iterator[_Chunk]:
    """Decode a block chunk by chunk; samples that are not what their tokenizer wants go into ``failures``."""
    keys, columns = _as_list(block.keys), {name: _as_list(values) for name, values in block.columns.items()}
    contents = {name: _as_list(values) for name, values in block.contents.items()}
    chunk = _Chunk([], {name: [] for name in contents}, {name: [] for name in columns})
    size = 0
    for row, key in enumerate(keys):
        try:
            decoded = {name: _decode(values[row], name, recipe, conversions) for name, values in contents.items()}
        except (ValueError, TypeError) as error:
            failures.append(Failure(key, one_line(error)))
            continue
        chunk.keys.append(key)
        for name, sample in decoded.items():
            chunk.samples[name].append(sample)
            size += len(sample) if isinstance(sample, str) else sample.numel()
        for name, values in columns.items():
            chunk.columns[name].append(values[row])
        if size >= CHUNK_BYTES or len(chunk.keys) >= CHUNK_SAMPLES:
            yield chunk
            chunk = _Chunk([], {name: [] for name in contents}, {name: [] for name in columns})
            size = 0
    if chunk.keys:
        yield chunk


def _decode(content: Content, modality: str, recipe: Recipe, conversions: Counter[str]) -> Sample:
    if isinstance(content, str):
        return content
    # Streams of one modality share the sample, so their specs agree in what it must look like; the run checked that.
    spec = next(stream.spec for stream in recipe.streams if stream.spec.modality == modality)
    kind = medium(modality)
    sample = kind.read(content, spec)
    if isinstance(content, bytes) and (conversion := kind.conversion(content, spec)):
        conversions[conversion] += 1
    if recipe.image_size is not None and not isinstance(sample, str) and modality == "image":
        from tokenize_kit.media.image import resize_image

        sample = resize_image(sample, recipe.image_size, crop=recipe.crop)
    return sample


def _without_refused(chunk: _Chunk, tokenizers: Mapping[str, Tokenizer], failures: list[Failure]) -> _Chunk:
    """Return the chunk without the samples that a tokenizer refuses."""
    kept = []
    for place, key in enumerate(chunk.keys):
        try:
            encode_samples(tokenizers, chunk.pick([place]).samples)
        except (ValueError, TypeError) as error:
            failures.append(Failure(key, one_line(error)))
        else:
            kept.append(place)
    return chunk.pick(kept)


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
    ) -> None:
        """Add rows; every `BATCH_BYTES` of ids they are written."""
        if len(keys) == 0:
            return
        self._keys.append(_as_array(keys, pa.string()))
        for stream in self._recipe.streams:
            values, shapes = encoded[stream.name]
            self._ids[stream.name].append((values, shapes))
            self.tokens[stream.name] += len(values)
            self._bytes += len(values) * np.dtype(stream.dtype).itemsize
        for name, kind in self._recipe.read.columns.items():
            self._columns[name].append(_as_array(columns[name], COLUMN_TYPES[kind]))
        if self._bytes >= BATCH_BYTES:
            self.flush()

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


def _as_list(values: Sequence[Any] | pa.Array) -> list[Any]:
    return list(values.to_pylist()) if isinstance(values, pa.Array) else list(values)


def _as_array(values: Sequence[Any] | pa.Array, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)
