"""Samples out of JSON files that are not lines, and out of csv and tsv files: row by row, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, Any, cast

from tokenize_kit.compressed import Unpacked
from tokenize_kit.opening import open_source, read_exactly
from tokenize_kit.sources.blocks import Collector, SampleBlock, one_line
from tokenize_kit.sources.delimited import DelimitedReader, Row, checked_fields, typed
from tokenize_kit.sources.json_values import holds_lines, read_values
from tokenize_kit.sources.lines import read_jsonl
from tokenize_kit.sources.parts import column_of, listed
from tokenize_kit.sources.planning import Piece, ReadOptions
from tokenize_kit.sources.rows import add_row

_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff")


def read_json(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read a ``.json`` file: lines, or values of any other layout; the key of a sample is the byte at which it begins."""
    if piece.start or piece.stop is not None or _holds_lines(piece):
        yield from read_jsonl(piece, options, out)
        return
    done, empty = 0, True
    with open_source(piece.url, piece.compression) as file:
        for place in read_values(file):
            empty = False
            key = f"{piece.key}@{place.offset}"
            if place.value is None:
                out.fail(key, place.reason)
            else:
                add_row(out, key, place.value, options)
            if out.full:
                done += (size := _progress(piece, file, place.offset, done))
                out.size += size
                yield out.take()
    if empty and _blank(piece):
        out.fail(piece.key, "an empty file, and not even that is JSON; it is damaged or cut short; a whole file")
    out.size += piece.size - done


def _blank(piece: Piece) -> bool:
    with open_source(piece.url, piece.compression) as file:
        return not file.read(1 << 16).strip()


def _holds_lines(piece: Piece) -> bool:
    with open_source(piece.url, piece.compression) as file:
        return holds_lines(file)


def _progress(piece: Piece, file: IO[bytes], offset: int, done: int) -> int:
    """Return how much input was read since ``done``, by the place in what it is unpacked to."""
    read = cast("Unpacked", file).compressed_size(offset) if piece.compression else offset
    return max(0, min(read, piece.size) - done)


def read_delimited(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read a csv or tsv file; the key of a sample is the byte at which its row begins."""
    done = 0
    with open_source(piece.url, piece.compression) as file:
        if reason := _not_readable(piece):
            out.fail(piece.key, f"{reason}; a whole file")
            return
        try:
            table = DelimitedReader(file, piece.kind == "tsv")
        except ValueError as error:
            out.fail(piece.key, f"{one_line(error)}; a whole file")
            return
        if not table.columns:
            return
        places = {name: column_of(table.columns, name) for name in _wanted(options)}
        if reason := _no_column(table, places, options):
            # None of its rows can be a sample.
            rows = sum(1 for _ in table)
            if rows:
                out.fail(piece.key, reason, rows)
            return
        numbers = {name: table.columns.index(name) for name in places.values() if name is not None}
        for row in table:
            _add_fields(out, f"{piece.key}@{row.offset}", row, numbers, table.delimiter, options)
            if out.full:
                done += (size := _progress(piece, file, row.offset, done))
                out.size += size
                yield out.take()
    out.size += piece.size - done


def _not_readable(piece: Piece) -> str:
    with open_source(piece.url, piece.compression) as file:
        return "it is UTF-16; convert it to UTF-8" if read_exactly(file, 2) in _OTHER_UNICODE else ""


def _wanted(options: ReadOptions) -> list[str]:
    return [*map(options.field_of, options.texts), *options.columns]


def _no_column(table: DelimitedReader, places: Mapping[str, str | None], options: ReadOptions) -> str:
    """Return why the columns that are wanted cannot be had, or nothing; a column that is only carried may be missing."""
    for source in options.texts:
        if places[options.field_of(source)] is None:
            return f"no field {options.field_of(source)!r}; it has {listed(table.columns)}"
    for name in places.values():
        if name is not None and table.columns.count(name) > 1:
            return f"{table.columns.count(name)} of its columns are named {name!r}; rename all but one"
    return ""


def _add_fields(
    out: Collector, key: str, row: Row, numbers: Mapping[str, int], delimiter: str, options: ReadOptions
) -> None:
    if row.fields is None:
        out.fail(key, row.reason)
        return
    try:
        checked_fields(row.fields, delimiter)
    except ValueError as error:
        out.fail(key, one_line(error))
        return
    fields = row.fields
    values: dict[str, Any] = {name: fields[number] for name, number in numbers.items()}
    typed_ones = {
        name: typed(values[name], kind) if name in values else values.get(name)
        for name, kind in options.columns.items()
    }
    add_row(out, key, values, options, typed_ones)
