"""Rate and distortion of a tokenizer of sound beside the classical codecs, on the same few sounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

from torch import Tensor

from tokenize_kit.metrics.audio_codecs import (
    AUDIO_CODEC_PROTOCOL,
    AudioRatePoint,
    audio_codec_point,
    audio_point,
    available_audio_codecs,
    codec_settings,
)
from tokenize_kit.metrics.rate import grid_bits, prefixes
from tokenize_kit.metrics.usage import Usage
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import Tokenizer, decode_like

MAX_SECONDS = 60
"""No more sound than this is given to the codecs, whatever the number of sounds."""

_BATCH = 8
_FEWEST_SETTINGS = 3


class CodedSound(NamedTuple):
    """A sound and its ids."""

    sound: Tensor
    """float32 ``(C, samples)``."""
    ids: Tensor
    """The whole grid."""


@dataclass(frozen=True)
class AudioNeighbour:
    """A point of the tokenizer and the point of one codec that is nearest to it in bit rate."""

    ours: AudioRatePoint
    """The tokenizer's point."""
    codec: AudioRatePoint
    """The codec's point of the nearest rate."""


@dataclass(frozen=True)
class AudioRateComparison:
    """What the tokenizer and the codecs make of the same sounds."""

    sounds: int
    """How many sounds were compared."""
    fixed_rate: list[AudioRatePoint]
    """The tokenizer with ids of a fixed length; one point for each number of codebooks."""
    entropy_coded: list[AudioRatePoint]
    """The same with ids at their order-0 entropy: an estimate, no file is written."""
    codecs: dict[str, list[AudioRatePoint]]
    """The curve of each codec at neighbouring bit rates."""
    nearest: list[AudioNeighbour]
    """For each point of the tokenizer the nearest of each codec."""
    protocol: str
    """How it was measured, one line a subject."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


class SoundPicks:
    """Keeps the first sounds of a run for the comparison, within a bound of sounds and seconds; at least one."""

    def __init__(self, limit: int, sample_rate: int) -> None:
        self.items: list[CodedSound] = []
        """What was kept."""
        self._left = limit
        self._samples = MAX_SECONDS * sample_rate

    def offer(self, sample: Tensor, ids: Tensor) -> None:
        """Keep a sound if there is room; after the first that does not fit, none is kept."""
        self._samples -= sample.shape[1]
        if self._left and (self._samples >= 0 or not self.items):
            self._left -= 1
            self.items.append(CodedSound(sample, ids))
        else:
            self._left = 0


def compare_sounds(
    tokenizer: Tokenizer, items: Sequence[CodedSound], usage: Sequence[Usage], progress: Progress
) -> AudioRateComparison:
    """Measure a tokenizer, and every codec of this machine at neighbouring bit rates, on the same sounds.

    Args:
        tokenizer: of sounds; with several codebooks, every number of them from the first on is a point.
        items: sounds with the ids that the tokenizer gave them.
        usage: of each codebook over the whole evaluation, from which the entropies are taken.
        progress: is told of each step.
    """
    sample_rate = tokenizer.spec.sample_rate
    assert sample_rate is not None, "a measure of sounds was made, which needs it"
    fixed_rate: list[AudioRatePoint] = []
    entropy_coded: list[AudioRatePoint] = []
    counts = prefixes(usage)
    names = available_audio_codecs()
    progress.task("codecs", len(counts) + len(names))
    for step, count in enumerate(counts, 1):
        grids = [item.ids if count is None else item.ids[..., :count] for item in items]
        decoded: list[Tensor] = []
        for start in range(0, len(grids), _BATCH):
            part = slice(start, start + _BATCH)
            decoded += cast("list[Tensor]", decode_like(tokenizer, grids[part], [item.sound for item in items[part]]))
        pairs = [(item.sound, other) for item, other in zip(items, decoded, strict=True)]
        label = "tokens" if count is None else f"tokens, {count} codebook{'s' * (count > 1)}"
        point = audio_point(f"{label}, fixed length", pairs, sample_rate, _total(grids, usage, count, entropy=False))
        fixed_rate.append(point)
        bits = _total(grids, usage, count, entropy=True)
        rate = point.kilobits_per_second * bits / max(1e-9, _total(grids, usage, count, entropy=False))
        values = asdict(point) | {"name": f"{label}, order-0 entropy", "kilobits_per_second": rate}
        entropy_coded.append(AudioRatePoint(**values))
        progress.update(step)
    ours = [*fixed_rate, *entropy_coded]
    sounds = [item.sound for item in items]
    curves: dict[str, list[AudioRatePoint]] = {}
    if sounds[0].shape[0] <= 2:
        for step, name in enumerate(names, len(counts) + 1):
            settings = neighbouring(
                codec_settings(name, sample_rate), [point.kilobits_per_second * 1000 for point in ours]
            )
            curves[name] = [audio_codec_point(sounds, sample_rate, name, setting) for setting in settings]
            progress.update(step)
    progress.close()
    nearest = [
        AudioNeighbour(point, min(curve, key=lambda known: abs(known.kilobits_per_second - point.kilobits_per_second)))
        for point in ours
        for curve in curves.values()
    ]
    seconds = sum(sound.shape[1] for sound in sounds) / sample_rate
    protocol = (
        f"The first {len(items):,} sounds ({seconds:.1f} s).\nFixed length: ids x log2 of the codebook's size, without a header. "
        "Order-0 entropy: ids x the entropy of the codebook's ids over the whole evaluation; an estimate of what an entropy "
        f"coder with that table would need.\n{AUDIO_CODEC_PROTOCOL}"
    )
    return AudioRateComparison(len(items), fixed_rate, entropy_coded, curves, nearest, protocol)


def neighbouring(settings: Sequence[int], rates: Sequence[float]) -> list[int]:
    """Return the settings from half the lowest to twice the highest of ``rates``, or else the few that are nearest."""
    low, high = min(rates) / 2, max(rates) * 2
    inside = [setting for setting in settings if low <= setting <= high]
    if len(inside) >= _FEWEST_SETTINGS:
        return inside
    middle = math.sqrt(max(1.0, low) * max(1.0, high))
    return sorted(sorted(settings, key=lambda setting: abs(math.log(setting / middle)))[:_FEWEST_SETTINGS])


def _total(grids: Sequence[Tensor], usage: Sequence[Usage], count: int | None, *, entropy: bool) -> float:
    bits = [book.entropy_bits if entropy else math.log2(book.vocab_size) for book in usage]
    return math.fsum(grid_bits(grid, bits, count) for grid in grids)
