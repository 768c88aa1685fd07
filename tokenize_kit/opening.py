"""Files and fsspec URLs opened for reading, through gzip, zstandard, bzip2 or xz where they are compressed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from tokenize_kit.compressed import unpacked
from tokenize_kit.errors import MissingPackageError

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


@contextmanager
def _open_raw(url: str) -> Iterator[IO[bytes]]:
    if "://" not in url:
        with Path(url).open("rb") as file:
            yield file
        return
    filesystem, path = filesystem_of(url)
    with filesystem.open(path, "rb") as file:
        yield file


def filesystem_of(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path in it.

    Raises:
        MissingPackageError: its protocol needs a package that is not installed.
        ValueError: there is no such protocol.
    """
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingPackageError(f"{url} needs a package that is not installed: {error}") from None
    except ValueError as error:
        raise ValueError(f"{url} cannot be opened: {error}") from None
    return filesystem, str(path)
