"""Which samples are held out from training: one rule for every trainer and for the evaluation.

A sample is held out if the hash of its key says so. The rule looks at nothing else, so a sample stays on its side when data
is added or taken away, when it is read in another order, and in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["all", "train", "held-out"]
"""All samples, those that are trained on, or those that are held out."""


def key_fraction(key: str) -> float:
    """Return a number in [0, 1) from the sha256 of ``key`` alone."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    # 53 bits are what a float64 holds; with 64 the largest would round up to 1.
    return float((int.from_bytes(digest[:8], "big") >> 11) / (1 << 53))


def key_fractions(keys: Sequence[str]) -> NDArray[np.float64]:
    """Return `key_fraction` of each key, float64 of shape (N,)."""
    return np.fromiter(map(key_fraction, keys), np.float64, len(keys))


def check_fraction(fraction: float) -> None:
    """Refuse a held-out part that is negative or everything.

    Raises:
        ValueError: ``fraction`` is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"--validation-fraction {fraction} must be at least 0 and below 1")


def held_out(key: str, fraction: float) -> bool:
    """Return whether the sample of this key belongs to the held-out ``fraction`` (0 to 1) of the samples.

    The samples of a smaller fraction are among those of a larger one.
    """
    return key_fraction(key) < fraction


def in_part(key: str, part: Part, fraction: float) -> bool:
    """Return whether the sample of this key belongs to ``part`` where ``fraction`` of the samples are held out."""
    return part == "all" or held_out(key, fraction) == (part == "held-out")
