"""Which columns of a parquet file samples are made of, and whether their types can hold what is wanted.

Every file is looked at by itself, when it is read: a column that is missing or of another type in a later file loses the rows of
that file, and no others. Before a run begins `fields` asks the
same of the first files, so that a wrong name is told at once.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from tokenize_kit.modalities import modality_named
from tokenize_kit.sources.parquet_decoder import is_bytes, is_text
from tokenize_kit.sources.parquet_process import Wanted
from tokenize_kit.sources.parts import column_of, listed
from tokenize_kit.sources.planning import ReadOptions, Source


class Found(NamedTuple):
    """Where a place of `tokenize_kit.sources.parts` is in a table."""

    column: str
    """The column, or the field inside structs (``meta.text``), that is to be read."""
    kind: pa.DataType
    """Type of the values at the place, without a dictionary; a line of a text is a text."""
    whole: bool
    """Whether the values of the column are those at the place; else they are lists or texts that hold them."""


def find_column(schema: pa.Schema, place: str) -> Found:
    """Return where a place is.

    Raises:
        ValueError: nowhere, or in several columns.
    """
    column, kind, rest = "", pa.struct(list(schema)), place
    while pa.types.is_struct(kind) and (not column or rest):
        names = [field.name for field in kind]
        name = column_of(names, rest)
        if name is None:
            raise ValueError(f"no column {place!r}; it has {listed(names)}{f' in {column!r}' if column else ''}")
        if names.count(name) > 1:
            raise ValueError(f"it has {names.count(name)} columns {name!r}")
        column = f"{column}.{name}" if column else name
        kind, rest = _plain(kind.field(name).type), rest[len(name) :].removeprefix(".")
    whole = not rest
    while rest and not rest.startswith(":"):
        step, _, rest = rest.partition(".")
        if _is_list(kind) and step.isdecimal():
            kind = _plain(kind.value_type)
        elif pa.types.is_struct(kind) and kind.get_field_index(step) >= 0:
            kind = _plain(kind.field(step).type)
        else:
            raise ValueError(f"no column {place!r}; {column!r} is {kind}, which has no {step!r}")
    return Found(column, kind, whole)


def wanted_columns(schema: pa.Schema, options: ReadOptions) -> list[Wanted]:
    """Return the columns that samples are made of: one for each of ``options.sources``, then of ``options.columns``.

    Raises:
        ValueError: one is missing or of a type that cannot hold it.
    """
    columns = [find_column(schema, name) for name in options.columns]
    return [
        *(wanted_column(schema, source, options) for source in options.sources),
        *(Wanted(found.column, "values") for found in columns),
    ]


def wanted_column(schema: pa.Schema, source: Source, options: ReadOptions) -> Wanted:
    """Return the column of a source.

    Raises:
        ValueError: it is missing or of a type that cannot hold it.
    """
    place = options.field_of(source)
    found = find_column(schema, place)
    kind = found.kind
    if source in options.texts:
        if modality_named(source.modality).takes_values and word_of(kind) not in (None, "string"):
            return Wanted(found.column, "values")
        if not (is_text(kind) or is_bytes(kind)):
            raise ValueError(f"column {place!r} is {kind}, expected strings")
        return Wanted(found.column, "strings" if found.whole else "values")
    inner = kind
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        inner = kind.field("bytes").type
    if not is_bytes(inner):
        raise ValueError(f"column {place!r} is {kind}, expected the bytes of {source.modality} files")
    return Wanted(found.column, "files" if found.whole else "values")


def carried_kind(schema: pa.Schema, name: str) -> str:
    """Return which of `blocks.COLUMN_TYPES` a column that is carried along becomes.

    Raises:
        ValueError: it is missing, or of a type that cannot be carried.
    """
    kind = find_column(schema, name).kind
    word = word_of(kind)
    if word is None:
        raise ValueError(f"column {name!r} is {kind}; only numbers, strings and booleans can be carried along")
    return word


def word_of(kind: pa.DataType) -> str | None:
    """Return which of `blocks.COLUMN_TYPES` a column becomes that is carried along; None if it cannot be."""
    if is_text(kind):
        return "string"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int64"
    return "float64" if pa.types.is_floating(kind) else None


def _plain(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
