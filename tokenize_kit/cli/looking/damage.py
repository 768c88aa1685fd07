"""Reading until something is damaged."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable
from typing import IO, Any

import zstandard

from tokenize_kit.opening import open_source
from tokenize_kit.sources.blocks import one_line

DAMAGE = (ValueError, EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, tarfile.TarError)
"""What damaged files raise when they are read."""


def up_to_damage(url: str, compression: str, work: Callable[[IO[bytes]], Any]) -> str:
    """Let something read a file from its beginning; return what is damaged, and nothing if all of it was read.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read because of the machine or the network.
    """
    try:
        with open_source(url, compression) as file:
            work(file)
    except DAMAGE as error:
        return one_line(error)
    return ""
