"""Where texts are divided: documents out of byte ranges, with no byte lost and none read twice.

A `Splitter` knows where records begin (lines, paragraphs). A unit that covers the bytes ``[a, b)`` of a file takes the
records that begin between the first boundary at or after ``a`` and the first at or after ``b``, so units need not know of
each other. Joining all documents of a file in order gives back its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.opening import read_exactly, read_into

BLOCK_BYTES = 8 << 20
"""How much text is read, encoded and written at a time."""

_FIRST_BYTES = 1 << 20
"""The first block is small, so that encoding begins early; each is then twice as large as the one before."""

_SCAN = 1 << 16
_PARAGRAPH = re.compile(rb"\n(?:[ \t\r]*\n)+(?=[ \t\r]*[^ \t\r\n])")


class Splitter(Protocol):
    """Finds the beginnings of records in bytes that begin with one."""

    def starts(self, data: bytes) -> NDArray[np.int64]:
        """Return where records begin in ``data``, 0 not included."""
        ...

    def last_start(self, data: bytearray, size: int) -> int:
        """Return the last of the `starts` in the first ``size`` bytes, or 0 if there is none."""
        ...

    def certain(self, data: bytes) -> int:
        """Return how many bytes surely belong to the record at 0, if ``data`` has no start."""
        ...

    def boundary(self, file: IO[bytes], nominal: int) -> int:
        """Return the first record start at or after ``nominal`` (0 stays 0), or the length of the file."""
        ...


class LineSplitter:
    r"""Lines end with ``\n`` and keep it; no other character ends one."""

    def starts(self, data: bytes) -> NDArray[np.int64]:
        """See `Splitter`."""
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10) + 1
        return ends[:-1] if len(ends) and ends[-1] == len(data) else ends

    def last_start(self, data: bytearray, size: int) -> int:
        """See `Splitter`; a newline at the very end counts too, since the next line surely begins there."""
        return data.rfind(b"\n", 0, size) + 1

    def certain(self, data: bytes) -> int:
        """See `Splitter`."""
        return len(data)

    def boundary(self, file: IO[bytes], nominal: int) -> int:
        """See `Splitter`."""
        if nominal <= 0:
            return 0
        position = nominal - 1
        file.seek(position)
        while block := file.read(_SCAN):
            found = block.find(b"\n")
            if found >= 0:
                return position + found + 1
            position += len(block)
        return position


class ParagraphSplitter:
    """Paragraphs end with one or more blank lines (only spaces, tabs or a carriage return) and keep them."""

    def starts(self, data: bytes) -> NDArray[np.int64]:
        """See `Splitter`."""
        return np.array([match.end() for match in _PARAGRAPH.finditer(data)], np.int64)

    def last_start(self, data: bytearray, size: int) -> int:
        """See `Splitter`."""
        starts = self.starts(bytes(memoryview(data)[:size]))
        return int(starts[-1]) if len(starts) else 0

    def certain(self, data: bytes) -> int:
        """See `Splitter`; spaces at the end may indent the first line of the next paragraph."""
        return len(data.rstrip(b" \t\r"))

    def boundary(self, file: IO[bytes], nominal: int) -> int:
        """See `Splitter`. Blank lines are looked for from the first line that begins at or after ``nominal``."""
        if nominal <= 0:
            return 0
        position = LineSplitter().boundary(file, nominal)
        file.seek(position)
        # A newline before the text lets a blank first line be seen as one.
        data = b"\n"
        while True:
            found = _PARAGRAPH.search(data)
            if found:
                return position + found.end() - 1
            block = file.read(_SCAN)
            if not block:
                return position + len(data) - 1
            # Only the end of what was searched can be the beginning of a match.
            keep = data[len(data.rstrip(b" \t\r\n")) :] or data[-1:]
            position += len(data) - len(keep)
            data = keep + block


@dataclass(frozen=True)
class TextBlock:
    """Some consecutive bytes of a file."""

    offset: int
    """Where in the (decompressed) file it begins."""
    data: bytes
    whole: bool
    """Whether it ends with a whole record; False if a record longer than the limit was cut here."""


def record_blocks(
    file: IO[bytes], start: int, stop: int | None, splitter: Splitter, limit: int, block_bytes: int = BLOCK_BYTES
) -> Iterator[TextBlock]:
    """Yield the bytes ``[start, stop)`` in blocks that end where a record ends.

    A record longer than ``limit`` bytes is cut by `cut_place`, each cut ending a block.

    Args:
        file: positioned at ``start``.
        start: the offset of a record start.
        stop: the offset of a record start, or None for the end of the file.
        splitter: what a record is.
        limit: the longest record that is kept whole.
        block_bytes: about how large a block is, once the first ones are done.

    Raises:
        DamagedFileError: the file is damaged; the whole records before came first.
    """
    position, size = start, min(_FIRST_BYTES, block_bytes)
    # One buffer for all blocks, so that their bytes are copied once and no fresh memory is asked for on the way.
    buffer, filled = bytearray(), 0

    def taken(cut: int, whole: bool) -> TextBlock:
        nonlocal position, filled
        block = TextBlock(position, bytes(memoryview(buffer)[:cut]), whole)
        buffer[: filled - cut] = buffer[cut:filled]
        position, filled = position + cut, filled - cut
        return block

    while True:
        wanted = size if stop is None else min(size, stop - position - filled)
        size = min(2 * size, block_bytes)
        if len(buffer) < filled + wanted:
            buffer += bytes(filled + wanted - len(buffer))
        with memoryview(buffer) as view:
            read = read_into(file, view[filled : filled + wanted])
        if not read:
            break
        filled += read
        if cut := splitter.last_start(buffer, filled):
            yield taken(cut, True)
        while filled > limit and splitter.certain(bytes(buffer[:filled])) > limit:
            yield taken(cut_place(bytes(buffer[: limit + 1]), limit), False)
    while filled > limit:
        yield taken(cut_place(bytes(buffer[: limit + 1]), limit), False)
    if filled:
        yield taken(filled, True)


def cut_place(data: bytes, limit: int) -> int:
    """Return where to cut ``data``, which is longer than ``limit``: at most ``limit``, more than half of it.

    After a newline if there is one near, else after a space, else between two UTF-8 characters.
    """
    return limit - len(_tail(data[limit // 2 : limit], data[limit : limit + 1]))


def cut_record(data: bytes, limit: int) -> list[bytes]:
    """Cut one record into parts of at most ``limit`` bytes, as `record_blocks` does."""
    parts = []
    begin = 0
    while len(data) - begin > limit:
        cut = cut_place(data[begin : begin + limit + 1], limit)
        parts.append(data[begin : begin + cut])
        begin += cut
    return [*parts, data[begin:]]


def cut_stream(file: IO[bytes], limit: int) -> Iterator[bytes]:
    """Yield what a file holds in the parts that `cut_record` would give, without holding all of it."""
    buffer = read_exactly(file, limit + 1)
    while len(buffer) > limit:
        cut = cut_place(buffer, limit)
        yield buffer[:cut]
        buffer = buffer[cut:]
        buffer += read_exactly(file, limit + 1 - len(buffer))
    yield buffer


@dataclass(frozen=True)
class Document:
    """One document of a txt file, or one part of a file that is too large."""

    part: int | None
    """Number of the part; None if it is the whole file."""
    data: bytes


def whole_documents(file: IO[bytes], limit: int, start: int = 0, stop: int | None = None) -> Iterator[Document]:
    """Yield a txt file as one document or, if it is longer than ``limit`` bytes, in parts of about ``limit`` bytes.

    Part k begins near byte ``k * limit``, at the boundary that `cut_place` would choose before it, whatever the file holds
    elsewhere; so a file can be read from any part on.

    Args:
        file: the file, at its beginning; it must be seekable if ``start`` is not 0.
        limit: about how long a part is.
        start: a multiple of ``limit``.
        stop: a multiple of ``limit`` or the length of the file; None reads to the end.
    """
    number = start // limit
    window = min(limit // 2, 1 << 16)
    begin = 0
    if number:
        file.seek(start - window)
        near = read_exactly(file, window + 1)
        begin = start - len(_tail(near[:window], near[window:]))
        file.seek(begin)
    buffer = b""
    last = None if stop is None else -(-stop // limit)
    while last is None or number < last:
        # One byte more than the part tells whether another one follows.
        wanted = (number + 1) * limit + 1 - begin - len(buffer)
        buffer += read_exactly(file, wanted)
        reach = (number + 1) * limit - begin
        if len(buffer) <= reach:
            yield Document(number if number else None, buffer)
            return
        cut = reach - len(_tail(buffer[max(0, reach - window) : reach], buffer[reach : reach + 1]))
        yield Document(number, buffer[:cut])
        number, begin, buffer = number + 1, begin + cut, buffer[cut:]


def _tail(before: bytes, after: bytes) -> bytes:
    """Return the end of ``before`` that a cut should leave to the next part; ``after`` is the byte that follows."""
    cut = before.rfind(b"\n") + 1 or before.rfind(b" ") + 1
    if cut:
        return before[cut:]
    cut = len(before)
    # A UTF-8 character has at most three continuation bytes; more of them are not UTF-8, and any place will do.
    following = after
    while following and following[0] & 0xC0 == 0x80 and cut and len(before) - cut < 3:
        cut -= 1
        following = before[cut : cut + 1]
    if following and following[0] & 0xC0 == 0x80:
        return b""
    return before[cut:]
