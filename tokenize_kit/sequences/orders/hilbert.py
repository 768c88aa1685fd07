"""Along a Hilbert curve, so that what is near in the sequence is near in the picture, over any distance.

The curve of a rectangle of any size follows Červený's generalised construction (``gilbert``,
https://github.com/jakubcerveny/gilbert): a rectangle is cut in two if it is long, and else in three parts, which the curve
goes through along their sides. Neighbours in the sequence are neighbours in the picture, by a corner at most where a side is odd.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tokenize_kit.sequences.orders import Ints, PlaneOrder

Vector = tuple[int, int]


def _curve(start: Vector, along: Vector, across: Vector) -> Iterator[Vector]:
    """Yield the places (x, y) of the rectangle that two vectors span from a corner; the curve ends at the end of ``along``."""
    (x, y), (ax, ay), (bx, by) = start, along, across
    width, height = abs(ax + ay), abs(bx + by)
    unit = (_sign(ax), _sign(ay))
    side = (_sign(bx), _sign(by))
    if height == 1:
        yield from ((x + unit[0] * step, y + unit[1] * step) for step in range(width))
        return
    if width == 1:
        yield from ((x + side[0] * step, y + side[1] * step) for step in range(height))
        return
    half = (_halved(ax), _halved(ay))
    low = (_halved(bx), _halved(by))
    if 2 * width > 3 * height:
        if abs(half[0] + half[1]) % 2 and width > 2:
            half = (half[0] + unit[0], half[1] + unit[1])  # an even number of steps, where there is a choice
        yield from _curve(start, half, across)
        yield from _curve((x + half[0], y + half[1]), (ax - half[0], ay - half[1]), across)
        return
    if abs(low[0] + low[1]) % 2 and height > 2:
        low = (low[0] + side[0], low[1] + side[1])
    yield from _curve(start, low, half)
    yield from _curve((x + low[0], y + low[1]), along, (bx - low[0], by - low[1]))
    yield from _curve(
        (x + ax - unit[0] + low[0] - side[0], y + ay - unit[1] + low[1] - side[1]),
        (-low[0], -low[1]),
        (half[0] - ax, half[1] - ay),
    )


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _halved(value: int) -> int:
    return value // 2


def _walk(height: int, width: int) -> Ints:
    wide = ((width, 0), (0, height)) if width >= height else ((0, height), (width, 0))
    return np.array([y * width + x for x, y in _curve((0, 0), *wide)], dtype=np.int64)


HILBERT = PlaneOrder(_walk)
"""From the upper left corner along the curve."""
