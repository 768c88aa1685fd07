"""Files of rows: JSON lines, JSON, csv, tsv and parquet, and texts that are compressed."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from tokenize_kit.cli.looking.damage import up_to_damage
from tokenize_kit.cli.looking.fields import LOOKED_AT, Fields, short
from tokenize_kit.opening import open_source
from tokenize_kit.sources.blocks import one_line

_BLOCK = 1 << 20
_LONGEST_LINE = 64 << 20
_TYPED = 10_000
"""Rows of a table by which the type of a column is told."""
_PARQUET_WHOLE = 64 << 20
"""A parquet file of more bytes is not read to its end to see whether it is whole."""


def look_jsonl(url: str, compression: str, shown: int) -> dict[str, Any]:
    """Return how many objects a jsonl file has, their fields and the first of them."""
    from tokenize_kit.sources.json_values import parse_json_object

    fields, bad = Fields(shown), _Bad("line")
    rows = 0

    def work(file: IO[bytes]) -> None:
        nonlocal rows
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip():
                continue
            if line is _TOO_LONG:
                bad.add(number, f"it has more than {_LONGEST_LINE:,} bytes")
            elif rows >= LOOKED_AT:
                rows += 1
            else:
                try:
                    fields.add(parse_json_object(line.removeprefix(codecs.BOM_UTF8)))
                    rows += 1
                except ValueError as error:
                    bad.add(number, one_line(error))

    damaged = up_to_damage(url, compression, work)
    return _facts(rows, fields.facts(), fields.first, bad, damaged)


def look_json(url: str, compression: str, shown: int) -> dict[str, Any]:
    """Return the same of a ``.json``: lines, an array, or one object after another."""
    from tokenize_kit.sources.json_values import holds_lines, read_values

    with open_source(url, compression) as file:
        lines = _quietly(lambda: holds_lines(file))
    if lines:
        return look_jsonl(url, compression, shown)
    fields, bad = Fields(shown), _Bad("place at byte")
    rows = 0

    def work(file: IO[bytes]) -> None:
        nonlocal rows
        for place in read_values(file):
            if place.value is None:
                bad.add(place.offset, place.reason)
                continue
            rows += 1
            if rows <= LOOKED_AT:
                fields.add(place.value)

    damaged = up_to_damage(url, compression, work)
    return _facts(rows, fields.facts(), fields.first, bad, damaged)


def look_delimited(url: str, compression: str, shown: int, *, tabs: bool) -> dict[str, Any]:
    """Return the same of a csv or tsv file, whose types are told by what is in the columns."""
    from tokenize_kit.sources.delimited import DelimitedReader, kind_of_fields

    bad = _Bad("row at byte")
    first: list[dict[str, Any]] = []
    columns: tuple[str, ...] = ()
    values: list[list[str]] = []
    rows = 0

    def work(file: IO[bytes]) -> None:
        nonlocal rows, columns, values
        table = DelimitedReader(file, tabs)
        columns = table.columns
        values = [[] for _ in columns]
        for row in table:
            if row.fields is None:
                bad.add(row.offset, row.reason)
                continue
            rows += 1
            if len(first) < shown:
                first.append({name: short(value) for name, value in zip(columns, row.fields, strict=True)})
            if rows <= _TYPED:
                for column, value in zip(values, row.fields, strict=True):
                    column.append(value)

    damaged = up_to_damage(url, compression, work)
    kinds = [kind_of_fields(column) or "empty" for column in values]
    return _facts(rows, dict(zip(columns, kinds, strict=True)), first, bad, damaged)


def look_parquet(url: str, compression: str, shown: int) -> dict[str, Any]:  # noqa: ARG001
    """Return rows, columns and first rows of a parquet file, read in a process whose death is survived."""
    import pyarrow as pa

    from tokenize_kit.sources.parquet_process import Lost, UnreadableError, Wanted, open_parquet

    facts: dict[str, Any] = {}
    try:
        with open_parquet(url) as opened:
            schema, counts = opened.facts.schema, opened.facts.rows
            facts |= {"rows": sum(counts), "row_groups": len(counts)}
            facts["fields"] = {field.name: str(field.type) for field in schema}
            names = [field.name for field in schema]
            # A name that is there twice cannot be asked for.
            wanted = [Wanted(name, "values") for name in dict.fromkeys(names) if names.count(name) == 1]
            strings = {
                field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
            }

            def text(name: str, value: Any) -> Any:
                # Strings come as the bytes that they are.
                return value.decode(errors="replace") if name in strings and isinstance(value, bytes) else value

            whole = sum(opened.facts.sizes) <= _PARQUET_WHOLE
            first: list[dict[str, Any]] = []
            lost: list[Lost] = []
            for part in opened.read(wanted, 0, None if whole else 1, 1024, 1 << 20) if wanted else ():
                if isinstance(part, Lost):
                    lost.append(part)
                elif isinstance(part, pa.RecordBatch) and len(first) < shown:
                    for row in part.slice(0, shown - len(first)).to_pylist():
                        first.append(
                            {one.name: short(text(one.name, row[str(place)])) for place, one in enumerate(wanted)}
                        )
                if not whole and len(first) >= shown:
                    break
            if lost:
                facts["damaged"] = f"{sum(part.rows for part in lost):,} rows cannot be read: {lost[0].reason}"
            if first:
                facts["first_rows"] = first
    except UnreadableError as error:
        facts["damaged"] = one_line(error)
    return facts


def look_text(url: str, compression: str, shown: int) -> dict[str, Any]:  # noqa: ARG001
    """Return the length of a text of any size in characters, bytes and lines."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    counts = {"characters": 0, "bytes": 0, "lines": 0}

    def work(file: IO[bytes]) -> None:
        while True:
            block = file.read(_BLOCK)
            try:
                counts["characters"] += len(decode(block, final=not block))
            except UnicodeDecodeError as error:
                place = counts["bytes"] + error.start
                raise ValueError(f"it is not UTF-8 (about byte {place:,}: {error.reason})") from None
            if not block:
                return
            counts["bytes"] += len(block)
            counts["lines"] += block.count(b"\n")

    damaged = up_to_damage(url, compression, work)
    return {**counts, **({"damaged": damaged} if damaged else {})}


_TOO_LONG = b"a line that is too long"


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file without their ends, and `_TOO_LONG` in place of one that would fill the memory."""
    pending, passing = b"", False
    while block := file.read(_BLOCK):
        first, *others = block.split(b"\n")
        pending = b"" if passing else pending + first
        if others:
            yield _TOO_LONG if passing else pending
            yield from others[:-1]
            pending, passing = others[-1], False
        if len(pending) > _LONGEST_LINE:
            pending, passing = b"", True
    if passing or pending:
        yield _TOO_LONG if passing else pending


class _Bad:
    """Counts rows that are none, and remembers the first."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.count = 0
        self.first = ""

    def add(self, place: int, reason: str) -> None:
        self.count += 1
        self.first = self.first or f"{self._place} {place:,}: {reason}"


def _facts(
    rows: int, fields: Mapping[str, str], first: list[dict[str, Any]], bad: _Bad, damaged: str
) -> dict[str, Any]:
    facts: dict[str, Any] = {"rows": rows, "fields": dict(fields)}
    if rows > LOOKED_AT:
        facts["fields_are_those_of_the_first"] = LOOKED_AT
    if bad.count:
        facts |= {"cannot_be_read": bad.count, "first_of_them": bad.first}
    if damaged:
        facts["damaged"] = damaged
    if first:
        facts["first_rows"] = first
    return facts


def _quietly(look: Callable[[], bool]) -> bool:
    """Return what a look gives, False where there is damage: the reading that follows will say it."""
    from tokenize_kit.cli.looking.damage import DAMAGE

    try:
        return look()
    except DAMAGE:
        return False
