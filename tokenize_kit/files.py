"""Files that appear whole or not at all, and the few JSON and hash helpers that every room needs.

A file is written beside its final place, flushed to the disk and renamed, so that a killed process leaves either the
old file or the new one, never half of one. What a kill can leave behind is a ``*.partial-HOST-PID-RANDOM`` file, which nothing
reads and the next run of the same command removes; see `tokenize_kit.partial`. Every step is announced, and every refusal of the
system says what to do about it; see `tokenize_kit.disk`.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tokenize_kit.disk import explained, explained_if_full, opened, step
from tokenize_kit.errors import VerificationError
from tokenize_kit.partial import is_partial, partial_file, partial_folder, remove_abandoned_beside

OWN_DIGEST = "own_digest"
"""The entry in which a JSON file that the kit wrote carries a digest of all its others."""


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, durable_name: bool = True) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing bytes; it appears, synced, when the block ends without an error.

    Args:
        path: the file.
        durable_name: whether its name must survive a power cut from here on. False saves a wait for the disk where another
            file follows in the same folder, which makes both names durable.

    Raises:
        OSError: the disk is full or the folder cannot be written; the partial file is removed first.
    """
    path = Path(path)
    make_folder(path.parent)
    with partial_file(path) as (partial, descriptor):
        # A second descriptor, so that the file is closed before the rename and still owned until after it.
        with explained_if_full(path), opened(descriptor, path) as file:
            yield file
            file.flush()
            step("sync", path)
            os.fsync(file.fileno())
        step("rename", path)
        with explained(path):
            partial.replace(path)
    if durable_name:
        sync_folder(path.parent)


@contextmanager
def new_file(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    """Yield where to write a file, by any means; it appears at ``path`` when the block ends without an error.

    A file that is there already is kept unless it may be overwritten. One that holds the same is no hindrance: so a command that
    was killed after its work can be run again.

    Args:
        path: the file.
        overwrite: whether what is there may be replaced.

    Raises:
        FileExistsError: something else is there.
        OSError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "this is a folder; give the name of a file to write", str(path))
    make_folder(path.parent)
    remove_abandoned_beside(path)
    with partial_folder(path) as folder:
        made = folder / path.name
        with _named(path, folder):
            yield made
        step("rename", path)
        with explained(path):
            if overwrite:
                made.replace(path)
            elif not _placed(made, path):
                raise FileExistsError(
                    errno.EEXIST,
                    "it is there already and holds something else; give another name, or --overwrite",
                    str(path),
                )
        step("remove", folder)
        shutil.rmtree(folder, ignore_errors=True)
    sync_folder(path.parent)


@contextmanager
def _named(path: Path, folder: Path) -> Iterator[None]:
    """Have errors about files in ``folder`` say ``path``, which is what the user asked for."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not str(error.filename).startswith(str(folder)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _placed(made: Path, path: Path) -> bool:
    """Give a file its name without replacing another; return whether it is there now."""
    try:
        os.link(made, path)
    except FileExistsError:
        return path.is_file() and filecmp.cmp(made, path, shallow=False)
    except OSError:  # a file system without links
        if path.exists():
            return path.is_file() and filecmp.cmp(made, path, shallow=False)
        made.replace(path)
    return True


def make_folder(folder: Path) -> None:
    """Make a folder and those around it, where they are missing.

    Raises:
        OSError: it cannot be made; the message says what to do.
    """
    if folder.is_dir():
        return
    step("make", folder)
    try:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "this is a file; give the name of a folder", str(folder)) from None


def sync_file(path: Path) -> None:
    """Flush a file that something else wrote to the disk."""
    step("sync", path)
    with explained(path), path.open("rb") as file:
        os.fsync(file.fileno())


def check_local(path: str, option: str = "--out", what: str = "folder") -> None:
    """Refuse a URL where a run writes ``what``: what is renamed, synced and locked must be local.

    Raises:
        ValueError: it is one.
    """
    protocol, slashes, rest = path.partition("://")
    if slashes:
        local = protocol in ("file", "local")
        way = f"give the path, {rest}" if local else f"write to a local folder and copy the finished {what} there"
        raise ValueError(f"{option} {path} is a URL; {way}")


def sync_folder(folder: Path) -> None:
    """Flush the entries of ``folder`` to the disk, so that a rename in it survives a power cut."""
    step("sync", folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_folder(source: Path, goal: Path) -> None:
    """Copy a folder to ``goal``, which must not exist; it appears whole and synced, or not at all.

    Raises:
        OSError: it cannot be read or written.
    """
    make_folder(goal.parent)
    remove_abandoned_beside(goal)
    with partial_folder(goal) as partial:
        for where, folders, names in os.walk(source):
            target = partial / Path(where).relative_to(source)
            for name in folders:
                (target / name).mkdir()
            for name in names:
                if not is_partial(name):
                    step("write", target / name)
                    with explained_if_full(goal):
                        shutil.copyfile(Path(where) / name, target / name)
                    sync_file(target / name)
            sync_folder(target)
        step("rename", goal)
        with explained(goal):
            partial.rename(goal)
    sync_folder(goal.parent)


def write_text(path: str | os.PathLike[str], text: str, *, durable_name: bool = True) -> None:
    """Write ``text`` as UTF-8, whole or not at all; see `atomic_write`."""
    with atomic_write(path, durable_name=durable_name) as file:
        file.write(text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file whose top level is an object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, or not an object; the message names the file.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); restore it from a copy or make it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def signed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with a digest of itself as its last entry; `read_signed` checks it.

    The digest is the sha256 of `canonical_json` of the other entries, in which a number with a point or an exponent stands as
    the string of its characters, so that no change of one goes unseen that a float would swallow.
    """
    return {**values, OWN_DIGEST: _digest(json.dumps(values, allow_nan=False))}


def read_signed(
    path: str | os.PathLike[str], fix: str = "restore it from a copy", problems: list[str] | None = None
) -> dict[str, Any]:
    """Read a JSON object that `signed` made, without its digest; one from before there were digests is taken as it is.

    Args:
        path: the file.
        fix: what to do where it is damaged; ends the message.
        problems: where given, it is told there that the file is not what was written, and what it says now is returned.

    Raises:
        FileNotFoundError: there is no such file.
        VerificationError: it is no JSON object, or not what was written.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
        values = json.loads(text)
        exact = _rest(text)
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{path} is damaged: it is no JSON object ({error}); {fix}") from None
    if not _is_own(values.pop(OWN_DIGEST, None), exact):
        problem = f"{path} was changed after it was written: its {OWN_DIGEST} differs"
        if problems is None:
            raise VerificationError(f"{problem}; {fix}")
        problems.append(problem)
    return dict(values)


def is_signed(path: str | os.PathLike[str]) -> bool:
    """Return whether a JSON file that `read_signed` has read carries a digest of itself."""
    return OWN_DIGEST in read_json_object(path)


def _is_own(digest: Any, exact: dict[str, Any]) -> bool:
    if digest is not None:
        return bool(digest == _sha256_of(exact))
    # From before there were digests, unless one stands here under another name: then it was the name that was damaged.
    suspects = [name for name, value in exact.items() if isinstance(value, str) and len(value) == 64]
    return not any(
        exact[name] == _sha256_of({key: value for key, value in exact.items() if key != name}) for name in suspects
    )


def _digest(text: str) -> str:
    return _sha256_of(_rest(text))


def _rest(text: str) -> dict[str, Any]:
    """Return a JSON object without its digest, with the characters of each number that is no integer."""
    values = json.loads(text, parse_float=str)
    if not isinstance(values, dict):
        raise ValueError(f"but a {type(values).__name__}")
    return {name: value for name, value in values.items() if name != OWN_DIGEST}


def _sha256_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(values)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON spelling of ``value`` (sorted keys, no spaces) that hashes are taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal sha256 of a file, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums_of(folder: str | os.PathLike[str], names: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of files of a folder by name, for `check_sums`."""
    return {name: sha256_of_file(Path(folder) / name) for name in names}


def check_sums(folder: str | os.PathLike[str], sums: Mapping[str, str], fix: str = "restore it from a copy") -> None:
    """Check that files of a folder are those that `sums_of` has seen.

    Raises:
        FileNotFoundError: one is missing.
        VerificationError: one was changed; the message names it.
    """
    for name, expected in sums.items():
        path = Path(folder) / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; {fix}")
        if (found := sha256_of_file(path)) != expected:
            raise VerificationError(
                f"{path} was changed after it was saved: its sha256 is {found[:12]}, expected {expected[:12]}; {fix}"
            )


def sha256_of_bytes(data: bytes) -> str:
    """Return the hexadecimal sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def recorded_run(folder: Path, name: str, *, no_folder: str, foreign: str) -> dict[str, Any] | None:
    """Return what a folder says of the run that it belongs to; None if it is free.

    Args:
        folder: where a run is about to write; need not exist.
        name: of the JSON file in it in which a run says what it is.
        no_folder: what to do where it is a file; ends the message.
        foreign: what is wrong where it holds other things, with ``{first}`` for one of them; ends the message.

    Raises:
        ValueError: it is a file, holds other things, or its file is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; {no_folder}")
    # Looked at before the file, which is there then if anything is that the same run has just begun to write elsewhere.
    others = sorted(item.name for item in folder.iterdir() if not is_partial(item.name)) if folder.exists() else []
    path = folder / name
    if path.exists():
        return read_signed(path, "restore it from a copy, or use another --out")
    if others:
        raise ValueError(f"{folder} {foreign.format(first=others[0])}")
    return None
