"""Files and fsspec URLs opened for reading, through gzip, zstandard, bzip2 or xz where they are compressed."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from tokenize_kit.compressed import unpacked
from tokenize_kit.errors import DamagedFileError, MissingPackageError

COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".bz2": "bz2", ".xz": "xz", ".bgz": "gz", ".zstd": "zst"}
"""What the ending of a compressed file says."""


@contextmanager
def open_source(url: str, compression: str = "") -> Iterator[IO[bytes]]:
    """Open a local file or fsspec URL for reading bytes; what is compressed is read forwards, see `tokenize_kit.compressed`.

    Reading raises `DamagedFileError` where the compressed data is cut or damaged, or followed by something else.

    Raises:
        FileNotFoundError: it does not exist.
        MissingPackageError: the URL's protocol needs a package that is not installed.
    """
    with _open_raw(url) as raw:
        if not compression:
            yield raw
            return
        with unpacked(raw, compression) as file:
            yield cast("IO[bytes]", file)


def read_exactly(file: IO[bytes], size: int) -> bytes:
    """Read ``size`` bytes, fewer only at the end: decompressors and remote files may return less at a time.

    Raises:
        DamagedFileError: there is damage among them.
    """
    parts: list[bytes] = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_up_to_damage(file: IO[bytes], size: int) -> bytes:
    """Read like `read_exactly`, but give what stands before damage, which the next call raises."""
    parts: list[bytes] = []
    try:
        while size > 0 and (part := file.read(size)):
            parts.append(part)
            size -= len(part)
    except DamagedFileError:
        if not parts:
            raise
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_into(file: IO[bytes], view: memoryview) -> int:
    """Fill ``view`` and return with how many bytes: fewer only at the end, and before damage, which the next call raises."""
    done = 0
    try:
        while done < len(view) and (size := file.readinto(view[done:])):  # type: ignore[attr-defined]
            done += size
    except DamagedFileError:
        if not done:
            raise
    return done


@contextmanager
def _open_raw(url: str) -> Iterator[IO[bytes]]:
    if "://" not in url:
        with Path(url).open("rb") as file:
            yield file
        return
    filesystem, path = filesystem_of(url)
    try:
        opened = filesystem.open(path, "rb")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        # Encrypted, or compressed in a way that zipfile does not know.
        raise DamagedFileError(f"it cannot be taken out of its archive: {error}") from None
    with opened as file:
        yield file


def filesystem_of(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path in it.

    Raises:
        MissingPackageError: its protocol needs a package that is not installed.
        ValueError: there is no such protocol, or what it leads to is damaged.
    """
    import fsspec

    if url.startswith("tar://"):
        raise ValueError(
            f"{url} cannot be opened: give the tar archive itself, {url.partition('::')[2] or 'by its path'}"
        )
    inside, chained, archive = url.partition("::")
    try:
        if chained and inside.startswith("zip://"):
            # The directory of an archive is read once, not for each of its files.
            filesystem, path = (
                _archive(inside[:6] + chained + archive, _written(archive)),
                inside.removeprefix("zip://"),
            )
        else:
            filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingPackageError(f"{url} needs a package that is not installed: {error}") from None
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{url} cannot be opened: {error}") from None
    return filesystem, str(path)


@lru_cache(maxsize=8)
def _archive(url: str, written: str) -> Any:
    del written  # only there so that an archive that is written anew is opened anew
    import fsspec

    return fsspec.core.url_to_fs(url)[0]


def _written(path: str) -> str:
    try:
        status = Path(path.removeprefix("file://")).stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def url_in(given: str, filesystem: Any, path: str) -> str:
    """Return the URL of a file that was found under ``given``, which may be chained, as in ``zip://*.jsonl::a.zip``."""
    first, chained, rest = given.partition("::")
    if not chained:
        return str(filesystem.unstrip_protocol(path))
    protocol, slashes, _ = first.partition("://")
    if slashes:
        return f"{protocol}://{path}::{rest}"
    return f"{first}::{rest.partition('://')[0]}://{path}" if "://" in rest else f"{first}::{path}"
