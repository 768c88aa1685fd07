"""Names beside the final one, ``NAME.partial-HOST-PID-RANDOM``, and who owns what stands under them.

Whoever writes such a file or folder holds a lock (``flock``) on it for as long as it is being written. The kernel lets go of the
lock when the process ends, however it ends, so that a clean-up needs to believe neither a process number (two containers may
both have their process 1, and numbers come back) nor a clock: what it can lock belongs to nobody. What carries the name of
another host, and what lies where there are no locks (some network file systems), is removed only when it has not been touched
for a day.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tokenize_kit.disk import explained, step

ABANDONED_SECONDS = 24 * 60 * 60
"""What cannot be known to be dead is taken for it when it has not been touched for so long."""

_LONGEST_NAME = 255
_LONGEST_HOST = 32
# Earlier versions said neither host nor random part.
_NAME = re.compile(r"^(.*)\.partial-(?:([A-Za-z0-9_.]+)-)?\d+(?:-[0-9a-f]{8})?$", re.DOTALL)


def partial_path(goal: Path) -> Path:
    """Return a name beside ``goal`` that no other host, process or call can have."""
    ending = f".partial-{_host()}-{os.getpid()}-{os.urandom(4).hex()}"
    name = goal.name.encode()[: _LONGEST_NAME - len(ending)].decode(errors="ignore")
    return goal.with_name(name + ending)


@contextmanager
def partial_file(goal: Path) -> Iterator[tuple[Path, int]]:
    """Make a file beside ``goal`` and own it until the block ends; an error in the block removes it.

    Yields its path and a descriptor that is open for writing; closing that is left to this block.

    Raises:
        OSError: the folder cannot be written.
    """
    with explained(goal):
        path, descriptor = _claimed(goal, lambda path: path.touch(exist_ok=False), os.O_RDWR)
    try:
        yield path, descriptor
    except BaseException:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def partial_folder(goal: Path) -> Iterator[Path]:
    """Make a folder beside ``goal`` and own it until the block ends; an error in the block removes it.

    Raises:
        OSError: the folder around it cannot be written.
    """
    with explained(goal):
        path, descriptor = _claimed(goal, Path.mkdir, os.O_RDONLY)
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def is_partial(name: str) -> bool:
    """Return whether a file name is one of those that `partial_path` makes, or that earlier versions made."""
    return _NAME.match(name) is not None


def remove_abandoned_below(folder: Path) -> None:
    """Do so with all that is in ``folder``, at any depth; what is not there need not be cleaned."""
    if folder.is_dir():
        remove_abandoned(list(folder.rglob("*.partial-*")))


def remove_abandoned_beside(goal: Path) -> None:
    """Do so with what was begun for ``goal``, beside it."""
    found = []
    with suppress(OSError), os.scandir(goal.parent) as entries:
        for entry in entries:
            match = _NAME.match(entry.name)
            # A long name was cut to make room for the ending.
            if match and (match[1] == goal.name or (len(match[1].encode()) > 100 and goal.name.startswith(match[1]))):
                found.append(Path(entry.path))
    remove_abandoned(found)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove those files and folders with partial names that nobody writes any more; the others are left alone."""
    for path in paths:
        if not is_partial(path.name):
            continue
        folder = path.is_dir()
        try:
            # For writing, because some network file systems lock nothing else.
            descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        except OSError:
            continue  # gone in the meantime, or not ours to touch
        try:
            if _is_abandoned(path, descriptor):
                step("remove", path)
                if folder:
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _is_abandoned(path: Path, descriptor: int) -> bool:
    found = _NAME.match(path.name)
    # Names of earlier versions say no host; nobody writes them any more.
    known = found is None or found[2] in (None, _host())
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        known = False
    return known or time.time() - os.fstat(descriptor).st_mtime > ABANDONED_SECONDS


def _claimed(goal: Path, make: Callable[[Path], None], flags: int) -> tuple[Path, int]:
    """Make something under a partial name, open it and lock it."""
    while True:
        path = partial_path(goal)
        step("make", path)
        make(path)
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            continue  # a clean-up was faster than the lock
        # Waits only for a clean-up that looks at it in this moment. Where there are no locks, its age protects it.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def _host() -> str:
    name = re.sub(r"[^A-Za-z0-9_.]", "_", os.uname().nodename) or "_"
    if len(name) <= _LONGEST_HOST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_HOST - 9]}_{digest}"
