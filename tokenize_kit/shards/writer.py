"""Writing one shard: rows go in, a whole, synced and hashed Arrow IPC file appears.

The digest is taken while the bytes are written, so a shard is never read a second time.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenize_kit.files import atomic_write
from tokenize_kit.shards.format import COLUMN_TYPES, SHAPE_SUFFIX, SIZE_SUFFIX, FileEntry, StreamInfo, shard_schema

Ids: TypeAlias = NDArray[np.unsignedinteger[Any]] | NDArray[np.int64]


class ShardWriter:
    """Collects one shard; use `open_shard` to make one, and read `entry` when its block has ended."""

    def __init__(self, file: IO[bytes], name: str, streams: Sequence[StreamInfo], columns: Mapping[str, str]) -> None:
        self._sink = _HashingFile(file)
        self._name = name
        self._streams = list(streams)
        self._columns = dict(columns)
        self._schema = shard_schema(self._streams, self._columns)
        self._rows = 0
        self._tokens = {stream.name: 0 for stream in self._streams}
        # No compression: a compressed buffer cannot be mapped into memory.
        self._writer = pa.ipc.new_file(pa.PythonFile(self._sink, mode="w"), self._schema)

    def write(
        self,
        keys: pa.Array | Sequence[str],
        ids: Mapping[str, tuple[Ids, NDArray[np.integer[Any]]]],
        columns: Mapping[str, pa.Array | Sequence[Any]],
    ) -> None:
        """Add rows as one record batch.

        Args:
            keys: one key a row.
            ids: for each stream its ids, flat, and the shapes of its grids, (rows, axes); where its spec has ``size_axes``
                the true sizes of the samples stand beside the shapes, (rows, axes + size_axes).
            columns: for each extra column one value a row, None where it is missing.

        Raises:
            ValueError: an id is outside the stream's vocabulary, or the shapes do not cover the ids.
        """
        keys = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
        if len(keys) == 0:
            return
        arrays: list[pa.Array] = [keys]
        for stream in self._streams:
            values, shapes = ids[stream.name]
            arrays += _ragged(stream, values, shapes, len(keys))
            self._tokens[stream.name] += len(values)
        for name, kind in self._columns.items():
            values_ = columns[name]
            arrays.append(values_ if isinstance(values_, pa.Array) else pa.array(values_, COLUMN_TYPES[kind]))
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._rows += len(keys)

    @property
    def rows(self) -> int:
        """Rows written so far."""
        return self._rows

    @property
    def tokens(self) -> dict[str, int]:
        """Ids written so far, of each stream."""
        return dict(self._tokens)

    @property
    def entry(self) -> FileEntry:
        """What `dataset.json` says of this shard, once it is closed."""
        return FileEntry(self._name, self._rows, dict(self._tokens), self._sink.hexdigest(), self._sink.size)

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()


@contextmanager
def open_shard(
    path: str | os.PathLike[str],
    streams: Sequence[StreamInfo],
    columns: Mapping[str, str],
    *,
    durable_name: bool = True,
) -> Iterator[ShardWriter]:
    """Open a shard for writing; it appears at ``path``, whole and synced, when the block ends without an error.

    ``durable_name`` is that of `tokenize_kit.files.atomic_write`.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind then.
    """
    with atomic_write(path, durable_name=durable_name) as file:
        writer = ShardWriter(file, Path(path).name, streams, columns)
        yield writer
        writer.close()


def _ragged(stream: StreamInfo, values: Ids, shapes: NDArray[np.integer[Any]], rows: int) -> list[pa.Array]:
    joined = np.asarray(shapes).reshape(rows, stream.num_axes + stream.spec.size_axes)
    shapes, sizes = joined[:, : stream.num_axes], joined[:, stream.num_axes :]
    lengths = np.prod(shapes.astype(np.int64), axis=1)
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if offsets[-1] != len(values) or (shapes < 0).any() or (shapes > np.iinfo(np.int32).max).any():
        raise ValueError(f"the shapes of stream {stream.name!r} cover {offsets[-1]} ids, but there are {len(values)}")
    if len(values):
        # Also what keeps an id from wrapping around in the narrower dtype.
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= stream.spec.max_vocab_size:
            wrong = low if low < 0 else high
            raise ValueError(
                f"the tokenizer of stream {stream.name!r} gave the id {wrong}, "
                f"outside its vocabulary of {stream.spec.max_vocab_size}"
            )
    narrow = np.ascontiguousarray(values, dtype=np.dtype(stream.dtype))
    schema = shard_schema([stream], {})
    ids = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(narrow), type=schema.field(stream.name).type)
    arrays = [ids, _fixed(shapes, schema.field(stream.name + SHAPE_SUFFIX).type)]
    if stream.spec.size_axes:
        arrays.append(_fixed(sizes, schema.field(stream.name + SIZE_SUFFIX).type))
    return arrays


def _fixed(rows: NDArray[np.integer[Any]], kind: pa.DataType) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(rows, dtype=np.int32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)


class _HashingFile(io.RawIOBase):
    """Passes bytes on to a file and digests them on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._file.write(data)
        self._digest.update(data)
        length = memoryview(data).nbytes
        self.size += length
        return length

    def tell(self) -> int:
        return self.size

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
