"""Looks into the first samples of the input before a run begins: are the fields there, and of what type are the columns.

What is wrong with one file is for the run to list. Only what no file has is said at once, before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any

from tokenize_kit.media.text import read_text
from tokenize_kit.opening import COMPRESSIONS, open_source, read_up_to_damage
from tokenize_kit.sources.delimited import DelimitedReader, kind_of_fields
from tokenize_kit.sources.endings import ENDINGS, PLAIN
from tokenize_kit.sources.idx import labels_url
from tokenize_kit.sources.json_values import BYTE_ORDER_MARK, holds_lines, parse_json_object, read_values
from tokenize_kit.sources.listing import SourceFile
from tokenize_kit.sources.members import has_place
from tokenize_kit.sources.parquet_columns import carried_kind, wanted_column
from tokenize_kit.sources.parquet_process import describe
from tokenize_kit.sources.parts import MISSING, column_of, listed, value_at
from tokenize_kit.sources.planning import MEMBERS, ReadOptions, Source, members_among
from tokenize_kit.sources.spool import is_kept
from tokenize_kit.sources.tar import tar_index

_LOOK_BYTES = 4 << 20
_LOOK_SAMPLES = 1000
_DAMAGE = (ValueError, EOFError, PermissionError)


@dataclass
class _Look:
    """What a file says of the places that are wanted."""

    lacks: dict[str, str] = field(default_factory=dict)
    """The sources that are not there, and in words why."""
    no_columns: dict[str, str] = field(default_factory=dict)
    """The same of the extra columns."""
    kinds: dict[str, set[str]] = field(default_factory=dict)
    """The types of the extra columns that are there."""


def resolve_columns(files: Sequence[SourceFile], options: ReadOptions, names: Sequence[str]) -> ReadOptions:
    """Check that the fields are there, in some file, and return the options with the columns' types.

    A column whose values differ in type (a number here, a string there) becomes a string. A file that is damaged, or has not
    all of the fields while another one has, is passed over here; the run lists what is lost by it.

    Raises:
        ValueError: no file has a field or column, or all have it of a type that cannot be carried; names a file and what it has.
    """
    kinds: dict[str, set[str]] = {name: set() for name in names}
    found = not options.sources
    problems: list[str] = []
    columns: dict[str, str] = {}
    members = set(members_among(files, options))
    records = [file for file in members if file.kind in MEMBERS]
    if names and records:
        for name, types in _kinds_of_records(sorted(records, key=lambda file: file.key), names).items():
            kinds[name] |= types
    tables = [file for file in files if file not in members]
    for kind in dict.fromkeys(file.kind for file in tables):
        for look in _looks([file for file in tables if file.kind == kind], options, names):
            for name, types in look.kinds.items():
                kinds[name] |= types
            problems += look.lacks.values()
            columns |= {name: words for name, words in look.no_columns.items() if name not in columns}
            found = found or not look.lacks
            if not look.lacks and not look.no_columns:
                break
    if problems and not found:
        raise ValueError(problems[0])
    for name, types in kinds.items():
        if not types and name in columns:
            raise ValueError(columns[name])
        if not types and not any(file.kind in _LOOKS for file in tables):
            raise ValueError(f"no column {name!r} was found in the first samples of {files[0].called}")
    return replace(options, columns={name: _common(types) for name, types in kinds.items()})


def check_places(files: Sequence[SourceFile], options: ReadOptions, unclear: Sequence[str] = ()) -> str:
    """Refuse a field that would be ignored; return what is to be said of one that some of the files cannot have, or nothing.

    Args:
        files: the input.
        options: how it will be read.
        unclear: streams of several modalities that would all be read from `ReadOptions.media_field`.

    Raises:
        ValueError: says what to write instead.
    """
    if unclear:
        each = " ".join(f"--field {name}=COLUMN" for name in unclear)
        raise ValueError(
            f"--media-field {options.media_field} does not say which of the streams {', '.join(unclear)} it is for; give each "
            f"its own: {each}{_columns_of_first(files)}"
        )
    place = options.place_of(options.sources[0]) if options.text_only else None
    plain = [file for file in files if file.kind == PLAIN] if place is not None else []
    if not plain:
        return ""
    odd = [file for file in plain if PurePosixPath(file.key).suffix.lower() not in (*ENDINGS[PLAIN], *COMPRESSIONS)]
    if len(plain) == len(files) or odd:
        first = (odd or plain)[0]
        instead = (
            "pipe JSON objects into it"
            if is_kept(first.url)
            else "name the file by what it holds (.jsonl, .json, .csv, .tsv, .parquet, .tar)"
        )
        raise ValueError(
            f"--field {place} is given, but {first.called} is read as plain text, which has no fields; leave --field out, or "
            f"{instead}"
        )
    more = f" and {len(plain) - 3} more" if len(plain) > 3 else ""
    names = ", ".join(file.key for file in plain[:3]) + more
    return f"plain text has no field {place!r} and is read as it is: {names}"


def _columns_of_first(files: Sequence[SourceFile]) -> str:
    for file in files:
        if file.kind == "parquet":
            try:
                return f" ({file.key} has {listed(describe(file.url).schema.names)})"
            except _DAMAGE:
                continue
    return ""


def _looks(files: Sequence[SourceFile], options: ReadOptions, names: Sequence[str]) -> Iterator[_Look]:
    """Yield what each of the files says, of those that say anything."""
    look = _LOOKS.get(files[0].kind)
    for file in files if look else ():
        try:
            assert look is not None, "the loop is empty without"
            found = look(file, options, names)
        except _DAMAGE:
            continue  # the run itself lists it as a failure
        if found is not None:
            yield found


def _common(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float64" if kinds == {"int64", "float64"} else "string"


def _look_jsonl(file: SourceFile, options: ReadOptions, names: Sequence[str]) -> _Look | None:
    with open_source(file.url, file.compression) as source:
        return _look_at_objects(file, _objects_of_lines(source, names), options, names)


def _objects_of_lines(source: IO[bytes], names: Sequence[str]) -> list[dict[str, Any]]:
    # Types take a closer look than names.
    size, most = (_LOOK_BYTES, _LOOK_SAMPLES) if names else (_LOOK_BYTES // 8, _LOOK_SAMPLES // 20)
    objects: list[dict[str, Any]] = []
    for line in read_up_to_damage(source, size).removeprefix(BYTE_ORDER_MARK).split(b"\n")[:most]:
        try:
            objects.append(parse_json_object(line))
        except ValueError:
            continue  # the run itself lists it as a failure
    return objects


def _look_json(file: SourceFile, options: ReadOptions, names: Sequence[str]) -> _Look | None:
    with open_source(file.url, file.compression) as source:
        lines = holds_lines(source)
    if lines:
        return _look_jsonl(file, options, names)
    most = _LOOK_SAMPLES if names else _LOOK_SAMPLES // 20
    with open_source(file.url, file.compression) as source:
        objects = [place.value for place in islice(read_values(source), most) if place.value is not None]
    return _look_at_objects(file, objects, options, names)


def _kinds_of_records(files: Sequence[SourceFile], names: Sequence[str]) -> dict[str, set[str]]:
    """Return the types of columns in JSON files that belong to the other files of their stem."""
    objects = []
    for file in files[:_LOOK_SAMPLES]:
        try:
            with open_source(file.url, file.compression) as source:
                objects.append(parse_json_object(read_up_to_damage(source, _LOOK_BYTES)))
        except _DAMAGE:
            continue  # the run itself lists it as a failure
    values = {name: [value for one in objects if (value := value_at(one, name)) is not MISSING] for name in names}
    return {name: _kinds_of(some) for name, some in values.items() if some}


def _look_at_objects(
    file: SourceFile, objects: Sequence[dict[str, Any]], options: ReadOptions, names: Sequence[str]
) -> _Look | None:
    if not objects:
        return None
    there = listed({str(name) for value in objects for name in value})
    look = _Look()
    for source in options.texts:
        place = options.field_of(source)
        if all(value_at(value, place) is MISSING for value in objects):
            look.lacks[source.name] = f"{file.called} has no field {place!r}; it has {there}{_hint(source, options)}"
    for name in names:
        values = [value_at(value, name) for value in objects]
        if all(value is MISSING for value in values):
            look.no_columns[name] = f"{file.called} has no field {name!r}; it has {there}"
        else:
            look.kinds[name] = _kinds_of(values)
    return look


def _look_delimited(file: SourceFile, options: ReadOptions, names: Sequence[str]) -> _Look | None:
    with open_source(file.url, file.compression) as source:
        table = DelimitedReader(source, file.kind == "tsv")
        if not table.columns:
            return None
        rows = list(islice(table, _LOOK_SAMPLES)) if names else []
    look = _Look()
    for wanted in options.texts:
        place = options.field_of(wanted)
        if column_of(table.columns, place) is None:
            hint = _hint(wanted, options)
            look.lacks[wanted.name] = f"{file.called} has no field {place!r}; it has {listed(table.columns)}{hint}"
    for name in names:
        column = column_of(table.columns, name)
        if column is None:
            look.no_columns[name] = f"{file.called} has no field {name!r}; it has {listed(table.columns)}"
            continue
        number = table.columns.index(column)
        look.kinds[name] = {kind_of_fields([row.fields[number] for row in rows if row.fields]) or "string"}
    return look


def _look_parquet(file: SourceFile, options: ReadOptions, names: Sequence[str]) -> _Look | None:
    schema, look = describe(file.url).schema, _Look()
    for source in options.sources:
        try:
            wanted_column(schema, source, options)
        except ValueError as error:
            look.lacks[source.name] = f"{file.called}: {error}{_hint(source, options)}"
    for name in names:
        try:
            look.kinds[name] = {carried_kind(schema, name)}
        except ValueError as error:
            look.no_columns[name] = f"{file.called}: {error}"
    return look


def _look_tar(file: SourceFile, options: ReadOptions, names: Sequence[str]) -> _Look | None:
    places = {source: place for source in options.sources if (place := options.place_of(source)) is not None}
    if file.compression:
        # Its first samples cannot be looked at without reading what stands before them; text holds every value.
        return _Look(kinds={name: {"string"} for name in names})
    objects: list[dict[str, Any]] = []
    missing = dict(places)
    with open_source(file.url) as opened:
        samples = tar_index(file.url).samples[:_LOOK_SAMPLES] if names or missing else ()
        for sample in samples:
            values: dict[str, Any] = {}
            fields: dict[str, Callable[[], bytes]] = {}
            for entry in sample.entries:

                def read(offset: int = entry.offset, size: int = entry.size) -> bytes:
                    if size > _LOOK_BYTES:
                        raise ValueError("it is too large to be looked at")
                    opened.seek(offset)
                    return opened.read(size)

                fields[entry.extension] = read
                looked_for = entry.extension == ".json" or entry.extension[1:] in names
                if names and looked_for and entry.size <= _LOOK_BYTES:
                    values |= _member_values(entry.extension, read())
            missing = {source: place for source, place in missing.items() if not has_place(fields, source, place)}
            objects.append(values)
    look = _Look()
    for source, place in missing.items() if objects else ():
        where = "no sample has such a file" + (" or that key in its .json" if source in options.texts else "")
        look.lacks[source.name] = f"{file.called} has no {place!r}: {where}{_hint(source, options)}"
    for name in names if objects else ():
        found = [value_at(value, name) for value in objects]
        if all(value is MISSING for value in found):
            where = f"no sample has a .{name} file or that key in its .json"
            look.no_columns[name] = f"{file.called} has no column {name!r}: {where}"
        else:
            look.kinds[name] = _kinds_of(found)
    return look


def _look_idx(file: SourceFile, options: ReadOptions, names: Sequence[str]) -> _Look | None:
    look, labels = _Look(), labels_url(file.url)
    wanted = {source.name: (options.field_of(source), _hint(source, options)) for source in options.texts}
    nowhere = (
        f"{file.called} has no column 'label' and no labels file beside it (the same name, labels-idx1 for images-idx3)"
    )
    for source, (place, hint) in wanted.items():
        if place != "label" or labels is None:
            other = f"{file.called} has no column {place!r}; it has label{hint}"
            look.lacks[source] = nowhere if place == "label" else other
    for name in names:
        if name != "label":
            look.no_columns[name] = f"{file.called} has no column {name!r}; it has label"
        elif labels is None:
            look.no_columns[name] = nowhere
        else:
            look.kinds[name] = {"int64"}
    return look


_LOOKS: Mapping[str, Callable[[SourceFile, ReadOptions, Sequence[str]], _Look | None]] = {
    "csv": _look_delimited,
    "idx": _look_idx,
    "json": _look_json,
    "jsonl": _look_jsonl,
    "parquet": _look_parquet,
    "tar": _look_tar,
    "tsv": _look_delimited,
}


def _member_values(extension: str, data: bytes) -> dict[str, Any]:
    try:
        if extension == ".json":
            return parse_json_object(data)
        text = read_text(data)
    except ValueError:
        return {}
    try:
        return {extension[1:]: int(text)}
    except ValueError:
        return {extension[1:]: text}


def _kinds_of(values: Iterable[Any]) -> set[str]:
    words = {bool: "bool", int: "int64", float: "float64"}
    kinds = {words.get(type(value), "string") for value in values if value is not MISSING and value is not None}
    # A column that is null in all of the first samples can still hold anything.
    return kinds or {"string"}


def _hint(source: Source, options: ReadOptions) -> str:
    """Say how to choose the field of a source."""
    alike = options.texts if source in options.texts else [one for one in options.sources if one not in options.texts]
    if source.field is not None or len(alike) > 1:
        return f"; choose one with --field {source.name}=FIELD"
    return "; choose one with --field" if source in options.texts else "; choose one with --media-field"
