"""Files as accidents leave them: single bits turned, and JSON files from before there were digests."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from pathlib import Path

from tokenize_kit.files import OWN_DIGEST


def places(size, count, seed=0):
    """Return ``count`` different bits of ``size`` bytes, or all there are, in an order that the seed decides."""
    return random.Random(seed).sample(range(8 * size), min(count, 8 * size))


@contextmanager
def flipped(path, bit):
    """Turn one bit of a file, and turn it back."""
    original = Path(path).read_bytes()
    data = bytearray(original)
    data[bit // 8] ^= 1 << bit % 8
    Path(path).write_bytes(data)
    try:
        yield
    finally:
        Path(path).write_bytes(original)


def unsigned(values, *more):
    """Return what a JSON file says without its digest, and without ``more``, as it was written before there were sums."""
    return {name: value for name, value in values.items() if name not in (OWN_DIGEST, *more)}


def read_unsigned(path, *more):
    """Return `unsigned` of a file."""
    return unsigned(json.loads(Path(path).read_text()), *more)
