"""Standard input and pipes, which can be read only once: kept as a file for as long as the process lives.

So a plan can be made, a training can read its text twice, and several processes can read what one of them was given.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from tokenize_kit.compressed import unpacked
from tokenize_kit.errors import DamagedFileError
from tokenize_kit.partial import is_partial, partial_file, remove_abandoned

STANDARD_INPUT = ("-", "/dev/stdin")
"""How standard input is named."""

_NAME = "tokenize-kit-input"
_PIECE = 1 << 20
_LINES = 8
"""A line of JSON lines may be damaged, the first one too; so many are looked at."""
_SPACE = 1 << 10
"""What may stand before the first value."""
_ARRAY = re.compile(r"\[\s*\{")
_OBJECT = re.compile(r"\[?\s*\{\s*\"")
_AFTER = re.compile(r"\s*(?:[,{\]]|\Z)")
_MAGIC = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2", b"\xfd7zXZ\0": "xz"}


@dataclass(frozen=True)
class Spooled:
    """What came through a pipe."""

    path: str
    """The file that it is kept in."""
    size: int
    """Bytes."""
    digest: str
    """The sha256 of its bytes, by which a run that is continued knows that it was given the same."""
    compression: str
    """What its first bytes say: ``gz``, ``zst``, ``bz2``, ``xz`` or nothing."""
    kind: str
    """``jsonl`` or ``json`` if it begins with JSON objects, else nothing."""


@cache
def spooled(source: str) -> Spooled:
    """Read standard input or a pipe to its end, once in the life of the process, into a file in the folder for temporary ones.

    Raises:
        ValueError: standard input is a terminal.
        OSError: there is no room for the file.
    """
    if source in STANDARD_INPUT:
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError(f"{source} is standard input, and nothing is piped into it; pipe text or JSON into it")
        return _keep(sys.stdin.buffer)
    with Path(source).open("rb") as file:
        return _keep(file)


def is_kept(path: str) -> bool:
    """Return whether a file is what came through a pipe, in this process or the one that started it."""
    return Path(path).name.startswith(f"{_NAME}.") and is_partial(Path(path).name)


def _keep(file: IO[bytes]) -> Spooled:
    folder = Path(tempfile.gettempdir())
    remove_abandoned(folder.glob(f"{_NAME}.partial-*"))
    stack = ExitStack()
    atexit.register(stack.close)
    path, descriptor = stack.enter_context(partial_file(folder / _NAME))
    stack.callback(path.unlink, missing_ok=True)
    digest, size = hashlib.sha256(), 0
    try:
        with os.fdopen(os.dup(descriptor), "wb") as kept:
            while piece := file.read(_PIECE):
                kept.write(piece)
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        if error.filename is None:
            error.filename = f"{path}, where standard input is kept (TMPDIR says in which folder)"
        raise
    with path.open("rb") as kept:
        head = kept.read(_PIECE)
        compression = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
        if compression:
            kept.seek(0)
            head = _beginning(kept, compression)
    return Spooled(str(path), size, digest.hexdigest(), compression, _kind(head))


def _beginning(file: IO[bytes], compression: str) -> bytes:
    try:
        return unpacked(file, compression).read(_PIECE)
    except DamagedFileError:
        return b""  # reading it says what is wrong


def _kind(head: bytes) -> str:
    """Return ``jsonl`` or ``json`` if what is there begins with objects, a line each or in another layout; nothing for a text."""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith((b"{", b"[")):
        return ""
    lines = head.split(b"\n", _LINES)[:_LINES]
    if _is_object(lines[0]):
        return "jsonl"
    text = head.decode("utf-8", "replace")
    start = _ARRAY.match(text)
    try:
        value, end = json.JSONDecoder().raw_decode(text, start.end() - 1 if start else 0)
    except RecursionError:
        return "json"
    except ValueError:
        if not start and any(line.startswith(b"{") and _is_object(line) for line in lines):
            return "jsonl"
        if len(head) < _PIECE - _SPACE or not _OBJECT.match(text):
            return ""
        return "json" if start or len(lines) > 1 else "jsonl"  # a value that is longer than what was looked at
    return "json" if isinstance(value, dict) and _AFTER.match(text, end) else ""


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except RecursionError:
        return True
    except ValueError:
        return False
