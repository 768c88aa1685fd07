"""Rate and distortion of a tokenizer beside the classical codecs, on the same few samples.

What is coded how, and how it is measured, each kind of data says in its `Codecs`, which its `Modality` names; here is what
all comparisons have in common: which samples are taken, the tokenizer's points, the codecs' curves, who is near whom.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from torch import Tensor

from tokenize_kit.metrics.usage import Usage
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import Tokenizer, decode_like, first_codebooks, modality_of

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample

P = TypeVar("P")

_BATCH = 8
_TOKENS_PROTOCOL = (
    "Fixed length: ids x log2 of the codebook's size, without a header. Order-0 entropy: ids x the entropy of the codebook's ids "
    "over the whole evaluation; an estimate of what an entropy coder with that table would need."
)


class Column(NamedTuple):
    """A number of a point, as a table of the report has it."""

    label: str
    """What it is called."""
    attribute: str
    """Where it is in the point."""
    missing: str = "not defined"
    """What is said where it is None."""
    of_codecs: bool = True
    """Whether the table has it of the codecs too."""


class Plot(NamedTuple):
    """A plot of one number of the points over another one."""

    x: str
    """Where the rate is in a point."""
    x_label: str
    """What it is called."""
    y: str
    """Where the quality is in a point; what has none is left out."""
    y_label: str
    """What it is called."""


class Curve(NamedTuple, Generic[P]):
    """What one codec reaches."""

    points: list[P]
    """At chosen settings."""
    nearest: list[P]
    """For each point of the tokenizer the one of the nearest rate."""


class Codecs(ABC, Generic[P]):
    """The classical codecs of one kind of data, and how size and loss are measured on it.

    ``P`` is a frozen dataclass, one point of a curve: numbers, and a ``name``. Built with the tokenizer's spec.
    """

    columns: ClassVar[tuple[Column, ...]]
    """The table of the report."""
    plots: ClassVar[tuple[Plot, ...]]
    """The plots of the report."""
    codec_by_codec: ClassVar[bool] = False
    """Whether the neighbours are listed codec by codec; else point by point."""

    @property
    @abstractmethod
    def budget(self) -> int:
        """How much the codecs are given at most, as `weight` counts it."""

    @abstractmethod
    def weight(self, sample: Tensor) -> int:
        """Return what a sample takes of the budget."""

    @abstractmethod
    def available(self, samples: Sequence[Tensor]) -> tuple[str, ...]:
        """Return the codecs of this machine that take such samples."""

    @abstractmethod
    def point(self, name: str, pairs: Sequence[tuple[Tensor, Tensor]], bits: float) -> P:
        """Return the point of originals and what came back for them, which took so many bits in all."""

    @abstractmethod
    def recoded(self, point: P, name: str, samples: Sequence[Tensor], bits: float, before: float) -> P:
        """Return a point with the same loss at other ``bits``, of the bits ``before`` that it had."""

    @abstractmethod
    def curve(self, samples: Sequence[Tensor], codec: str, ours: Sequence[P]) -> Curve[P]:
        """Return what a codec reaches on the same samples, near the points of the tokenizer."""

    @abstractmethod
    def said_of(self, samples: Sequence[Tensor]) -> str:
        """Return which samples were compared, as the first line of the protocol."""

    @abstractmethod
    def protocol(self) -> str:
        """Return how the codecs were set and measured, one line a subject."""


class Coded(NamedTuple):
    """A sample and its ids."""

    sample: Tensor
    """As the tokenizer takes it."""
    ids: Tensor
    """The whole grid."""


class Picks:
    """Keeps the first samples of a run for the comparison, within a bound of their number and weight; at least one."""

    def __init__(self, limit: int, codecs: Codecs[Any]) -> None:
        self.items: list[Coded] = []
        """What was kept."""
        self._codecs = codecs
        self._left = limit
        self._budget = codecs.budget

    def offer(self, sample: Tensor, ids: Tensor) -> None:
        """Keep a sample if there is room; after the first that does not fit, none is kept."""
        self._budget -= self._codecs.weight(sample)
        if self._left and (self._budget >= 0 or not self.items):
            self._left -= 1
            self.items.append(Coded(sample, ids))
        else:
            self._left = 0


@dataclass(frozen=True)
class Neighbour(Generic[P]):
    """A point of the tokenizer and the point of one codec that is nearest to it in rate."""

    ours: P
    """The tokenizer's point."""
    codec: P
    """The codec's point of the nearest rate."""


@dataclass(frozen=True)
class RateComparison(Generic[P]):
    """What the tokenizer and the codecs make of the same samples."""

    plural: str
    """What the samples are called."""
    samples: int
    """How many were compared."""
    fixed_rate: list[P]
    """The tokenizer with ids of a fixed length; one point for each number of codebooks."""
    entropy_coded: list[P]
    """The same with ids at their order-0 entropy: an estimate, no file is written."""
    codecs: dict[str, list[P]]
    """The curve of each codec."""
    nearest: list[Neighbour[P]]
    """For each point of the tokenizer the nearest of each codec."""
    protocol: str
    """How it was measured, one line a subject."""
    columns: tuple[Column, ...] = field(default=(), repr=False)
    """The table of the report."""
    plots: tuple[Plot, ...] = field(default=(), repr=False)
    """The plots of the report."""

    def near(self, point: P, codec: str) -> P:
        """Return the point of a codec that is nearest to a point of the tokenizer."""
        known = self.codecs[codec]
        return next(pair.codec for pair in self.nearest if pair.ours == point and pair.codec in known)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; the number of samples is under what they are called."""
        values = asdict(self)
        for name in ("plural", "samples", "columns", "plots"):
            del values[name]
        return {self.plural: self.samples, **values}


def compare(
    codecs: Codecs[P], tokenizer: Tokenizer, items: Sequence[Coded], usage: Sequence[Usage], progress: Progress
) -> RateComparison[P]:
    """Measure a tokenizer and every codec of this machine on the same samples.

    Args:
        codecs: of the tokenizer's kind of data.
        tokenizer: with several codebooks, every number of them from the first on is a point.
        items: samples with the ids that the tokenizer gave them; one at least.
        usage: of each codebook over the whole evaluation, from which the entropies are taken.
        progress: is told of each step.
    """
    samples = [item.sample for item in items]
    counts, names = prefixes(usage), codecs.available(samples)
    fixed_rate: list[P] = []
    entropy_coded: list[P] = []
    progress.task("codecs", len(counts) + len(names))
    for step, count in enumerate(counts, 1):
        grids = [item.ids if count is None else first_codebooks(item.ids, count) for item in items]
        pairs = list(zip(samples, _decoded(tokenizer, grids, samples), strict=True))
        label = "tokens" if count is None else f"tokens, {count} codebook{'s' * (count > 1)}"
        fixed, entropy = (
            math.fsum(grid_bits(grid, bits, count) for grid in grids)
            for bits in ([math.log2(book.vocab_size) for book in usage], [book.entropy_bits for book in usage])
        )
        point = codecs.point(f"{label}, fixed length", pairs, fixed)
        fixed_rate.append(point)
        entropy_coded.append(codecs.recoded(point, f"{label}, order-0 entropy", samples, entropy, fixed))
        progress.update(step)
    ours = [*fixed_rate, *entropy_coded]
    curves: dict[str, Curve[P]] = {}
    for step, name in enumerate(names, len(counts) + 1):
        curves[name] = codecs.curve(samples, name, ours)
        progress.update(step)
    progress.close()
    return RateComparison(
        modality_of(tokenizer.spec).plural,
        len(items),
        fixed_rate,
        entropy_coded,
        {name: curve.points for name, curve in curves.items()},
        _neighbours(ours, curves, codecs.codec_by_codec),
        f"{codecs.said_of(samples)}\n{_TOKENS_PROTOCOL}\n{codecs.protocol()}",
        codecs.columns,
        codecs.plots,
    )


def _decoded(tokenizer: Tokenizer, grids: Sequence[Tensor], samples: Sequence[Tensor]) -> list[Any]:
    decoded: list[Sample] = []
    for start in range(0, len(grids), _BATCH):
        part = slice(start, start + _BATCH)
        decoded += decode_like(tokenizer, grids[part], samples[part])
    return decoded


def _neighbours(ours: Sequence[P], curves: Mapping[str, Curve[P]], codec_by_codec: bool) -> list[Neighbour[P]]:
    if codec_by_codec:
        return [Neighbour(*pair) for curve in curves.values() for pair in zip(ours, curve.nearest, strict=True)]
    return [Neighbour(point, curve.nearest[place]) for place, point in enumerate(ours) for curve in curves.values()]


def prefixes(usage: Sequence[Usage]) -> list[int | None]:
    """Return the numbers of codebooks to decode with, up to those whose use was counted; None is the grid as it is."""
    return list(range(1, len(usage) + 1)) if len(usage) > 1 else [None]


def grid_bits(grid: Tensor, bits: Sequence[float], count: int | None) -> float:
    """Return the bits of a grid whose ids take ``bits`` each, one entry a codebook; ``count`` as `prefixes` gave it."""
    if count is None:
        return grid.numel() * bits[0]
    return grid[..., 0].numel() * math.fsum(bits[:count])
