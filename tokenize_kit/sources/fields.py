"""Looks into the first samples of the input before a run begins: are the fields there, and of what type are the columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from tokenize_kit.errors import DamagedFileError
from tokenize_kit.media.text import read_text
from tokenize_kit.opening import open_source, read_into
from tokenize_kit.sources.idx import labels_url
from tokenize_kit.sources.json_values import parse_json_object
from tokenize_kit.sources.listing import SourceFile
from tokenize_kit.sources.parquet_columns import look_parquet
from tokenize_kit.sources.planning import ReadOptions
from tokenize_kit.sources.tar import tar_index

_LOOK_BYTES = 4 << 20
_LOOK_SAMPLES = 1000
_LOOK_FILES = 20


def resolve_columns(files: Sequence[SourceFile], options: ReadOptions, names: Sequence[str]) -> ReadOptions:
    """Check that the fields are there, in the first readable file of each kind, and return the options with the columns' types.

    A column whose values differ in type (a number here, a string there) becomes a string.

    Raises:
        ValueError: a field or column is missing or of a type that cannot be carried; names the file and what it has.
    """
    kinds: dict[str, set[str]] = {name: set() for name in names}
    for kind in dict.fromkeys(file.kind for file in files):
        for name, types in _look([file for file in files if file.kind == kind], options, names).items():
            kinds[name] |= types
    for name, types in kinds.items():
        if not types:
            raise ValueError(f"no column {name!r} was found in the first samples of {files[0].url}")
    return replace(options, columns={name: _common(types) for name, types in kinds.items()})


def _look(files: Sequence[SourceFile], options: ReadOptions, names: Sequence[str]) -> dict[str, set[str]]:
    """Look into the first of the files, all of one kind, that shows anything; the run itself lists those that are damaged."""
    if files[0].kind == "parquet":
        return look_parquet([file.url for file in files], options, names)
    for file in files[:_LOOK_FILES]:
        try:
            if file.kind == "jsonl":
                found = _look_jsonl(file, options, names)
            elif file.kind == "tar" and names:
                found = _look_tar(file, names)
            elif file.kind == "idx":
                found = _look_idx(file, options, names)
            else:
                return {}
        except (DamagedFileError, PermissionError):
            continue
        if found is not None:
            return found
    # Nothing is known; a text can hold every value.
    return {name: {"string"} for name in names}


def _common(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float64" if kinds == {"int64", "float64"} else "string"


def _look_jsonl(file: SourceFile, options: ReadOptions, names: Sequence[str]) -> dict[str, set[str]] | None:
    # Types take a closer look than names.
    beginning = bytearray(_LOOK_BYTES if names else _LOOK_BYTES // 8)
    with open_source(file.url, file.compression) as source, memoryview(beginning) as view:
        size = read_into(source, view)
    lines = bytes(beginning[:size]).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    objects: list[dict[str, Any]] = []
    for line in lines[: _LOOK_SAMPLES if names else _LOOK_SAMPLES // 20]:
        try:
            objects.append(parse_json_object(line))
        except ValueError:
            continue  # the run itself lists it as a failure
    if not objects:
        return None
    fields = sorted({str(name) for value in objects for name in value})
    for name in (*map(options.field_of, options.texts), *names):
        if name not in fields:
            raise ValueError(
                f"{file.url} has no field {name!r}; it has {', '.join(fields) or 'none'}{_hint(name, options)}"
            )
    return _kinds_of(objects, names)


def _look_tar(file: SourceFile, names: Sequence[str]) -> dict[str, set[str]] | None:
    if file.compression:
        # Its first samples cannot be looked at without reading what stands before them; text holds every value.
        return {name: {"string"} for name in names}
    objects: list[dict[str, Any]] = []
    with open_source(file.url) as source:
        for sample in islice(tar_index(file.url).samples, _LOOK_SAMPLES):
            values: dict[str, Any] = {}
            for entry in sample.entries:
                looked_for = entry.extension == ".json" or entry.extension[1:] in names
                if looked_for and entry.size <= _LOOK_BYTES:
                    source.seek(entry.offset)
                    values |= _member_values(entry.extension, source.read(entry.size))
            objects.append(values)
    if not objects:
        return None
    fields = sorted({str(name) for value in objects for name in value})
    for name in names:
        if name not in fields:
            raise ValueError(
                f"{file.url} has no column {name!r}: no sample has a .{name} file or that key in its .json"
            )
    return _kinds_of(objects, names)


def _look_idx(file: SourceFile, options: ReadOptions, names: Sequence[str]) -> dict[str, set[str]]:
    wanted = [*names, *map(options.field_of, options.texts)]
    for name in wanted:
        if name != "label":
            raise ValueError(f"{file.url} has no column {name!r}; it has label{_hint(name, options)}")
    if wanted and labels_url(file.url) is None:
        raise ValueError(
            f"{file.url} has no column 'label': there is no labels file beside it (the same name with labels-idx1 for "
            "images-idx3)"
        )
    return {name: {"int64"} for name in names}


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


def _kinds_of(objects: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[str, set[str]]:
    words = {bool: "bool", int: "int64", float: "float64"}
    found: dict[str, set[str]] = {name: set() for name in names}
    for value in objects:
        for name in names:
            if value.get(name) is not None:
                found[name].add(words.get(type(value[name]), "string"))
    # A column that is null in all of the first samples can still hold anything.
    return {name: kinds or {"string"} for name, kinds in found.items()}


def _hint(name: str, options: ReadOptions) -> str:
    source = next((source for source in options.sources if options.field_of(source) == name), None)
    if source is None:
        return ""
    return "; choose one with --field" if source in options.texts else "; choose one with --media-field"
