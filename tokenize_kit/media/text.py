"""Text files: UTF-8 bytes to ``str`` and back, with every character kept (line ends and a byte order mark included)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO

from tokenize_kit import files


def read_text(data: bytes) -> str:
    """Decode UTF-8.

    Raises:
        ValueError: the bytes are not UTF-8; the message says where.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start} ({error.reason}); "
            "convert it to UTF-8"
        ) from None


def write_text(text: str, path: Path) -> None:
    """Write a ``str`` as a UTF-8 file, whole or not at all.

    Raises:
        ValueError: it holds a lone surrogate, which UTF-8 cannot spell.
    """
    try:
        files.write_text(path, text)
    except UnicodeEncodeError as error:
        raise ValueError(f"a lone surrogate at character {error.start} cannot be written as UTF-8") from None


def pour_text(pieces: Iterable[str], file: IO[bytes]) -> None:
    """Write the pieces of a text as UTF-8, each before the next is asked for.

    Raises:
        ValueError: one holds a lone surrogate.
        OSError: the file takes no more.
    """
    for piece in pieces:
        try:
            data = piece.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"a lone surrogate at character {error.start} cannot be written as UTF-8") from None
        file.write(data)
        file.flush()
