"""The program that decodes parquet files, run as a script in a process of its own by `parquet_process`.

The Arrow library dies on some damaged files (an assertion, a division by zero, an endless loop) and takes as much memory as a
few bytes of a header ask for, and takes the whole process with it. Here it may: this process has nothing else to lose. It
imports the standard library and pyarrow only, so that it starts quickly and stands alone.

Messages in both directions are a byte that says what it is, eight for the length, and the content:

    to it       ``f`` a file to open (JSON)    ``w`` what is wanted of it (JSON)    ``d`` bytes of a remote file
    from it     ``r`` ready    ``s`` the schema (Arrow)    ``j`` facts (JSON)    ``b`` rows (an Arrow stream)
                ``n`` a row group is done (JSON)    ``l`` the rest of one is lost (JSON)    ``x`` the file cannot be read (JSON)
                ``g`` get bytes of it (JSON)    ``.`` the end; with any content the process is to be replaced
"""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

HEADER = struct.Struct("<cQ")

CHUNK_FACTOR = 3
"""Memory for a byte that the columns have in the file: a page as it lies there, the same decompressed, and its values."""
SECOND_BYTES = 8 << 20
"""For so many bytes that the columns have in the file there is a second of computing until the next rows come."""

# A parquet file begins and ends with it.
_MAGIC = b"PAR1"
_SMALLEST = 12
_BUFFER_BYTES = 1 << 20
# Joined files are looked for in so many bytes at most.
_LOOK_BYTES = 64 << 20
_WORDS = 400


class Connection:
    """Messages over two pipes."""

    def __init__(self, receiving: int, sending: int) -> None:
        self._receiving, self._sending = receiving, sending

    def receive(self) -> tuple[bytes, bytes]:
        """Return the next message; the process ends with the connection."""
        kind, size = HEADER.unpack(self._exactly(HEADER.size))
        return kind, self._exactly(size)

    def send(self, kind: bytes, data: Any = b"") -> None:
        """Send a message: bytes, an Arrow buffer, or something for JSON."""
        content = memoryview(json.dumps(data).encode() if isinstance(data, (dict, list)) else data)
        try:
            for part in (memoryview(HEADER.pack(kind, len(content))), content):
                done = 0
                while done < len(part):
                    done += os.write(self._sending, part[done:])
        except OSError:
            os._exit(0)  # nobody listens any more

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self._receiving, min(size, _BUFFER_BYTES))
            if not part:
                os._exit(0)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class _Remote(io.RawIOBase):
    """A file that the other process has open."""

    def __init__(self, connection: Connection, size: int) -> None:
        self._connection, self._size, self._place = connection, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._place)
        size = left if size is None or size < 0 else min(size, left)
        if not size:
            return b""
        self._connection.send(b"g", [self._place, size])
        _, data = self._connection.receive()
        self._place += len(data)
        return data


def serve(connection: Connection) -> None:
    """Open and read one file after another until the other end is closed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Threads would take memory that no page accounts for, and what fails first would be up to chance.
    pa.set_cpu_count(1)
    connection.send(b"r")
    while True:
        place = json.loads(connection.receive()[1])
        pa.default_memory_pool().release_unused()
        _allow(place, 0)
        try:
            with _opened(connection, place) as file:
                # The checksums of pages are compared where the writer left some.
                table = pq.ParquetFile(
                    file, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
                )
                sizes, rows = check_footer(table.metadata, file)
                connection.send(b"s", table.schema_arrow.remove_metadata().serialize())
                connection.send(b"j", {"rows": rows, "sizes": sizes})
                wanted = json.loads(connection.receive()[1])
                for group in range(wanted["start"], len(rows) if wanted["stop"] is None else wanted["stop"]):
                    _send_group(connection, table, group, wanted | place)
        except Exception as error:
            connection.send(b"x", {"reason": _words(error), "errno": _machine(error)})
        # A heap that has grown is not always given back, and the next file would be refused for it.
        connection.send(b".", b"" if _held() < place["memory"] // 2 else b"tired")


def _opened(connection: Connection, place: Mapping[str, Any]) -> pa.NativeFile:
    import pyarrow as pa

    path = place["path"]
    if path is None:
        return pa.PythonFile(_Remote(connection, place["size"]), "r")
    try:
        path.encode()
    except UnicodeEncodeError:  # not UTF-8, which Arrow does not take
        return pa.PythonFile(open(path, "rb"), "r")  # noqa: PTH123
    return pa.OSFile(path)


def check_footer(metadata: pq.FileMetaData, file: pa.NativeFile) -> tuple[list[int], list[int]]:
    """Return the compressed sizes and the rows of the row groups.

    Raises:
        ValueError: the footer contradicts itself or the file; Arrow would read fewer rows without a word.
    """
    length = file.size()
    file.seek(0)
    if (start := file.read(len(_MAGIC))) != _MAGIC:
        raise ValueError(f"it begins with {start.hex(' ')}, not with PAR1")
    sizes, rows = [], []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        parts = [group.column(column).total_compressed_size for column in range(group.num_columns)]
        if group.num_rows < 0 or any(not 0 <= part <= length for part in parts):
            raise ValueError(
                f"its footer is damaged: row group {number} has {group.num_rows} rows in {sum(parts)} bytes"
            )
        sizes.append(sum(parts))
        rows.append(group.num_rows)
    if sum(rows) != metadata.num_rows:
        raise ValueError(f"its footer is damaged: {metadata.num_rows} rows, but {sum(rows)} in its row groups")
    footer = metadata.serialized_size + 8
    other = length - len(_MAGIC) - footer - sum(sizes)
    if other < 0:
        raise ValueError(f"its footer is damaged: columns of {sum(sizes)} bytes in a file of {length}")
    if other >= _SMALLEST and (end := _joined(file, min(other + footer, length - footer, _LOOK_BYTES))):
        raise ValueError(f"it is several files joined: one ends at byte {end}, and the footer is that of the last")
    return sizes, rows


def _joined(file: pa.NativeFile, length: int) -> int | None:
    """Return where one parquet file ends and another begins within the first bytes, if that is so."""
    file.seek(0)
    data = file.read(length)
    place = data.find(_MAGIC * 2, _SMALLEST - len(_MAGIC))
    while place >= 0:
        # What stands before it is the length of a footer, if this is no text about parquet.
        if 0 < int.from_bytes(data[place - 4 : place], "little") <= place - 8:
            return int(place) + len(_MAGIC)
        place = data.find(_MAGIC * 2, place + 1)
    return None


def _send_group(connection: Connection, table: pq.ParquetFile, number: int, wanted: Mapping[str, Any]) -> None:
    """Send the rows of a row group; if it is damaged, how many of them are lost."""
    names = list(dict.fromkeys(name for name, _ in wanted["columns"]))
    rows = given = 0
    try:
        group = table.metadata.row_group(number)
        rows = group.num_rows
        chunks = _flat_chunks(table.metadata, group, names)
        for chunk in chunks:
            if chunk.num_values != rows:
                raise ValueError(f"row group {number} has {rows} rows, its {chunk.path_in_schema!r} {chunk.num_values}")
        disk = sum(chunk.total_compressed_size for chunk in chunks)
        each = sum(max(0, chunk.total_uncompressed_size) for chunk in chunks) // max(1, rows) + 1
        count = max(1, min(wanted["rows"], wanted["bytes"] // each))
        _allow(wanted, disk)
        while given < rows:
            before = given
            try:
                for batch in _batches(table, number, names, count, given):
                    for part in _parts(batch, wanted["columns"], 2 * wanted["bytes"]):
                        connection.send(b"b", _stream(part))
                        given += part.num_rows
                        _allow(wanted, disk)
            except MemoryError:
                # Values that stand once in the file and in many rows: take fewer at a time.
                if count == 1:
                    raise
                count = max(1, count // 16)
                continue
            if given == before:
                break
        if given != rows:
            raise ValueError(f"row group {number} holds {given} of its {rows} rows")
    except Exception as error:
        if _machine(error) is not None:
            raise
        connection.send(b"l", {"group": number, "rows": max(1, rows - given), "reason": _words(error)})
    else:
        connection.send(b"n", {"group": number})


def _flat_chunks(metadata: pq.FileMetaData, group: Any, names: Sequence[str]) -> list[Any]:
    """Return the column chunks of what is wanted that have one value a row."""
    found = []
    for number in range(group.num_columns):
        column = metadata.schema.column(number)
        if column.max_repetition_level == 0 and any(f"{column.path}.".startswith(f"{name}.") for name in names):
            found.append(group.column(number))
    return found


def _batches(
    table: pq.ParquetFile, group: int, names: Sequence[str], count: int, skip: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a group behind the first ``skip``, ``count`` at a time."""
    for batch in table.iter_batches(count, row_groups=[group], columns=names, use_threads=False):
        if skip < batch.num_rows:
            batch.validate()
            yield batch.slice(skip)
        skip = max(0, skip - batch.num_rows)


def _parts(batch: pa.RecordBatch, columns: Sequence[Sequence[str]], most: int) -> Iterator[pa.RecordBatch]:
    """Yield the columns of a batch as they are wanted, in parts of about ``most`` bytes.

    Columns are named by their number. Text and media come as large binary, whatever they were; a column that is a struct of
    ``bytes`` and ``path`` gives two, the second named ``N.path``. What else is carried along stays as it is.
    """
    import pyarrow as pa

    found: dict[str, pa.Array] = {}
    for number, (name, role) in enumerate(columns):
        array = column_at(batch, name)
        if role == "files" and pa.types.is_struct(array.type):
            for field, child in zip(array.type, array.flatten(), strict=True):
                if field.name in ("bytes", "path"):
                    found[str(number) if field.name == "bytes" else f"{number}.path"] = child
        else:
            found[str(number)] = array
    if batch.num_rows > 1 and sum(map(_decoded_bytes, found.values())) > most:
        half = batch.num_rows // 2
        yield from _parts(batch.slice(0, half), columns, most)
        yield from _parts(batch.slice(half), columns, most)
        return
    part = pa.RecordBatch.from_pydict({name: _plain(array) for name, array in found.items()})
    part.validate(full=True)
    yield part


def column_at(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column, also one inside structs: ``meta.text``. A column of that very name goes before it."""
    rest = [] if name in batch.schema.names else name.split(".")
    array = batch.column(rest[0] if rest else name)
    for step in rest[1:]:
        array = array.flatten()[array.type.get_field_index(step)]
    return array


def _decoded_bytes(array: pa.Array) -> int:
    """Return about how many bytes an array has without a dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(array.type):
        return int(array.nbytes)
    if not (is_text(array.type.value_type) or is_bytes(array.type.value_type)):
        return 8 * len(array)
    lengths = pc.binary_length(array.dictionary).take(array.indices)
    return int(pc.sum(lengths).as_py() or 0) + 8 * len(array)


def _plain(array: pa.Array) -> pa.Array:
    """Return an array without a dictionary, texts as bytes: which of them are UTF-8 is asked row by row."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    if is_text(array.type) or is_bytes(array.type):
        array = array.cast(pa.large_binary())
    return array


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of the strings."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type is one of the binaries."""
    import pyarrow as pa

    large = pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return bool(large or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _stream(batch: pa.RecordBatch) -> pa.Buffer:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _allow(limits: Mapping[str, Any], disk: int) -> None:
    """Bound memory and computing time until the next call, for columns that have so many bytes in the file."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_DATA, limits["memory"] + CHUNK_FACTOR * disk)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + limits["seconds"] + disk // SECOND_BYTES)


def _held() -> int:
    """Return about how many bytes `_allow` counts; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError:
        return 0


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    with suppress(ValueError, OSError):
        resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _machine(error: Exception) -> int | None:
    """Return the number of an error of the machine, such as a disk that fails; None if it is about the file."""
    code = getattr(error, "errno", None)
    # A damaged footer makes Arrow look at places that no file has.
    return None if code in (errno.EINVAL, errno.EOVERFLOW, errno.EFBIG, errno.ENOMEM) else code


def _words(error: Exception) -> str:
    """Return what an error says, as one line that is not too long."""
    if isinstance(error, MemoryError):
        return "it takes more memory to read than its size allows"
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _WORDS else words[:_WORDS] + "..."


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def main() -> None:
    """Serve the process that started this one: standard input, and the pipe whose number is the first argument.

    The second argument is where modules are looked for.
    """
    # The terminal sends Ctrl-C to all processes; the one above says when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit(resource.RLIMIT_CORE, 0)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    sys.path[:] = json.loads(sys.argv[2])
    sys.modules["numpy"] = None  # type: ignore[assignment]  # Arrow does without, and starts in half the time
    serve(Connection(0, int(sys.argv[1])))


if __name__ == "__main__":
    main()
