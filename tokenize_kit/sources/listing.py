"""Which input files there are: local paths, folders, globs and fsspec URLs, listed in one fixed order.

What is in the files is not looked at here; only their names say what kind they are.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tokenize_kit.opening import COMPRESSIONS, filesystem_of
from tokenize_kit.sources.names import printable

PLAIN = "text"
"""The kind of files that are nothing but text, to be divided into samples."""

TEXT_SUFFIXES = (".txt", ".text", ".md")
TABLE_SUFFIXES = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines", ".jl"), "jsonl"),
    ".json": "json",
    ".csv": "csv",
    **dict.fromkeys((".tsv", ".tab"), "tsv"),
}
"""Which kind of rows a file holds by its ending."""
_IDX_PICTURES = re.compile(r"[-.]idx[34]-ubyte$")


@dataclass(frozen=True)
class SourceFile:
    """One input file."""

    url: str
    """Local path or fsspec URL."""
    key: str
    """Its name in keys and ledgers: relative to the folder or glob that was given, and `printable`."""
    size: int
    """Bytes, compressed if it is compressed."""
    kind: str
    """``text``, ``jsonl``, ``json``, ``csv``, ``tsv``, ``parquet``, ``tar``, ``idx``, or the modality of a media file, such as
    ``image``."""
    compression: str = ""
    """``gz``, ``zst`` or nothing."""
    version: str = ""
    """Changes when the file is written again (its modification time or tag), so that a resumed run can tell."""


def list_files(inputs: Sequence[str | os.PathLike[str]], kinds: Collection[str]) -> list[SourceFile]:
    """List the files that ``inputs`` name: input by input, each in the order of the keys, no file twice.

    Args:
        inputs: files, folders (searched recursively; names that begin with a dot are passed over), globs or fsspec URLs.
        kinds: the kinds that are wanted. A folder or glob gives only these; a file that is named must be one of them,
            except that a file of unknown ending is read as ``text`` where text is wanted.

    Raises:
        FileNotFoundError: nothing is there, or a folder holds no file of these kinds.
        ValueError: a named file is of another kind.
    """
    found: list[list[SourceFile]] = []
    seen: set[str] = set()
    for given in inputs:
        files = [file for file in _expand(os.fspath(given), kinds) if not (file.url in seen or seen.add(file.url))]  # type: ignore[func-returns-value]
        found.append(files)
    keys = [file.key for files in found for file in files]
    if len(set(keys)) < len(keys):
        # Two inputs have files of one name: number the inputs, so that every key names one file.
        found = [[replace(file, key=f"{number}/{file.key}") for file in files] for number, files in enumerate(found)]
    return [file for files in found for file in files]


def kind_of(name: str, kinds: Collection[str] = ()) -> tuple[str | None, str]:
    """Return what kind a file is by its name (None if unknown) and its compression (``""``, ``gz`` or ``zst``).

    A name that fits several media, such as a video with its sound track, is of the one among ``kinds``.
    """
    from tokenize_kit.modalities import all_modalities

    name = name.lower()
    if name.endswith((".tgz", ".tar.gz")):
        return "tar", "gz"
    compression = ""
    for suffix, kind in COMPRESSIONS.items():
        if name.endswith(suffix):
            name, compression = name.removesuffix(suffix), kind
    suffix = posixpath.splitext(name)[1]
    if suffix in TEXT_SUFFIXES:
        return PLAIN, compression
    if suffix in TABLE_SUFFIXES:
        return TABLE_SUFFIXES[suffix], compression
    if suffix == ".tar":
        return "tar", compression
    if _IDX_PICTURES.search(name):
        return "idx", compression
    if not compression:
        if suffix == ".parquet":
            return "parquet", ""
        found = [PLAIN if kind.textual else kind.name for kind in all_modalities() if suffix in kind.extensions]
        if found:
            return next((kind for kind in found if kind in kinds), found[0]), ""
    return None, compression


def _expand(given: str, kinds: Collection[str]) -> list[SourceFile]:
    if "://" in given:
        return _expand_url(given, kinds)
    path = Path(given)
    if path.is_file():
        return [_named(_local(path, path.name, kinds), kinds)]
    if path.is_dir():
        return _only(list(_inside(str(path), kinds)), kinds, f"the folder {given}")
    if glob.has_magic(given):
        root = Path(_glob_root(given))
        matches = sorted(item for item in root.glob(str(Path(given).relative_to(root))) if item.is_file())
        files = [_local(item, item.relative_to(root).as_posix(), kinds) for item in matches]
        return _only([_as_text(file, kinds) for file in files if not _hidden(Path(file.key))], kinds, given)
    raise FileNotFoundError(f"there is no file or folder at {given}")


def _expand_url(given: str, kinds: Collection[str]) -> list[SourceFile]:
    filesystem, path = filesystem_of(given)
    if glob.has_magic(path):
        entries = filesystem.glob(path, detail=True)
        root = _glob_root(path)
    elif filesystem.isfile(path):
        return [_named(_remote(filesystem, path, filesystem.info(path), PurePosixPath(path).name, kinds), kinds)]
    else:
        entries, root = filesystem.find(path, detail=True), path
    files = []
    for name, info in entries.items():
        key = name.removeprefix(root).lstrip("/")
        if info.get("type") == "file" and not _hidden(PurePosixPath(key)):
            files.append(_remote(filesystem, name, info, key, kinds))
    if not files:
        raise FileNotFoundError(f"there is no file at {given}")
    if glob.has_magic(path):
        files = [_as_text(file, kinds) for file in files]
    return _only(files, kinds, given)


def _only(files: list[SourceFile], kinds: Collection[str], where: str) -> list[SourceFile]:
    wanted = [file for file in files if file.kind in kinds]
    if not wanted:
        there = ", ".join(sorted({PurePosixPath(file.key).suffix or file.key for file in files})[:8]) or "nothing"
        raise FileNotFoundError(f"{where} holds no file of the kinds {', '.join(sorted(kinds))} (there is: {there})")
    return sorted(wanted, key=lambda file: file.key)


def _named(file: SourceFile, kinds: Collection[str]) -> SourceFile:
    file = _as_text(file, kinds)
    if file.kind not in kinds:
        what = f"of the kind {file.kind}" if file.kind else "of unknown kind"
        raise ValueError(f"{file.url} is {what}; these tokenizers read {', '.join(sorted(kinds))}")
    return file


def _as_text(file: SourceFile, kinds: Collection[str]) -> SourceFile:
    return replace(file, kind=PLAIN) if file.kind == "" and PLAIN in kinds else file


def _inside(folder: str, kinds: Collection[str]) -> Iterator[SourceFile]:
    """Yield the files below a folder in any order; with `pathlib` a small picture would take longer to find than to decode."""
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        above = "" if where == folder else os.path.relpath(where, folder).replace(os.sep, "/") + "/"
        for name in names:
            path = os.path.join(where, name)  # noqa: PTH118
            # A link may lead to nothing, or to something that is no file.
            if not name.startswith(".") and os.path.isfile(path):  # noqa: PTH113
                yield _source(path, name, above + name, os.stat(path), kinds)  # noqa: PTH116


def _local(path: Path, key: str, kinds: Collection[str]) -> SourceFile:
    return _source(str(path), path.name, key, path.stat(), kinds)


def _source(path: str, name: str, key: str, status: os.stat_result, kinds: Collection[str]) -> SourceFile:
    kind, compression = kind_of(name, kinds)
    return SourceFile(path, printable(key), status.st_size, kind or "", compression, str(status.st_mtime_ns))


def _remote(filesystem: Any, path: str, info: dict[str, Any], key: str, kinds: Collection[str]) -> SourceFile:
    kind, compression = kind_of(path, kinds)
    tag = next((info[name] for name in ("ETag", "etag", "mtime", "LastModified", "created") if info.get(name)), "")
    return SourceFile(
        filesystem.unstrip_protocol(path), printable(key), int(info.get("size") or 0), kind or "", compression, str(tag)
    )


def _hidden(path: PurePosixPath | Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _glob_root(pattern: str) -> str:
    """Return the part of a glob above its first wildcard."""
    fixed: list[str] = []
    for part in pattern.split("/")[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return "/".join(fixed) or ("/" if pattern.startswith("/") else ".")
