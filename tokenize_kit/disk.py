"""What is done to the disk: each step is told to whoever watches, each refusal of the system comes with the way out.

Every file that a command makes goes through here: `tokenize_kit.partial` and `tokenize_kit.files` announce what they are about
to make, write, sync, rename or remove. Nobody watches in use. The tests put a function in `watch` that raises at one of the
steps, and ``benchmarks/kill_all.py`` one that kills the process there, so that every moment at which a command can end is tried.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

watch: Callable[[str, Path], None] | None = None
"""Told of each step before it is done: ``make``, ``write``, ``sync``, ``rename`` or ``remove``, and of what; None in use."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that say there is no room."""

_ADVICE = {
    errno.ENOSPC: "make room and run the same command again",
    errno.EDQUOT: "make room, or ask for more, and run the same command again",
    errno.EFBIG: "this disk or 'ulimit -f' allows no file as large; raise the limit, or write to another disk",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EPERM: "choose a folder that you may write to, or change its permissions",
    errno.ENAMETOOLONG: "choose a shorter name, or a folder nearer to the root",
    errno.ENOTDIR: "a part of this path is a file; choose another folder",
    errno.EIO: "the disk does not work as it should; look at it, or write to another one",
    errno.EMFILE: "raise 'ulimit -n' and run the same command again",
}


def step(what: str, path: Path) -> None:
    """Announce what is about to be done, and to what."""
    if watch is not None:
        watch(what, path)


@contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give errors of writing, making or renaming ``path`` its name and what to do about them.

    Raises:
        OSError: as it was raised in the block, with ``path`` as its file and the way out behind its words.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE or _is_explained(error):
            raise
        raise _explained(error, path) from error


@contextmanager
def explained_if_full(path: str | os.PathLike[str]) -> Iterator[None]:
    """The same for a block that writes ``path`` among other things: only what can come from nothing else."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise
        raise _explained(error, path) from error


def opened(descriptor: int, path: Path) -> IO[bytes]:
    """Return a buffered file for writing around a copy of a descriptor; ``path`` is what it is of."""
    copy = os.dup(descriptor)
    return os.fdopen(copy, "wb") if watch is None else io.BufferedWriter(_Watched(copy, path))


def _explained(error: OSError, path: str | os.PathLike[str]) -> OSError:
    assert error.errno is not None
    return OSError(error.errno, f"{os.strerror(error.errno)}; {_ADVICE[error.errno]}", os.fspath(path))


def _is_explained(error: OSError) -> bool:
    return error.filename is not None and (error.strerror or "").endswith(_ADVICE.get(error.errno or 0, "\n"))


class _Watched(io.FileIO):
    """A file whose every write is announced."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "wb")
        self._path = path

    def write(self, data: Any, /) -> int:
        step("write", self._path)
        return super().write(data)
