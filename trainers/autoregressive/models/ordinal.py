"""What a configuration says of a head for ids that are ordered: which ids these are, and how many logistics are mixed.

It loads no torch, so that a command line can build its options from it. The head itself is in `mixture`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from trainers.autoregressive.models.family import FamilyConfig

MIXTURES = 10
"""Logistics of a mixture, as in PixelCNN++."""

Ranges = tuple[tuple[int, int], ...]
"""Half-open intervals of ids."""


@dataclass(frozen=True)
class HeadConfig(FamilyConfig):
    """The fields of a family whose head can be one for ordered ids; it inherits from this instead of `FamilyConfig`."""

    of_the_data: ClassVar[Mapping[str, str]] = {"ordinal": "follows from the data"}
    head: Literal["softmax", "logistics"] = "softmax"
    """What a distribution over the next id is made of: a number for each id, or for ids that are ordered (raw pixels, samples of
    sounds) a mixture of logistics along their order, and a number for each other id."""
    mixtures: int = MIXTURES
    """Of the head logistics how many are mixed."""
    ordinal: Ranges = ()
    """Of the head logistics the ids that are ordered, from the first to before the last; training sets them by the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ordinal", checked_head(self.head, self.mixtures, self.ordinal, self.vocab_size))


def checked_head(head: str, mixtures: int, ordinal: Sequence[Sequence[int]], vocab_size: int) -> Ranges:
    """Return the ranges of a head as tuples.

    Raises:
        ValueError: they are said of a softmax, the head logistics has none, or they are no ranges of ids apart from each other.
    """
    if head == "softmax":
        if ordinal or mixtures != MIXTURES:
            raise ValueError("mixtures and ordinal are for the head logistics, not for softmax")
        return ()
    return checked_ranges(mixtures, ordinal, vocab_size)


def checked_ranges(mixtures: int, ordinal: Sequence[Sequence[int]], vocab_size: int) -> Ranges:
    """Return ranges of ordered ids as tuples.

    Raises:
        ValueError: there is none, or they are no ranges of ids apart from each other.
    """
    if mixtures < 1:
        raise ValueError(f"mixtures {mixtures} must be at least 1")
    if not ordinal:
        raise ValueError(
            "logistics need the ids that are ordered (ordinal): a stream of raw pixels, mulaw or pcm has such ids"
        )
    last = 0
    for pair in ordinal:
        if len(pair) != 2 or not last <= pair[0] < pair[1] - 1 or pair[1] > vocab_size:
            raise ValueError(
                f"ordinal {[list(one) for one in ordinal]} are no ranges of two ids or more each, ascending, among "
                f"{vocab_size} ids"
            )
        last = pair[1]
    return tuple((int(low), int(high)) for low, high in ordinal)
