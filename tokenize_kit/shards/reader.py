"""Reading a shard set: memory-mapped, zero-copy, in sample order.

`ShardSet` gives single records (for decoding and looking) and the flat arrays under them (for training). It never copies
the ids of a local shard set; a remote one is copied to a local cache first, since only files can be mapped.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenize_kit.files import atomic_write, sha256_of_file
from tokenize_kit.shards.format import (
    KEY,
    MANIFEST_FILE,
    SHAPE_SUFFIX,
    SIZE_SUFFIX,
    TOKENIZERS_FOLDER,
    FileEntry,
    Manifest,
    StreamInfo,
    read_manifest,
)


@dataclass(frozen=True)
class Record:
    """One sample of a shard set."""

    key: str
    """Where the sample came from."""
    grids: dict[str, NDArray[np.unsignedinteger[Any]]]
    """The id grid of each stream, shaped, read-only, in the stored dtype."""
    columns: dict[str, Any]
    """The extra columns."""
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The true size of the sample, for each stream whose grid may cover more than it."""


@dataclass(frozen=True)
class StreamArray:
    """One stream of one record batch, flat. Row i holds ``values[offsets[i] : offsets[i + 1]]``, shaped ``shapes[i]``."""

    values: NDArray[np.unsignedinteger[Any]]
    """All ids, uint8, uint16 or uint32: a view of the mapped file."""
    offsets: NDArray[np.int64]
    """(rows + 1,): a view of the mapped file."""
    shapes: NDArray[np.int64]
    """(rows, axes)."""
    sizes: NDArray[np.int64] | None = None
    """(rows, size_axes): the true sizes of the samples, where the grids may cover more."""

    def __len__(self) -> int:
        return len(self.shapes)

    def grid(self, row: int) -> NDArray[np.unsignedinteger[Any]]:
        """Return the shaped grid of one row, a view."""
        return self.values[self.offsets[row] : self.offsets[row + 1]].reshape(self.shapes[row])


class ShardSet:
    """A finished shard set; make one with `ShardSet.open`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._tables: dict[int, list[pa.RecordBatch]] = {}
        self._arrays: dict[tuple[int, str], list[StreamArray]] = {}
        self._starts = [0, *accumulate(file.rows for file in manifest.files)]

    @classmethod
    def open(cls, url: str | os.PathLike[str]) -> ShardSet:
        """Open the shard set in a folder or at any fsspec URL (which is copied to the local cache first).

        Raises:
            FileNotFoundError: there is no such folder, or a shard of it is missing.
            ValueError: it is not a finished shard set, it is damaged, or a shard has not the size that was written.
        """
        folder = local_folder(url)
        manifest = read_manifest(folder)
        for file in manifest.files:
            check_size(folder, file)
        return cls(folder, manifest)

    @property
    def streams(self) -> dict[str, StreamInfo]:
        """The streams, in column order."""
        return self.manifest.streams

    @property
    def num_rows(self) -> int:
        """Number of samples."""
        return self._starts[-1]

    def __len__(self) -> int:
        return self.num_rows

    @property
    def num_tokens(self) -> dict[str, int]:
        """Number of ids of each stream."""
        return {name: sum(file.tokens[name] for file in self.files) for name in self.streams}

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The shards, in sample order."""
        return self.manifest.files

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the extra columns."""
        return tuple(self.manifest.columns)

    def stream_arrays(self, name: str) -> list[StreamArray]:
        """Return the flat arrays of a stream in sample order, one a record batch (a shard has one or more), zero-copy.

        Raises:
            ValueError: there is no such stream.
        """
        self._stream(name)
        return [array for file in range(len(self.files)) for array in self._file_arrays(file, name)]

    def column(self, name: str) -> pa.ChunkedArray:
        """Return an extra column, or ``key``, over all samples.

        Raises:
            ValueError: there is no such column.
        """
        if name not in (KEY, *self.columns):
            raise ValueError(f"{self.folder} has no column {name!r}; it has {', '.join((KEY, *self.columns))}")
        chunks = [batch.column(name) for file in range(len(self.files)) for batch in self.batches(file)]
        return pa.chunked_array(chunks, self.manifest.schema.field(name).type)

    def record(self, index: int) -> Record:
        """Return one sample; negative indices count from the end.

        Raises:
            IndexError: there is no such sample.
        """
        if not -self.num_rows <= index < self.num_rows:
            raise IndexError(f"no sample {index} in {self.folder}; it has {self.num_rows}")
        index %= self.num_rows
        file = bisect_right(self._starts, index) - 1
        row = index - self._starts[file]
        for number, batch in enumerate(self.batches(file)):
            if row < batch.num_rows:
                return self._record(file, number, batch, row)
            row -= batch.num_rows
        raise ValueError(f"{self.folder / self.files[file].name} has fewer rows than {MANIFEST_FILE} says; verify it")

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Yield the samples ``start`` to ``stop`` (not included) in order."""
        stop = self.num_rows if stop is None else min(stop, self.num_rows)
        for file, first in enumerate(self._starts[:-1]):
            if first >= stop or self._starts[file + 1] <= start:
                continue
            for number, batch in enumerate(self.batches(file)):
                for row in range(max(0, start - first), min(batch.num_rows, stop - first)):
                    yield self._record(file, number, batch, row)
                first += batch.num_rows

    def batches(self, file: int) -> list[pa.RecordBatch]:
        """Return the record batches of shard number ``file``, mapped into memory.

        Raises:
            ValueError: the file is no Arrow file or has other columns than the manifest says.
        """
        if file not in self._tables:
            path = self.folder / self.files[file].name
            self._tables[file] = read_batches(path, self.manifest.schema)
        return self._tables[file]

    def _file_arrays(self, file: int, name: str) -> list[StreamArray]:
        if (file, name) not in self._arrays:
            self._arrays[file, name] = [stream_array(batch, name) for batch in self.batches(file)]
        return self._arrays[file, name]

    def _record(self, file: int, number: int, batch: pa.RecordBatch, row: int) -> Record:
        return Record(
            batch.column(KEY)[row].as_py(),
            {name: self._file_arrays(file, name)[number].grid(row) for name in self.streams},
            {name: batch.column(name)[row].as_py() for name in self.columns},
            {
                name: tuple(sizes[row].tolist())
                for name in self.streams
                if (sizes := self._file_arrays(file, name)[number].sizes) is not None
            },
        )

    def _stream(self, name: str) -> StreamInfo:
        if name not in self.streams:
            raise ValueError(f"{self.folder} has no stream {name!r}; it has {', '.join(self.streams)}")
        return self.streams[name]


def read_batches(path: Path, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Map a shard and return its record batches.

    Raises:
        ValueError: the file is no Arrow file or has another schema.
    """
    # The mapping lives as long as the batches; closing frees the descriptor, so thousands of shards can be open.
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            found = reader.schema
    except (pa.ArrowInvalid, pa.ArrowSerializationError, OSError) as error:
        raise ValueError(f"{path} is not a readable shard ({error}); restore it from a copy or encode again") from None
    if not found.equals(schema):
        raise ValueError(f"{path} has other columns than {MANIFEST_FILE} says: {', '.join(found.names)}")
    return batches


def stream_array(batch: pa.RecordBatch, name: str) -> StreamArray:
    """Return the flat arrays of one stream of one record batch, without copying its ids."""
    lists = batch.column(name)
    offsets = np.frombuffer(lists.buffers()[1], np.int64)[lists.offset : lists.offset + len(lists) + 1]
    values = lists.values.to_numpy(zero_copy_only=True)
    sized = name + SIZE_SUFFIX in batch.schema.names
    sizes = _fixed_rows(batch.column(name + SIZE_SUFFIX)) if sized else None
    return StreamArray(values, offsets, _fixed_rows(batch.column(name + SHAPE_SUFFIX)), sizes)


def _fixed_rows(column: pa.Array) -> NDArray[np.int64]:
    rows: NDArray[np.int64] = column.flatten().to_numpy().reshape(len(column), column.type.list_size).astype(np.int64)
    return rows


def check_size(folder: Path, file: FileEntry) -> None:
    """Check that a shard is there and as long as the manifest says.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it has another size.
    """
    path = folder / file.name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; restore it from a copy or run 'encode' again")
    if (size := path.stat().st_size) != file.bytes:
        raise ValueError(
            f"{path} has {size} bytes, {MANIFEST_FILE} says {file.bytes}; restore it or run 'encode' again"
        )


def local_folder(url: str | os.PathLike[str]) -> Path:
    """Return the folder of a shard set; a remote one is copied into the local cache first."""
    text = os.fspath(url)
    if "://" not in text:
        return Path(text)
    if text.startswith(("file://", "local://")):
        return Path(text.split("://", 1)[1])
    return _cached_copy(text.rstrip("/"))


def _cached_copy(url: str) -> Path:
    """Copy a remote shard set into the local cache and return that folder; what is there already is not fetched again."""
    import fsspec

    filesystem, root = fsspec.core.url_to_fs(url)
    try:
        manifest_bytes = filesystem.cat_file(f"{root}/{MANIFEST_FILE}")
    except FileNotFoundError:
        raise FileNotFoundError(f"no shard set at {url}: it has no {MANIFEST_FILE}") from None
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("TOKENIZE_KIT_CACHE") or Path(caches) / "tokenize-kit"
    digest = hashlib.sha256(url.encode() + b"\0" + manifest_bytes).hexdigest()[:32]
    folder = (Path(home) / "shards" / digest).resolve()
    with atomic_write(folder / MANIFEST_FILE) as target:
        target.write(manifest_bytes)
    for file in read_manifest(folder).files:
        path = folder / file.name
        if path.is_file() and path.stat().st_size == file.bytes:
            continue
        _fetch(filesystem, f"{root}/{file.name}", path)
        if sha256_of_file(path) != file.sha256:
            path.unlink()
            raise ValueError(f"{url}/{file.name} has not the sha256 that its {MANIFEST_FILE} says; it is damaged")
    # The tokenizers that travel with the shards; each checks its own fingerprint when it is loaded.
    for name in filesystem.find(f"{root}/{TOKENIZERS_FOLDER}"):
        path = folder / name[name.rindex(f"/{TOKENIZERS_FOLDER}/") + 1 :]
        if not path.is_file() and folder in path.resolve().parents:
            _fetch(filesystem, name, path)
    return folder


def _fetch(filesystem: Any, name: str, path: Path) -> None:
    with atomic_write(path) as target, filesystem.open(name, "rb") as source:
        while block := source.read(1 << 22):
            target.write(block)
