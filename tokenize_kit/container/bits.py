"""Ids as bits and numbers as varints, and a header taken apart again.

The bits are packed by NumPy, a row of ids of several widths at a time; with bitarray, id by id, it takes 67 times as long
for the same bytes (``benchmarks/libraries.py --only packing``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.errors import VerificationError

MAX_WIDTH = 32
"""The most bits of an id."""
MAX_NUMBER = 1 << 62
"""The largest number that a header may have."""
_CHUNK_BITS = 1 << 20


def bit_width(vocab_size: int) -> int:
    """Return how many bits an id below ``vocab_size`` takes: 0 where there is only one."""
    return (vocab_size - 1).bit_length()


def pack_ids(ids: NDArray[np.integer[Any]], widths: Sequence[int]) -> bytes:
    """Pack rows of ids, the most significant bit of each first.

    Args:
        ids: integers (rows, columns).
        widths: bits of an id of each column, 0 to 32.

    Returns:
        rows times the sum of the widths bits, filled up with zeros to whole bytes.

    Raises:
        ValueError: a width is out of range, there is not one a column, or an id needs more bits.
    """
    _check_widths(ids.shape[1], widths)
    limits = np.array([1 << width for width in widths], np.int64)
    shifts, columns = _places(widths)
    parts = []
    for rows in _row_chunks(len(ids), len(shifts)):
        values = ids[rows].astype(np.int64)
        if (outside := (values < 0) | (values >= limits)).any():
            wrong = values[outside][0]
            raise ValueError(f"id {wrong} does not fit into the bits of its codebook ({', '.join(map(str, widths))})")
        bits = (values[:, columns] >> shifts) & 1
        parts.append(np.packbits(bits.astype(np.uint8)).tobytes())
    return b"".join(parts)


def unpack_ids(data: bytes, rows: int, widths: Sequence[int]) -> NDArray[np.int64]:
    """Return the ids (rows, columns) that `pack_ids` packed.

    Raises:
        ValueError: the data has another length, a width is out of range, or the bits that only fill up are not zero.
    """
    _check_widths(len(widths), widths)
    total = sum(widths)
    if len(data) != -(-rows * total // 8):
        raise ValueError(f"{len(data)} bytes are not {rows} rows of {total} bits")
    ids = np.zeros((rows, len(widths)), np.int64)
    if rows and total:
        packed = np.frombuffer(data, np.uint8)
        if (filling := len(data) * 8 - rows * total) and packed[-1] & ((1 << filling) - 1):
            raise ValueError("the bits that fill the last byte are not zero")
        starts = np.cumsum([0, *widths])
        for chunk in _row_chunks(rows, total):
            count = chunk.stop - chunk.start
            first = chunk.start * total // 8
            part = packed[first : first + -(-count * total // 8)]
            bits = np.unpackbits(part, count=count * total).reshape(count, total)
            for column, (low, high) in enumerate(pairwise(starts)):
                for place in range(low, high):
                    ids[chunk, column] = (ids[chunk, column] << 1) | bits[:, place]
    return ids


class HeaderReader:
    """Takes a header apart.

    Args:
        data: the whole file.
        place: where to begin.
        name: how errors call the file.
    """

    def __init__(self, data: bytes, place: int, name: str) -> None:
        self._data, self.place, self._name = data, place, name

    def take(self, count: int) -> bytes:
        """Return the next bytes.

        Raises:
            VerificationError: there are fewer.
        """
        part = self._data[self.place : self.place + count]
        self.place += count
        if len(part) < count:
            raise VerificationError(f"{self._name} is cut short inside its header, or that was altered")
        return part

    def number(self, most: int = MAX_NUMBER) -> int:
        """Return the next varint.

        Raises:
            VerificationError: there is none, or one above ``most``.
        """
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 62:
                raise VerificationError(f"{self._name} is damaged: its header was altered")
        if value > most:
            raise VerificationError(f"{self._name} is damaged: its header was altered")
        return value

    def numbers(self, most: int) -> tuple[int, ...]:
        """Return as many varints as the first one says, ``most`` at most.

        Raises:
            VerificationError: see `number`.
        """
        return tuple(self.number() for _ in range(self.number(most)))


def varint(value: int) -> bytes:
    """Return a number, 0 or more, in 7 bits a byte, the lowest first."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _check_widths(columns: int, widths: Sequence[int]) -> None:
    if len(widths) != columns or not widths or any(not 0 <= width <= MAX_WIDTH for width in widths):
        raise ValueError(f"widths {tuple(widths)} must be one of 0 to {MAX_WIDTH} for each of {columns} columns")


def _places(widths: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each bit of a row by how much its id is shifted, and its column."""
    shifts = [place for width in widths for place in range(width - 1, -1, -1)]
    columns = np.repeat(np.arange(len(widths)), widths)
    return np.array(shifts, np.int64), cast("NDArray[np.int64]", columns)


def _row_chunks(rows: int, total: int) -> list[slice]:
    """Divide rows of ``total`` bits so that each chunk begins at a whole byte and the memory is bounded."""
    step = max(8, _CHUNK_BITS // max(1, total) // 8 * 8)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
