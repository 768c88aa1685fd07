"""Files that are opened when they are decoded, instead of being read into memory first: films, and what goes with them."""

from __future__ import annotations

import io
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

SPOOL_BYTES = 64 << 20
"""What comes from elsewhere (a URL, a tar) and is larger is kept on the disk until it is decoded."""

_PIECE = 1 << 20


class StoredFile:
    """A file on this machine.

    Args:
        name: what it is called, for kinds of files that do not say themselves what they are.
        size: bytes.
        path: where it lies.
        kept: instead of it, an open file without a name, which is gone when this object is.
    """

    def __init__(self, name: str, size: int, path: Path | None = None, kept: IO[bytes] | None = None) -> None:
        assert (path is None) != (kept is None), "a stored file lies somewhere, and only there"
        self.name, self.size = name, size
        self._path, self._kept = path, kept

    def open(self) -> IO[bytes]:
        """Open it for reading; each caller has a place of its own in it.

        Raises:
            OSError: it is gone, or may not be read.
        """
        if self._path is not None:
            return self._path.open("rb")
        return cast("IO[bytes]", io.BufferedReader(_View(cast("IO[bytes]", self._kept), self.size), _PIECE // 16))

    def read(self) -> bytes:
        """Return all of it."""
        with self.open() as file:
            return file.read()


class LazyFile:
    """A file of a sample, read or opened when it is called for."""

    def __call__(self) -> bytes:
        """Return its bytes.

        Raises:
            ValueError, OSError: it cannot be read.
        """
        raise NotImplementedError

    def stored(self, name: str) -> StoredFile | None:
        """Return it as a file that is opened when it is decoded; None if it is as well to have its bytes."""
        raise NotImplementedError


def spooled(name: str, file: IO[bytes], size: int) -> StoredFile:
    """Keep the next ``size`` bytes of a file on the disk, in the folder for temporary files, without a name.

    Raises:
        ValueError: it ends early.
        OSError: there is no room.
    """
    # Closed when the stored file is let go; it has no name, so that nothing is left behind if the process is killed.
    kept = cast("IO[bytes]", tempfile.TemporaryFile())  # noqa: SIM115
    left = size
    try:
        while left and (piece := file.read(min(left, _PIECE))):
            kept.write(piece)
            left -= len(piece)
        kept.flush()
    except OSError as error:
        with suppress(OSError):
            kept.close()
        if error.filename is None:
            error.filename = (
                f"{tempfile.gettempdir()}, where a film is kept while it is read (TMPDIR says in which folder)"
            )
        raise
    if left:
        kept.close()
        raise ValueError(f"it ends after {size - left} of {size} bytes")
    return StoredFile(name, size, kept=kept)


class _View(io.RawIOBase):
    """An open file read from a place of its own."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__()
        self._file, self._size, self._place = file, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._file.fileno(), len(buffer), self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
