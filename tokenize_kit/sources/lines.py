"""Samples out of txt and jsonl files.

Lines and jsonl stay in Arrow memory, so that a fast tokenizer takes them as they are; where such a block holds anything
unusual, the same block is read again sample by sample, with equal results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenize_kit.compressed import Unpacked
from tokenize_kit.media.text import read_text
from tokenize_kit.opening import open_source
from tokenize_kit.sources.blocks import (
    COLUMN_TYPES,
    Collector,
    SampleBlock,
    fits,
    one_line,
    text_name,
)
from tokenize_kit.sources.cutting import (
    LineSplitter,
    ParagraphSplitter,
    Splitter,
    cut_record,
    record_blocks,
    whole_documents,
)
from tokenize_kit.sources.json_values import BYTE_ORDER_MARK, MAX_DEPTH, parse_json_object
from tokenize_kit.sources.planning import Piece, ReadOptions
from tokenize_kit.sources.rows import add_row

MAX_LINE_BYTES = 32 << 20
"""A jsonl line above this is refused: the file is most likely not jsonl, and would fill the memory.

A line takes up to four bytes a character, several times."""

_PARSE_BYTES = 1 << 20


def read_documents(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read a txt file, whole or in parts of about ``max_document_bytes``."""
    with open_source(piece.url, piece.compression) as file:
        for document in whole_documents(file, options.max_document_bytes, piece.start, piece.stop):
            key = piece.key if document.part is None else f"{piece.key}#{document.part:05}"
            _add_text(out, key, document.data, text_name(options))
            out.size += 0 if piece.compression else len(document.data)
            if out.full:
                yield out.take()
    out.size += piece.size if piece.compression else 0


def _add_text(out: Collector, key: str, data: bytes, name: str) -> None:
    try:
        out.add(key, {name: read_text(data)}, {})
    except ValueError as error:
        out.fail(key, one_line(error))


def read_split(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read the lines or paragraphs of a txt file."""
    splitter: Splitter = LineSplitter() if options.split == "lines" else ParagraphSplitter()
    limit, name = options.max_document_bytes, text_name(options)
    for offset, data, _, size in _blocks(piece, splitter, limit):
        starts = np.concatenate([[0], splitter.starts(data)]).astype(np.int64)
        texts = _large_strings(data, np.append(starts, len(data)))
        if fits(texts, limit):
            yield SampleBlock(_offset_keys(piece.key, starts + offset), {name: texts}, {}, size)
            continue
        out.size += size
        for begin, end in zip(starts, [*starts[1:], len(data)], strict=True):
            place = offset + int(begin)
            for part in cut_record(data[begin:end], limit):
                _add_text(out, f"{piece.key}@{place}", part, name)
                place += len(part)
        yield out.take()


def _blocks(piece: Piece, splitter: Splitter, limit: int) -> Iterator[tuple[int, bytes, bool, int]]:
    """Yield offset, bytes, whether they end with a whole record, and how much input they stand for."""
    with open_source(piece.url, piece.compression) as file:
        start, stop = 0, None
        if not piece.compression:
            start = splitter.boundary(file, piece.start)
            stop = None if piece.stop is None else splitter.boundary(file, piece.stop)
            file.seek(start)
        for block in record_blocks(file, start, stop, splitter, limit):
            size = len(block.data)
            if piece.compression:
                size = cast("Unpacked", file).compressed_size(size)
            yield block.offset, block.data, block.whole, size


def _large_strings(data: bytes, offsets: NDArray[np.int64]) -> pa.Array:
    """Return the bytes between the offsets as an Arrow array over ``data`` itself; they may be no UTF-8 yet."""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


def _offset_keys(key: str, offsets: NDArray[np.int64]) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(key), pc.cast(pa.array(offsets), pa.string()), "@")


def read_jsonl(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read the objects of a jsonl file; the key of a sample is the byte at which its line begins."""
    continued = False
    for offset, data, whole, size in _blocks(piece, LineSplitter(), MAX_LINE_BYTES):
        if continued or not whole:
            # A part of a line that is too long; what follows its end is read as usual.
            if not continued:
                out.fail(f"{piece.key}@{offset}", f"the line is longer than {MAX_LINE_BYTES} bytes")
                yield out.take()
            cut = data.find(b"\n") + 1 if continued else 0
            continued = not cut
            offset, data = offset + cut, data[cut:] if cut else b""
        if not data:
            continue
        block = _jsonl_fast(piece.key, offset, data, size, options)
        if block is None:
            out.size += size
            begin = 0
            while begin <= len(data):
                stop = data.find(b"\n", begin)
                line = data[begin : stop if stop >= 0 else len(data)]
                _add_json_line(out, piece.key, offset + begin, line, options)
                begin += len(line) + 1
            block = out.take()
        yield block


def _jsonl_fast(key: str, offset: int, data: bytes, size: int, options: ReadOptions) -> SampleBlock | None:
    """Parse a block with Arrow; None if anything in it calls for a closer look."""
    return _parse_with_arrow(key, offset, data, size, options)


def _parse_with_arrow(key: str, offset: int, data: bytes, size: int, options: ReadOptions) -> SampleBlock | None:
    """Return what is in the lines; None if one of them is not as simple as it must be for that.

    What comes out is, to the letter, what `_add_json_line` gives for each line alone. That asks this too, where Arrow reads what
    Python does not: so no line fares better or worse because of those beside it.
    """
    import pyarrow.json as pj

    raw = np.frombuffer(data, np.uint8)
    starts = np.concatenate([[0], LineSplitter().starts(data)]).astype(np.int64)
    ends = np.append(starts[1:] - 1, len(data) - data.endswith(b"\n"))
    if (ends <= starts).any():
        return None
    last = ends - 1 - (raw[ends - 1] == 13)
    # One object a line, nothing before or after it: only then are rows and lines the same thing.
    if (raw[starts] != ord("{")).any() or (raw[last] != ord("}")).any() or b"\0" in data:
        return None
    kinds = {name: COLUMN_TYPES[kind] for name, kind in options.columns.items()}
    fields = {source.name: options.field_of(source) for source in options.texts}
    if not _plain_names([*kinds, *fields.values()]):
        return None
    if pa.float64() in kinds.values() and b"-0" in data:
        return None  # of an integer that is no float Python drops the sign
    if not fits(_large_strings(data, np.array([0, len(data)])), len(data)):
        return None
    # Arrow parses in parallel what it may divide, and a line may not be longer than two of its parts.
    longest = int((ends - starts).max()) + 2
    schema = pa.schema({**kinds, **dict.fromkeys(fields.values(), pa.large_string())})
    try:
        table = pj.read_json(
            pa.BufferReader(data),
            read_options=pj.ReadOptions(block_size=max(longest, _PARSE_BYTES)),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return None
    if len(table) != len(starts):
        return None
    # Only texts that are samples by themselves are cut.
    limit = options.max_document_bytes if options.text_only else len(data)
    texts = {name: _one_chunk(table.column(field)) for name, field in fields.items()}
    # The bytes were UTF-8, so only an escape (half of a surrogate pair) can have made something else of them.
    if not all(fits(column, limit, validate=b"\\u" in data) for column in texts.values()):
        return None
    columns: dict[str, Sequence[Any] | pa.Array] = {
        name: _one_chunk(table.column(name)).cast(kind) for name, kind in kinds.items()
    }
    return SampleBlock(_offset_keys(key, starts + offset), {**texts}, columns, size)


def _plain_names(names: Sequence[str]) -> bool:
    """Whether places are names of fields and can be nothing else, see `tokenize_kit.sources.parts`."""
    return not any("." in name or ":" in name for name in names)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _add_json_line(out: Collector, key: str, offset: int, line: bytes, options: ReadOptions) -> None:
    # Files that were joined have the mark in the middle; in JSON it means nothing anywhere.
    line = line.removeprefix(BYTE_ORDER_MARK)
    if not line.strip():
        return
    place = f"{key}@{offset}"
    try:
        value = parse_json_object(line)
    except ValueError as error:
        if not _add_with_arrow(out, key, offset, line, options):
            out.fail(place, one_line(error))
    else:
        add_row(out, place, value, options)


def _add_with_arrow(out: Collector, key: str, offset: int, line: bytes, options: ReadOptions) -> bool:
    """Add a line that only Arrow can read: it knows more words for numbers that are none, such as Inf, and nests without end."""
    if not (b"Inf" in line or b"NaN" in line or line.count(b"{") + line.count(b"[") > MAX_DEPTH):
        return False
    block = _parse_with_arrow(key, offset, line, 0, options)
    if block is None:
        return False
    texts, columns = (
        {name: cast("pa.Array", values)[0].as_py() for name, values in some.items()}
        for some in (block.contents, block.columns)
    )
    out.add(f"{key}@{offset}", texts, columns)
    return True
