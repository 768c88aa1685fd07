"""Files and fsspec URLs opened for reading, through gzip or zstandard where they are compressed."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from tokenize_kit.errors import MissingPackageError

COMPRESSIONS = {".gz": "gz", ".zst": "zst"}
"""What the ending of a compressed file says."""


@contextmanager
def open_source(url: str, compression: str = "") -> Iterator[IO[bytes]]:
    """Open a local file or fsspec URL for reading bytes, through gzip or zstandard if ``compression`` says so.

    Raises:
        FileNotFoundError: it does not exist.
        MissingPackageError: the URL's protocol needs a package that is not installed.
    """
    with _open_raw(url) as raw:
        if compression == "gz":
            with gzip.open(raw, "rb") as file:
                yield cast("IO[bytes]", file)
        elif compression == "zst":
            import zstandard

            # Parallel compressors simply join frames, so read across all of them.
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            with io.BufferedReader(reader, buffer_size=1 << 20) as file:
                yield cast("IO[bytes]", file)
        else:
            yield raw


def read_exactly(file: IO[bytes], size: int) -> bytes:
    """Read ``size`` bytes, fewer only at the end: decompressors and remote files may return less at a time."""
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
