"""Text documents out of files: txt, jsonl and parquet, each also as gz or zst, in bounded memory and in a fixed order.

A txt file is one document; one that is larger than ``max_document_bytes`` comes in pieces that end after a newline where
there is one, and no character is lost. Keys, captions and the failure ledger of the encode pipeline are not here but in
`tokenize_kit.media.sources`.
"""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

MAX_DOCUMENT_BYTES = 16 * 2**20
"""A longer txt file is cut; a longer line of a jsonl file, or value of a parquet column, is given whole."""

MAX_LINE_BYTES = 2**30
"""A jsonl line above this is refused: the file is most likely not jsonl, and would fill the memory."""

TEXT_SUFFIXES = (".txt", ".text", ".md")
JSON_SUFFIXES = (".jsonl", ".ndjson")
PARQUET_SUFFIXES = (".parquet",)
COMPRESSIONS = (".gz", ".zst")


def iter_documents(
    paths: Sequence[str | os.PathLike[str]],
    field: str = "text",
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
) -> Iterator[str]:
    """Yield the documents of files, folders, globs and fsspec URLs, file by file in the order of `list_files`.

    Args:
        paths: what to read; see `list_files`.
        field: the field of a jsonl object, or the column of a parquet file, that holds the text. A null is no document.
        max_document_bytes: where a txt file is cut, in bytes.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a line is not JSON, the field is missing, or bytes are not UTF-8; names the file and the place.
    """
    for name in list_files(paths):
        yield from documents_of_file(name, field, max_document_bytes)


def list_files(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the files that ``paths`` name: a folder gives its text files (sorted, recursive), a glob what it matches.

    A file that is named outright is taken whatever its suffix; an unknown one is read as txt.

    Raises:
        FileNotFoundError: a path does not exist, a folder has no text file, or a glob matches nothing.
    """
    found: list[str] = []
    for given in paths:
        name = os.fspath(given)
        if "://" in name:
            found.append(name)
        elif Path(name).is_file():
            found.append(name)
        elif Path(name).is_dir():
            inside = [path for path in Path(name).rglob("*") if _kind(path.name)[0] is not None and path.is_file()]
            if not inside:
                raise FileNotFoundError(f"{name} holds no txt, jsonl or parquet file (gz and zst of them are read too)")
            found.extend(str(path) for path in sorted(inside))
        elif glob.has_magic(name):
            matched = sorted(match for match in glob.glob(name, recursive=True) if Path(match).is_file())
            if not matched:
                raise FileNotFoundError(f"nothing matches {name}")
            found.extend(matched)
        else:
            raise FileNotFoundError(f"no file or folder at {name}")
    return found


def documents_of_file(
    name: str | os.PathLike[str], field: str = "text", max_document_bytes: int = MAX_DOCUMENT_BYTES
) -> Iterator[str]:
    """Yield the documents of one file; the suffix decides how it is read, see `iter_documents`."""
    name = os.fspath(name)
    kind, _ = _kind(PurePosixPath(name).name)
    with open_decompressed(name) as file:
        if kind == "json":
            yield from _json_documents(file, name, field)
        elif kind == "parquet":
            yield from _parquet_documents(file, name, field)
        else:
            yield from text_pieces(file, name, max_document_bytes)


def text_pieces(file: IO[bytes], name: str, max_document_bytes: int = MAX_DOCUMENT_BYTES) -> Iterator[str]:
    """Yield the UTF-8 text of ``file`` in pieces of at most ``max_document_bytes``, each cut after a newline if it has one.

    A piece without a newline is cut between two characters. An empty file gives nothing.

    Raises:
        ValueError: the bytes are not UTF-8; names ``name`` and the offset, in bytes, of the first wrong one.
    """
    if max_document_bytes < 4:
        raise ValueError(f"max_document_bytes {max_document_bytes} is below 4, the length of one character")
    rest = b""
    offset = 0
    while True:
        data = rest + _read_exactly(file, max_document_bytes - len(rest), name)
        last = len(data) < max_document_bytes
        # A file that ends exactly here leaves an empty last piece, which is not given.
        end = len(data) if last else (data.rfind(b"\n") + 1 or _character_boundary(data))
        try:
            piece = data[:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name} is not UTF-8: {error.reason} at byte {offset + error.start}; convert it, for example with iconv"
            ) from None
        if piece:
            yield piece
        if last:
            return
        rest = data[end:]
        offset += end


@contextmanager
def open_decompressed(name: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a local file or fsspec URL for reading, through gzip or zstandard if its suffix says so.

    Raises:
        FileNotFoundError: it does not exist.
    """
    name = os.fspath(name)
    with _open(name) as raw:
        if name.endswith(".gz"):
            with gzip.open(raw, "rb") as file:
                yield file  # type: ignore[misc]
        elif name.endswith(".zst"):
            import zstandard

            # Frames are simply joined by parallel compressors, so read across all of them.
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            with io.BufferedReader(reader, buffer_size=2**20) as file:
                yield file
        else:
            yield raw


@contextmanager
def _open(name: str) -> Iterator[IO[bytes]]:
    if "://" not in name:
        with Path(name).open("rb") as file:
            yield file
        return
    import fsspec

    with fsspec.open(name, "rb") as file:
        yield file


def _kind(name: str) -> tuple[str | None, str]:
    """Return what a file name says of its content ("text", "json", "parquet" or None) and its compression suffix."""
    compression = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    suffix = Path(name.removesuffix(compression)).suffix.lower()
    for kind, suffixes in (("text", TEXT_SUFFIXES), ("json", JSON_SUFFIXES), ("parquet", PARQUET_SUFFIXES)):
        if suffix in suffixes:
            return kind, compression
    return None, compression


def _json_documents(file: IO[bytes], name: str, field: str) -> Iterator[str]:
    number = 0
    while line := _read_line(file, name, number + 1):
        number += 1
        if line.isspace():
            continue
        place = f"{name}, line {number}"
        try:
            value = json.loads(line)
        except UnicodeDecodeError as error:
            raise ValueError(f"{place}: not UTF-8: {error.reason} at byte {error.start} of the line") from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{place}: not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ValueError(f"{place}: a JSON {type(value).__name__}, expected an object with the field {field!r}")
        if field not in value:
            raise ValueError(f"{place}: no field {field!r}; it has {', '.join(sorted(value)) or 'none'}")
        text = value[field]
        if text is None:
            continue
        if not isinstance(text, str):
            raise ValueError(f"{place}: field {field!r} is a JSON {type(text).__name__}, expected a string")
        # JSON may escape half of a surrogate pair, which is no character and has no UTF-8 form.
        if not text.isascii() and (wrong := lone_surrogate(text)) is not None:
            raise ValueError(f"{place}: field {field!r} has a lone surrogate at character {wrong}; remove or repair it")
        yield text


def _parquet_documents(file: IO[bytes], name: str, field: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # A compressed parquet file has to be read whole: its directory is at the end.
        table = pq.ParquetFile(pa.BufferReader(file.read()) if name.endswith(COMPRESSIONS) else file)
    except (pa.ArrowException, OSError, zlib.error, EOFError) as error:
        raise ValueError(f"{name} is not a readable parquet file: {error}") from None
    schema = table.schema_arrow
    if field not in schema.names:
        raise ValueError(f"{name}: no column {field!r}; it has {', '.join(schema.names)}")
    kind = schema.field(field).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise ValueError(f"{name}: column {field!r} is {kind}, expected a string")
    row = 0
    try:
        for batch in table.iter_batches(batch_size=1024, columns=[field]):
            for scalar in batch.column(0):
                try:
                    text: Any = scalar.as_py()
                except UnicodeDecodeError as error:
                    place = f"{name}, row {row}, column {field!r}"
                    raise ValueError(f"{place}: not UTF-8: {error.reason} at byte {error.start}") from None
                row += 1
                if text is not None:
                    yield text
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{name} is damaged after row {row}: {error}") from None


def lone_surrogate(text: str) -> int | None:
    """Return the index of the first lone surrogate in ``text``, which UTF-8 cannot hold; None if there is none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def _character_boundary(data: bytes) -> int:
    """Return where to cut ``data`` so that an unfinished last UTF-8 character stays in the rest."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            return len(data)
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if length > back else len(data)
    return len(data)


def _read_exactly(file: IO[bytes], size: int, name: str) -> bytes:
    """Read ``size`` bytes, fewer only at the end: decompressors and remote files may return less at a time."""
    parts: list[bytes] = []
    while size > 0:
        part = _guarded(file.read, size, name)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _read_line(file: IO[bytes], name: str, number: int) -> bytes:
    line = _guarded(file.readline, MAX_LINE_BYTES, name)
    if len(line) >= MAX_LINE_BYTES:
        raise ValueError(f"{name}, line {number}: longer than {MAX_LINE_BYTES} bytes; is this a jsonl file?")
    return line


def _guarded(read: Any, size: int, name: str) -> bytes:
    """Read, and turn the decompressors' errors into one that names the file."""
    import zstandard

    try:
        data = read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{name} is damaged: {error}; decompress it by hand to see how much is left") from None
    assert isinstance(data, bytes)
    return data
