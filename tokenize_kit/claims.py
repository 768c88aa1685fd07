"""Whose a folder is: one command at a time writes into it, and only the command that began it goes on with it.

A command that writes a folder owns it for as long as it works (``flock`` on the folder itself, which leaves no file behind and
ends with the process, however that ends). What it is making it says in a file there, before anything else is written: so the same
command can go on after it was stopped, and another one is refused before it has done harm.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tokenize_kit.disk import explained, step
from tokenize_kit.files import make_folder, read_json_object, write_json
from tokenize_kit.partial import is_partial, remove_abandoned_below

_PATIENCE = 10.0
"""Seconds to wait for another command that only looks whether the folder is its own."""


@contextmanager
def owned(folder: Path) -> Iterator[bool]:
    """Keep a folder for this command alone until the block ends; it is made if need be, and goes again if it stays empty.

    Yields whether that is certain: some network file systems know no locks.

    Raises:
        ValueError: it is a file, or another command writes into it.
        OSError: it cannot be made.
    """
    with _locked(folder, lambda descriptor: _lock(descriptor, fcntl.LOCK_EX)) as certain:
        if certain is None:
            raise ValueError(_busy(folder))
        yield certain


@contextmanager
def shared(folder: Path, begin: Callable[[bool], None]) -> Iterator[None]:
    """Keep a folder, until the block ends, for this command and others that do the same work.

    Args:
        folder: made if need be; it goes again if it stays empty.
        begin: called with whether nobody else is there, for certain; looks whether the folder belongs to this work, says so in it
            if it is nobody's, or raises ValueError. Where it is told True, nobody else looks at the same time.

    Raises:
        ValueError: it is a file, another command writes into it, or as ``begin``.
        OSError: it cannot be made.
    """

    def enter(descriptor: int) -> bool | None:
        alone = _lock(descriptor, fcntl.LOCK_EX)
        deadline = time.monotonic() + _PATIENCE
        while alone is None and _lock(descriptor, fcntl.LOCK_SH) is None:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)
        begin(alone is True)
        if alone:
            # The lock is not changed in one step: who came between has looked at what is there now, and so do we.
            while _lock(descriptor, fcntl.LOCK_SH) is None:
                time.sleep(0.02)
            begin(False)
        return bool(alone)

    with _locked(folder, enter) as entered:
        if entered is None:
            raise ValueError(_busy(folder))
        yield


@contextmanager
def begun(
    folder: Path,
    record: str,
    identity: Mapping[str, Any],
    *,
    lists: Collection[str] = (),
    own: Iterable[str] = (),
    overwrite: bool = False,
    foreign: str,
) -> Iterator[bool]:
    """Keep a folder for the files of one command, which says in a file there what it is making.

    One that has made nothing yet keeps no other out: where it ends so, what it said is taken back.

    Args:
        folder: where they go; made if need be.
        record: name of that file.
        identity: what decides the files, JSON-ready.
        lists: names of further files that only say what is to come.
        own: patterns of the names of all that such a command makes, which are removed where another one is overwritten.
        overwrite: whether what another command made may be replaced.
        foreign: what to do where it holds something else; ends the message.

    Yields:
        Whether it goes on with what the same command began.

    Raises:
        ValueError: the folder is a file, holds something else, or another command writes into it.
        OSError: it cannot be made.
    """
    with owned(folder):
        wanted = json.loads(json.dumps({"format_version": 1, **identity}))
        path, found = folder / record, None
        if path.is_file():
            # A damaged one is as if it were of another command.
            with suppress(ValueError):
                found = read_json_object(path)
        going_on = found == wanted
        plans = (*lists, record)
        if not going_on:
            # Without the record a list is somebody's own.
            known = plans if path.exists() else ()
            if _others(folder, known) and not overwrite:
                raise ValueError(f"{folder} is not an empty folder; {foreign}")
            for pattern in (*own, *plans):
                _remove(folder.glob(pattern))
            write_json(path, wanted)
        remove_abandoned_below(folder)
        try:
            yield going_on
        except BaseException:
            if not _others(folder, plans):
                _remove(folder / name for name in plans)
            raise


def _others(folder: Path, names: Collection[str]) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.name not in names and not is_partial(item.name))


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        step("remove", path)
        path.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path, enter: Callable[[int], bool | None]) -> Iterator[bool | None]:
    """Make and open a folder, have it locked by ``enter``, and let go of it in the end."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the name of a folder")
    made = _missing(folder)
    while True:
        make_folder(folder)
        try:
            with explained(folder):
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # another command has taken it away because it was empty
        try:
            result = enter(descriptor)
            if os.fstat(descriptor).st_nlink:
                yield result
                return
        finally:
            for empty in made:
                with suppress(OSError):
                    empty.rmdir()
            os.close(descriptor)


def _missing(folder: Path) -> list[Path]:
    """Return the folders that making one makes, the innermost first."""
    found = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        found.append(path)
    return found


def _lock(descriptor: int, kind: int) -> bool | None:
    """Return True if the lock is had, None if another has it, and False where there are no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else False
    return True


def _busy(folder: Path) -> str:
    return f"another command is writing into {folder} at this moment; wait until it has ended, or choose another --out"
