"""Which colour of a palette is nearest: exact, for all 2^24 colours of 8 bits, at the price of one table look-up.

All coordinates are whole numbers (the channel values themselves, or Oklab in steps of 2^-16), so squared distances are
whole numbers too, every float64 below is exact, and ids are the same on every machine. Of equally near colours the one
with the lowest index wins, as in scikit-learn's ``KMeans.predict``, which takes 33 times as long for the same ids
(``benchmarks/palette.py``, 37.5 megapixels of photographs).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

COLOR_SPACES = ("rgb", "oklab")
OKLAB_STEPS = 1 << 16
"""Fixed-point steps of one unit of Oklab: twice what it takes for all 2^24 colours to come back from it."""

Array: TypeAlias = NDArray[Any]

# A cell holds the 16^3 colours whose channels agree in their high four bits.
_CELLS = 1 << 12
_CELL_SIDE = 16
# A table that this many cells or pixels were asked of will be asked for the rest: fill it and stop keeping count.
_ENOUGH_CELLS = 1 << 10
_ENOUGH_PIXELS = 1 << 22
_CHUNK = 1 << 14
_PIXELS_PER_THREAD = 1 << 17


def coordinates(colors: Array, space: str) -> Array:
    """Return where 8-bit sRGB colours lie in the colour space: uint8 ``(3, N)`` to whole numbers, float64 ``(3, N)``.

    Oklab is that of Björn Ottosson (https://bottosson.github.io/posts/oklab/), times `OKLAB_STEPS` and rounded.

    Raises:
        ValueError: the colour space is unknown.
    """
    if space not in COLOR_SPACES:
        raise ValueError(f"colour space {space!r} is not one of {', '.join(COLOR_SPACES)}")
    if space == "rgb":
        return colors.astype(np.float64)
    points: Array = np.rint(_ROOTS_TO_LAB @ np.cbrt(_LINEAR_TO_CONES @ _LINEAR[colors]) * OKLAB_STEPS)
    return points


def colors_at(points: Array, space: str) -> Array:
    """Return the 8-bit sRGB colours nearest to points of the colour space: the inverse of `coordinates`.

    Args:
        points: float ``(3, N)``; points outside the range of sRGB are clipped to it.
        space: one of `COLOR_SPACES`.
    """
    if space == "rgb":
        return _to_bytes(points)
    roots = np.linalg.inv(_ROOTS_TO_LAB) @ (points / OKLAB_STEPS)
    linear = (np.linalg.inv(_LINEAR_TO_CONES) @ roots**3).clip(0, 1)
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return _to_bytes(srgb * 255)


class NearestColor:
    """The index of the nearest palette colour for every 8-bit colour.

    The table of 2^24 entries is filled cell by cell as pictures ask for them, so that one small picture pays for its
    own colours only, and completely once it is used in earnest. A cell is cheap because a half-space test over its
    bounding box leaves few palette colours that can be nearest to any colour in it.

    Args:
        colors: uint8 ``(3, K)``, 1 to 65,536 sRGB colours.
        space: the colour space that distances are taken in.
    """

    def __init__(self, colors: Array, space: str) -> None:
        self._space = space
        self._points = coordinates(colors, space)
        self._squares = (self._points**2).sum(axis=0)
        self._table = np.zeros(1 << 24, np.uint8 if colors.shape[1] <= 1 << 8 else np.uint16)
        self._ready = np.zeros(_CELLS, bool)
        self._complete = False
        self._pixels_seen = 0
        self._lock = threading.Lock()

    def __call__(self, planes: Array, threads: int = 1) -> Array:
        """Return the int64 ids ``(N,)`` of pixels given as uint8 ``(3, N)``, using up to ``threads`` threads."""
        assert planes.dtype == np.uint8
        assert planes.shape == (3, planes.size // 3)
        count = planes.shape[1]
        if not self._complete:
            self._prepare(planes, threads)
        ids = np.empty(count, np.int64)
        parts = max(1, min(threads, count // _PIXELS_PER_THREAD))
        edges = [count * part // parts for part in range(parts + 1)]
        if parts == 1:
            self._gather(planes, ids)
        else:
            with ThreadPoolExecutor(parts) as pool:
                jobs = [
                    pool.submit(self._gather, planes[:, start:stop], ids[start:stop]) for start, stop in pairwise(edges)
                ]
                for job in jobs:
                    job.result()
        return ids

    def complete(self, threads: int = 1) -> Array:
        """Fill the whole table and return it: ``(2^24,)``, indexed by ``red << 16 | green << 8 | blue``."""
        with self._lock:
            self._fill(np.flatnonzero(~self._ready), threads)
            self._complete = True
        return self._table

    def _gather(self, planes: Array, ids: Array) -> None:
        # Bytes laid beside each other are the packed index already; pieces stay in the cache of one core.
        size = min(_CHUNK, len(ids))
        packed = np.zeros((size, 4), np.uint8)
        index = packed.view("<u4")[:, 0]
        found = np.empty(size, self._table.dtype)
        for start in range(0, len(ids), _CHUNK):
            part = ids[start : start + _CHUNK]
            for channel in range(3):
                packed[: len(part), 2 - channel] = planes[channel, start : start + _CHUNK]
            # Every index is below 2^24, so clipping changes nothing; it spares the buffer that checking would need.
            part[:] = np.take(self._table, index[: len(part)], out=found[: len(part)], mode="clip")

    def _prepare(self, planes: Array, threads: int) -> None:
        wanted = np.zeros(_CELLS, bool)
        high = (planes >> 4).astype(np.uint16)
        wanted[high[0] << 8 | high[1] << 4 | high[2]] = True
        with self._lock:
            missing = np.flatnonzero(wanted & ~self._ready)
            self._pixels_seen += planes.shape[1]
            used = int(self._ready.sum()) + len(missing)
            enough = self._pixels_seen >= _ENOUGH_PIXELS or used >= _ENOUGH_CELLS
            self._fill(np.flatnonzero(~self._ready) if enough else missing, threads)
            self._complete = enough

    def _fill(self, cells: Array, threads: int) -> None:
        if threads > 1 and len(cells) > 1:
            with ThreadPoolExecutor(threads) as pool:
                for job in [pool.submit(self._fill_cells, part.tolist()) for part in np.array_split(cells, threads)]:
                    job.result()
        else:
            self._fill_cells(cells.tolist())
        self._ready[cells] = True

    def _fill_cells(self, cells: Iterable[int]) -> None:
        table = self._table.reshape((_CELL_SIDE,) * 6)
        low = np.indices((_CELL_SIDE,) * 3, np.uint8).reshape(3, -1)
        for cell in cells:
            corner = np.array([[cell >> 8], [cell >> 4 & 15], [cell & 15]], np.uint8)
            inside = coordinates(corner << 4 | low, self._space)
            table[corner[0, 0], :, corner[1, 0], :, corner[2, 0], :] = self._nearest(inside).reshape((_CELL_SIDE,) * 3)

    def _nearest(self, inside: Array) -> Array:
        """Return the index of the nearest palette colour of each point ``(3, N)``; all arithmetic is in whole numbers."""
        candidates = self._candidates(inside.min(axis=1, keepdims=True), inside.max(axis=1, keepdims=True))
        if len(candidates) == 1:
            return np.full(inside.shape[1], candidates[0])
        # |c|^2 - 2 x.c orders as the distance does. Times a power of two above the number of candidates, plus the rank,
        # one minimum finds the nearest and the lowest index at once. Every term is below 2^50, so float64 is exact.
        scale = 1 << (len(candidates) - 1).bit_length()
        keys = (-2 * scale * self._points[:, candidates]).T @ inside
        keys += (self._squares[candidates] * scale + np.arange(len(candidates)))[:, None]
        # The rank is what the low bits hold, below zero as well (two's complement).
        nearest: Array = candidates[keys.min(axis=0).astype(np.int64) & (scale - 1)]
        return nearest

    def _candidates(self, low: Array, high: Array) -> Array:
        """Return the indices, ascending, of the palette colours that can be nearest to a point of the box ``(3, 1)``."""
        pivot = np.argmin(((self._points - (low + high) / 2) ** 2).sum(axis=0))
        # The pivot beats c on the whole box if |c|^2 - |p|^2 - 2 x.(c - p) > 0 at the corner x where it is smallest.
        difference = self._points - self._points[:, pivot, None]
        reach = np.maximum(low * difference, high * difference).sum(axis=0)
        return np.flatnonzero(self._squares - self._squares[pivot] <= 2 * reach)


_LINEAR_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_ROOTS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)


def _to_bytes(values: Array) -> Array:
    rounded: Array = np.rint(values).clip(0, 255).astype(np.uint8)
    return rounded
