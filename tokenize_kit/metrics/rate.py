"""Rate and distortion of a picture tokenizer beside the classical codecs, on the same few pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch import Tensor

from tokenize_kit.metrics.codecs import (
    CODEC_PROTOCOL,
    RatePoint,
    available_codecs,
    codec_curve,
    nearest_point,
    point_of,
)
from tokenize_kit.metrics.usage import Usage
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import Tokenizer, decode_like

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample

_BATCH = 8

MAX_PIXELS = 1 << 22
"""No more pixels than this are given to the codecs, whatever the number of pictures."""


class Coded(NamedTuple):
    """A picture and its ids."""

    picture: Tensor
    """uint8 ``(C, H, W)``."""
    ids: Tensor
    """The whole grid."""


@dataclass(frozen=True)
class Neighbour:
    """A point of the tokenizer and the point of one codec that is nearest to it in size."""

    ours: RatePoint
    """The tokenizer's point."""
    codec: RatePoint
    """The codec's point of the nearest mean size."""


@dataclass(frozen=True)
class RateComparison:
    """What the tokenizer and the codecs make of the same pictures."""

    pictures: int
    """How many pictures were compared."""
    fixed_rate: list[RatePoint]
    """The tokenizer with ids of a fixed length; one point for each number of codebooks."""
    entropy_coded: list[RatePoint]
    """The same with ids at their order-0 entropy: an estimate, no file is written."""
    codecs: dict[str, list[RatePoint]]
    """The curve of each codec."""
    nearest: list[Neighbour]
    """For each point of the tokenizer the nearest of each codec."""
    protocol: str
    """How it was measured, one line a subject."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


class Picks:
    """Keeps the first pictures of a run for the comparison, within a bound of pictures and pixels."""

    def __init__(self, limit: int) -> None:
        self.items: list[Coded] = []
        """What was kept."""
        self._left = limit
        self._pixels = MAX_PIXELS

    def offer(self, picture: Tensor, ids: Tensor) -> None:
        """Keep a picture if there is room; after the first that does not fit, none is kept."""
        self._pixels -= picture.shape[-2] * picture.shape[-1]
        if self._left and (self._pixels >= 0 or not self.items):
            self._left -= 1
            self.items.append(Coded(picture, ids))
        else:
            self._left = 0


def compare(tokenizer: Tokenizer, items: Sequence[Coded], usage: Sequence[Usage], progress: Progress) -> RateComparison:
    """Measure a tokenizer and every codec of this machine on the same pictures.

    Args:
        tokenizer: of pictures; with several codebooks, every number of them from the first on is a point.
        items: pictures with the ids that the tokenizer gave them.
        usage: of each codebook over the whole evaluation, from which the entropies are taken.
        progress: is told of each step.
    """
    fixed_rate: list[RatePoint] = []
    entropy_coded: list[RatePoint] = []
    counts = prefixes(usage)
    names = available_codecs()
    progress.task("codecs", len(counts) + 2 * len(names))
    for step, count in enumerate(counts, 1):
        grids = [item.ids if count is None else item.ids[..., :count] for item in items]
        decoded: list[Sample] = []
        for start in range(0, len(grids), _BATCH):
            part = slice(start, start + _BATCH)
            decoded += decode_like(tokenizer, grids[part], [item.picture for item in items[part]])
        pairs = [(item.picture, cast("Tensor", other)) for item, other in zip(items, decoded, strict=True)]
        label = "tokens" if count is None else f"tokens, {count} codebook{'s' * (count > 1)}"
        for points, bits, kind in (
            (fixed_rate, [math.log2(book.vocab_size) for book in usage], "fixed length"),
            (entropy_coded, [book.entropy_bits for book in usage], "order-0 entropy"),
        ):
            total = math.fsum(grid_bits(grid, bits, count) for grid in grids)
            points.append(point_of(f"{label}, {kind}", pairs, total / 8))
        progress.update(step)
    curves: dict[str, list[RatePoint]] = {}
    nearest: list[Neighbour] = []
    pictures = [item.picture for item in items]
    for place, name in enumerate(names):
        curves[name] = codec_curve(pictures, name)
        progress.update(len(counts) + 2 * place + 1)
        for point in (*fixed_rate, *entropy_coded):
            found = nearest_point(pictures, name, point.bytes, curves[name])
            nearest.append(Neighbour(point, found))
            if found not in curves[name]:
                curves[name] = sorted([*curves[name], found], key=lambda known: known.quality or 0)
        progress.update(len(counts) + 2 * place + 2)
    progress.close()
    pixels = sum(picture.shape[-2] * picture.shape[-1] for picture in pictures)
    protocol = (
        f"The first {len(items):,} pictures ({pixels / 1e6:.2f} megapixels). Sizes are means over the pictures.\nFixed length: "
        "ids x log2 of the codebook's size, without a header. Order-0 entropy: ids x the entropy of the codebook's ids over "
        f"the whole evaluation; an estimate of what an entropy coder with that table would need.\n{CODEC_PROTOCOL}\n"
        "Pictures that come back exactly are left out of a mean PSNR. The nearest point of a codec is the one of the nearest "
        "mean size among its qualities 1 to 95."
    )
    return RateComparison(len(items), fixed_rate, entropy_coded, curves, nearest, protocol)


def prefixes(usage: Sequence[Usage]) -> list[int | None]:
    """Return the numbers of codebooks to decode with, up to those whose use was counted; None is the grid as it is."""
    return list(range(1, len(usage) + 1)) if len(usage) > 1 else [None]


def grid_bits(grid: Tensor, bits: Sequence[float], count: int | None) -> float:
    """Return the bits of a grid whose ids take ``bits`` each, one entry a codebook; ``count`` as `prefixes` gave it."""
    if count is None:
        return grid.numel() * bits[0]
    return grid[..., 0].numel() * math.fsum(bits[:count])
