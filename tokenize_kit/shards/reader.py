"""Reading a shard set: memory-mapped, zero-copy, in sample order.

`ShardSet` gives single records (for decoding and looking) and the flat arrays under them (for training). It never copies
the ids of a local shard set; a remote one is copied to a local cache first, since only files can be mapped. No shard is mapped
before `checked` has found that it is what was written.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenize_kit.errors import VerificationError
from tokenize_kit.files import atomic_write
from tokenize_kit.protocol import check_files, read_config
from tokenize_kit.shards.checked import cache_folder, check_shards, check_size
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

    def __init__(
        self, folder: Path, manifest: Manifest, trust: bool = False, note: Callable[[str], None] | None = None
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self._note = note
        self._unchecked = set() if trust else set(range(len(manifest.files)))
        self._tables: dict[int, list[pa.RecordBatch]] = {}
        self._arrays: dict[tuple[int, str], list[StreamArray]] = {}
        self._starts = [0, *accumulate(file.rows for file in manifest.files)]

    @classmethod
    def open(
        cls, url: str | os.PathLike[str], trust: bool = False, note: Callable[[str], None] | None = None
    ) -> ShardSet:
        """Open the shard set in a folder or at any fsspec URL (which is copied to the local cache first).

        Args:
            url: where it is.
            trust: do not compare the sha256 of shards when they are first used; a damaged one may then end the process.
            note: is told where so much has to be read for that that it takes a while.

        Raises:
            FileNotFoundError: there is no such folder, or a shard of it is missing.
            ValueError: it is not a finished shard set.
            VerificationError: its manifest is not what was written, a shard has not the size that was written, or the tokenizer
                that travels with it is not the one that made it.
        """
        folder = local_folder(url, trust)
        manifest = read_manifest(folder)
        for file in manifest.files:
            check_size(folder, file)
        for name in manifest.streams:
            if problem := carried_problem(folder, manifest, name):
                raise VerificationError(f"{folder}: {problem}; restore {MANIFEST_FILE} or that folder from a copy")
        return cls(folder, manifest, trust, note)

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

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Return one sample, as `record` does, or those of a slice."""
        if isinstance(index, slice):
            return [self.record(number) for number in range(*index.indices(self.num_rows))]
        return self.record(index)

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to open the same set: not what is mapped here."""
        return {**self.__dict__, "_tables": {}, "_arrays": {}, "_note": None}

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
        self._check(self._unchecked)
        return [array for file in range(len(self.files)) for array in self._file_arrays(file, name)]

    def column(self, name: str) -> pa.ChunkedArray:
        """Return an extra column, or ``key``, over all samples.

        Raises:
            ValueError: there is no such column.
        """
        if name not in (KEY, *self.columns):
            raise ValueError(f"{self.folder} has no column {name!r}; it has {', '.join((KEY, *self.columns))}")
        self._check(self._unchecked)
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
        """Return the record batches of shard number ``file``, mapped into memory; its sha256 is compared at the first time.

        Raises:
            ValueError: the file is no Arrow file or has other columns than the manifest says.
            VerificationError: it is not what was written.
        """
        self._check(self._unchecked & {file})
        if file not in self._tables:
            path = self.folder / self.files[file].name
            self._tables[file] = read_batches(path, self.manifest.schema)
        return self._tables[file]

    def _check(self, files: Collection[int]) -> None:
        """Compare the hashes of shards that this set has not used yet, several at a time."""
        if files:
            check_shards(self.folder, [self.files[file] for file in sorted(files)], self._note)
            self._unchecked = self._unchecked.difference(files)

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


def carried_problem(folder: Path, manifest: Manifest, name: str) -> str:
    """Return what is wrong with the copy of a stream's tokenizer, by what that says of itself: its package may not be installed
    here. Nothing if there is none, or if it is damaged: whoever loads it is told.
    """
    try:
        config = read_config(folder / TOKENIZERS_FOLDER / name)
    except (ValueError, FileNotFoundError):
        return ""
    stream = manifest.streams[name]
    differs = stream.unlike(config["tokenizer"], config["fingerprint"], config["spec"])
    return f"{TOKENIZERS_FOLDER}/{name} is not what {MANIFEST_FILE} says of it ({differs})" if differs else ""


def local_folder(url: str | os.PathLike[str], trust: bool = False) -> Path:
    """Return the folder of a shard set; a remote one is copied into the local cache first.

    Args:
        url: a folder or an fsspec URL.
        trust: take what is in the cache already by its size alone.
    """
    text = os.fspath(url)
    if is_remote(text):
        return _cached_copy(text.rstrip("/"), trust)
    return Path(text.split("://", 1)[1] if "://" in text else text)


def is_remote(url: str | os.PathLike[str]) -> bool:
    """Return whether a shard set is a URL of another place than the disks of this machine."""
    text = os.fspath(url)
    return "://" in text and not text.startswith(("file://", "local://"))


def _cached_copy(url: str, trust: bool) -> Path:
    """Copy a remote shard set into the local cache and return that folder; what is there already is not fetched again."""
    import fsspec

    filesystem, root = fsspec.core.url_to_fs(url)
    try:
        manifest_bytes = filesystem.cat_file(f"{root}/{MANIFEST_FILE}")
    except FileNotFoundError:
        raise FileNotFoundError(f"no shard set at {url}: it has no {MANIFEST_FILE}") from None
    home = cache_folder()
    if home is None:
        raise OSError(f"there is no place for a copy of {url}; set TOKENIZE_KIT_CACHE to a folder")
    digest = hashlib.sha256(url.encode() + b"\0" + manifest_bytes).hexdigest()[:32]
    folder = (home / "shards" / digest).resolve()
    with atomic_write(folder / MANIFEST_FILE) as target:
        target.write(manifest_bytes)
    manifest = read_manifest(folder)
    for file in manifest.files:
        if _is_kept(folder, file, trust):
            continue
        _fetch(filesystem, f"{root}/{file.name}", folder / file.name)
        try:
            check_shards(folder, [file])
        except VerificationError:
            (folder / file.name).unlink()
            raise VerificationError(
                f"{url}/{file.name} has not the size or sha256 that its {MANIFEST_FILE} says; it is damaged there"
            ) from None
    # The tokenizers that travel with the shards; whoever loads one is told if it is damaged there.
    whole = {name for name in manifest.streams if _is_whole(folder / TOKENIZERS_FOLDER / name)}
    for found in filesystem.find(f"{root}/{TOKENIZERS_FOLDER}"):
        path = folder / found[found.rindex(f"/{TOKENIZERS_FOLDER}/") + 1 :]
        kept = path.is_file() and path.relative_to(folder).parts[1] in whole
        if not kept and folder in path.resolve().parents:
            _fetch(filesystem, found, path)
    return folder


def _is_kept(folder: Path, file: FileEntry, trust: bool) -> bool:
    """Return whether a shard of a remote set is in the cache, whole."""
    try:
        if trust:
            check_size(folder, file)
        else:
            check_shards(folder, [file])
    except (FileNotFoundError, VerificationError):
        return False
    return True


def _is_whole(tokenizer: Path) -> bool:
    try:
        check_files(tokenizer)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _fetch(filesystem: Any, name: str, path: Path) -> None:
    with atomic_write(path) as target, filesystem.open(name, "rb") as source:
        while block := source.read(1 << 22):
            target.write(block)
