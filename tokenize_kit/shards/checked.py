"""Shards are read through once a machine before they are used: is each what its manifest says, to the bit?

Arrow trusts what it maps: a flipped bit in the offsets of a shard can end the process. So the sha256 of a shard is compared
before it is opened. What was found right is remembered by the machine, in a file for each shard set in the user's cache
directory: a line for each shard, a digest over its path, size, times, inode and sha256. Whatever is changed in or about the
shard makes another line, and a damaged or lost cache only makes for another look. Lines are appended under a lock, so that of
several processes that open a set at once (the ranks of a training) one reads its shards and the others wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tokenize_kit.errors import VerificationError
from tokenize_kit.files import canonical_json, sha256_of_file
from tokenize_kit.shards.format import MANIFEST_FILE, FileEntry

YOUNG_SECONDS = 2.0
"""A file that was changed so recently is not remembered: another change might not show in its times."""
LARGE_BYTES = 2_000_000_000
"""From here on it is said that shards are read through."""
_THREADS = 4
_DIGITS = 32


def cache_folder() -> Path | None:
    """Return where this machine keeps what can be made again, or None if the user has no home."""
    if given := os.environ.get("TOKENIZE_KIT_CACHE"):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenize-kit"
    except RuntimeError:
        return None


def check_shards(folder: Path, files: Sequence[FileEntry], note: Callable[[str], None] | None = None) -> None:
    """Compare the sha256 of shards with what the manifest says, except of those that this machine has found right already.

    Args:
        folder: of the shard set.
        files: which of its shards.
        note: is told where so much is read that it takes a while.

    Raises:
        FileNotFoundError: one is missing.
        VerificationError: one is not what was written.
    """
    memory = _memory_of(folder)
    known = _lines(memory)
    if all(_line(folder, file) in known for file in files):
        return
    with _locked(memory) as record:
        # Another process may have read them while this one waited for the lock.
        known = _lines(memory)
        left = [file for file in files if _line(folder, file) not in known]
        if note is not None and (size := sum(file.bytes for file in left)) >= LARGE_BYTES:
            gigabytes = f"{size / 1e9:,.1f} GB"
            note(
                f"{folder}: {gigabytes} of shards are read through, once on this machine (--trust-shards leaves it out)"
            )
        with ThreadPoolExecutor(min(_THREADS, max(1, len(left)))) as threads:
            found = list(threads.map(lambda file: _read_through(folder, file), left))
        if record is not None:
            with suppress(OSError):
                record.write("".join(f"{line}\n" for line in found if line).encode())


def check_size(folder: Path, file: FileEntry) -> None:
    """Check that a shard is there and as long as the manifest says.

    Raises:
        FileNotFoundError: it is missing.
        VerificationError: it has another size.
    """
    path = folder / file.name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; restore it from a copy or run the command again that wrote it")
    if (size := path.stat().st_size) != file.bytes:
        raise VerificationError(f"{path} has {size} bytes, {MANIFEST_FILE} says {file.bytes}; {_fix(path)}")


def _read_through(folder: Path, file: FileEntry) -> str:
    """Check one shard, and return its line; nothing if it may still change without showing it."""
    check_size(folder, file)
    path = folder / file.name
    line, changed = _line(folder, file), max(path.stat().st_mtime, path.stat().st_ctime)
    if (found := sha256_of_file(path)) != file.sha256:
        raise VerificationError(
            f"{path} is damaged: its sha256 is {found[:12]}, {MANIFEST_FILE} says {file.sha256[:12]}; {_fix(path)}"
        )
    return line if time.time() - changed > YOUNG_SECONDS else ""


def _fix(path: Path) -> str:
    return f"restore {path.name} from a copy, or remove it and run the command again that wrote it"


def _line(folder: Path, file: FileEntry) -> str:
    """Return what is remembered of a shard as it lies there now."""
    try:
        stat = (folder / file.name).stat()
    except OSError:
        return ""
    # Also the time of the last change of the inode, which nothing but the system can set.
    known = [file.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev, file.sha256]
    return hashlib.sha256(canonical_json(known)).hexdigest()[:_DIGITS]


def _memory_of(folder: Path) -> Path | None:
    home = cache_folder()
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:_DIGITS]
    return None if home is None else home / "checked" / name


def _lines(memory: Path | None) -> set[str]:
    if memory is None:
        return set()
    try:
        return {line for line in memory.read_text(errors="replace").splitlines() if len(line) == _DIGITS}
    except OSError:
        return set()


@contextmanager
def _locked(memory: Path | None) -> Iterator[IO[bytes] | None]:
    """Open what is remembered of a set for appending, alone; None where it cannot be written: then nothing is remembered."""
    record: IO[bytes] | None = None
    with suppress(OSError):
        if memory is not None:
            memory.parent.mkdir(parents=True, exist_ok=True)
            record = memory.open("ab", buffering=0)
            fcntl.flock(record, fcntl.LOCK_EX)  # not everywhere: then several processes read the same shards
    try:
        yield record
    finally:
        if record is not None:
            record.close()
