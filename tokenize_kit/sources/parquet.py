"""Samples out of the rows of parquet files, which `parquet_process` decodes in another process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenize_kit.media.text import read_text
from tokenize_kit.modalities import modality_named
from tokenize_kit.sources.blocks import (
    COLUMN_TYPES,
    MAX_BLOCK_BYTES,
    MAX_BLOCK_SAMPLES,
    Collector,
    Content,
    SampleBlock,
    add_long_text,
    fits,
    one_line,
    text_name,
)
from tokenize_kit.sources.parquet_columns import wanted_columns, word_of
from tokenize_kit.sources.parquet_process import Lost, UnreadableError, Wanted, open_parquet
from tokenize_kit.sources.parts import MissingPartError, text_of, value_at
from tokenize_kit.sources.planning import Piece, ReadOptions, Source
from tokenize_kit.sources.rows import check_parts, columns_of

MAX_BLOCK_ROWS = 1 << 16
"""A block has so many texts at most: what a column takes in the file need not be what its values take."""


def read_parquet(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read row groups of a parquet file; the key of a sample is the number of its row."""
    try:
        with open_parquet(piece.url) as table:
            groups = table.facts.rows[piece.start : piece.stop]
            row, rows = sum(table.facts.rows[: piece.start]), sum(groups)
            if len(table.facts.rows) < (piece.stop or (piece.start and piece.start + 1)):
                out.fail(piece.key, "it has fewer row groups than when the run began; the rest of the file")
            if not rows:
                return
            try:
                wanted = wanted_columns(table.facts.schema, options)
            except ValueError as error:
                out.size += piece.size
                out.fail(piece.key, f"{one_line(error)}; none of its {rows:,} rows is read", rows)
                return
            most = MAX_BLOCK_ROWS if options.text_only else MAX_BLOCK_SAMPLES
            for batch in table.read(wanted, piece.start, piece.start + len(groups), most, MAX_BLOCK_BYTES):
                count = batch.rows if isinstance(batch, Lost) else batch.num_rows
                size = piece.size * count // rows
                if isinstance(batch, Lost):
                    out.size += size
                    out.fail(f"{piece.key}@{row}", f"{count:,} rows from here on cannot be read: {batch.reason}", count)
                    yield out.take()
                else:
                    yield _block(piece.key, row, batch, wanted, size, options, out)
                row += count
    except UnreadableError as error:
        out.size += piece.size
        out.fail(piece.key, f"the file is damaged: {one_line(error)}; a whole file")


def _block(
    key: str,
    row: int,
    batch: pa.RecordBatch,
    wanted: Sequence[Wanted],
    size: int,
    options: ReadOptions,
    out: Collector,
) -> SampleBlock:
    block = _fast_block(key, row, batch, wanted, size, options) if options.text_only else None
    if block is not None:
        return block
    out.size += size
    values = [(column, batch.column(str(place)), _paths(batch, place)) for place, column in enumerate(wanted)]
    for number in range(batch.num_rows):
        _add_row(out, f"{key}@{row + number}", values, number, options)
    return out.take()


def _paths(batch: pa.RecordBatch, place: int) -> pa.Array | None:
    """Return the names beside the bytes of files, if the column has some."""
    name = f"{place}.path"
    return batch.column(name) if name in batch.schema.names else None


def _fast_block(
    key: str, row: int, batch: pa.RecordBatch, wanted: Sequence[Wanted], size: int, options: ReadOptions
) -> SampleBlock | None:
    """Take the columns of a batch as they are; None if anything in it calls for a closer look."""
    if wanted[0].role != "strings":
        return None
    texts = batch.column("0").view(pa.large_string())
    if not fits(texts, options.max_document_bytes):
        return None
    columns: dict[str, Sequence[Any] | pa.Array] = {}
    for number, (name, kind) in enumerate(options.columns.items(), 1):
        values = batch.column(str(number))
        if pa.types.is_large_binary(values.type):
            values = values.view(pa.large_string())
        # Only what the closer look would take as well: a number in a string is no number there either.
        if wanted[number].name != name or word_of(values.type) != kind:
            return None
        try:
            values.validate(full=True)
            columns[name] = values.cast(COLUMN_TYPES[kind])
        except pa.ArrowException:
            return None
    rows = pa.array(np.arange(row, row + batch.num_rows)).cast(pa.string())
    keys = pc.binary_join_element_wise(pa.scalar(key), rows, "@")
    return SampleBlock(keys, {text_name(options): texts}, columns, size)


def _add_row(
    out: Collector,
    key: str,
    columns: Sequence[tuple[Wanted, pa.Array, pa.Array | None]],
    number: int,
    options: ReadOptions,
) -> None:
    try:
        row: dict[str, Any] = {}
        for column, values, paths in columns:
            value = values[number].as_py()
            if paths is not None and value is not None:
                value = {"bytes": value, "path": (paths[number].as_py() or b"").decode(errors="replace")}
            row.setdefault(column.name, value)
        if len(options.sources) > 1:
            check_parts({place: value_at(row, place) for place in map(options.field_of, options.sources)}, row)
        contents = {source.name: _content(row, source, options) for source in options.sources}
        carried = {
            name: read_text(value) if isinstance(value, bytes) else value
            for name, value in columns_of(row, options).items()
        }
        if options.text_only:
            add_long_text(out, key, str(contents[text_name(options)]), carried, options)
        else:
            out.add(key, contents, carried)
    except MissingPartError as error:
        out.fail(key, one_line(error), incomplete=True)
    except (ValueError, OverflowError) as error:
        out.fail(key, one_line(error))


def _content(row: dict[str, Any], source: Source, options: ReadOptions) -> Content:
    place = options.field_of(source)
    if source in options.texts:
        return text_of(row, place, values=modality_named(source.modality).takes_values)
    value = value_at(row, place)
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if not isinstance(data, bytes):
        raise ValueError(f"column {place!r} holds no bytes (only null, a path or another type)")
    return modality_named(source.modality).self_describing(str(path or ""), data)
