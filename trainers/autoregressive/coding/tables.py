"""Logits to integer frequencies, the same ones on every machine that is given the same logits.

A range coder is right only if both ends agree on every frequency, so nothing here is left to a library's ``exp``, whose last bit
differs between processors: a difference of logits becomes a number of 1/4096 bits, by one multiplication and one rounding that
IEEE 754 defines; two to the power of it is looked up in integers; and the sums are of integers. Frequencies sum to 2^24, and
each is at least 1, so that whatever is allowed can be coded, however improbable a model finds it.

What the rounding costs is far below the hundredth of bits that a file may have above the model's own: a table differs from the
softmax by 1/8192 bit where there is probability, and spends (number of ids) / 2^24 of it on ids that would have less.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRECISION = 24
"""Bits of the sum of all frequencies; what constriction's models have."""
TOTAL = 1 << PRECISION
_FRACTION = 12
"""Bits behind the point of a power of two."""
_UNIT = 30
"""Two to the power of this is the weight of the most probable id."""
_BITS_A_NAT = 1.4426950408889634
_AT_ONCE = 1 << 18
"""Logits that are worked on at once, so that what lies between stays in the processor's cache."""

Weights = NDArray[np.float64]


def weights_of(logits: NDArray[np.floating[Any]]) -> Weights:
    """Return for each row of logits (N, V) the frequencies less 1, whole numbers as float64 (N, V).

    Less 1, because constriction gives each id 1 and shares the rest by such weights: where they sum to the rest, 2^24 - V, it
    rescales nothing and has these frequencies exactly (held by a slow coder in the tests).

    Args:
        logits: of the ids that are allowed, 1 to 2^23 of them.

    Raises:
        ValueError: a logit is not a number, or infinite.
    """
    count, size = logits.shape
    if not 1 <= size <= TOTAL >> 1:
        raise ValueError(f"a table of {size:,} ids cannot be made of {TOTAL:,} parts")
    result = np.empty((count, size))
    rows = max(1, _AT_ONCE // size)
    for start in range(0, count, rows):
        result[start : start + rows] = _weights(logits[start : start + rows])
    return result


def frequencies_of(logits: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the frequencies themselves, int64 (N, V), each 1 at least; a row sums to 2^24."""
    return weights_of(logits).astype(np.int64) + 1


def _weights(logits: NDArray[np.floating[Any]]) -> Weights:
    size = logits.shape[1]
    best = logits.argmax(1)[:, None]
    values = logits.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the model's logits are not finite numbers; its weights are damaged, or its training diverged")
    np.subtract(np.take_along_axis(values, best, 1), values, out=values)
    values *= _BITS_A_NAT * (1 << _FRACTION)
    np.rint(values, out=values)
    np.minimum(values, (_UNIT + 1) << _FRACTION, out=values)
    power = values.astype(np.uint32)
    weights = _powers()[power & ((1 << _FRACTION) - 1)] >> (power >> _FRACTION)
    rest = TOTAL - size
    # Both are whole numbers below 2^53, so that the sum is exact in any order and the quotient is rounded once.
    share = rest / weights.sum(1, dtype=np.int64)[:, None].astype(np.float64)
    np.multiply(weights, share, out=values)
    np.floor(values, out=values)
    left = rest - values.sum(1, keepdims=True)
    np.put_along_axis(values, best, np.take_along_axis(values, best, 1) + left, 1)
    return values


@cache
def _powers() -> NDArray[np.uint32]:
    """Return 2^(30 - i / 4096) for i from 0 to 4095, rounded: in decimal arithmetic, which is the same everywhere."""
    with localcontext() as context:
        context.prec = 40
        root = Decimal(2).ln() / (1 << _FRACTION)
        exact = [(Decimal(1 << _UNIT)) * (-index * root).exp() for index in range(1 << _FRACTION)]
        return np.array([int(value.to_integral_value()) for value in exact], np.uint32)
