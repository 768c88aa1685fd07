"""How fast pictures of each size are encoded and decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class SpeedRow(ABC):
    """The speed for samples of one size, a dataclass of numbers, and how a report shows it."""

    title: ClassVar[str]
    """The heading above all rows."""
    header: ClassVar[tuple[str, ...]]
    """What the columns are called."""

    @abstractmethod
    def cells(self) -> tuple[object, ...]:
        """Return the row of the table."""


@dataclass(frozen=True)
class SizeSpeed(SpeedRow):
    """The speed for pictures of one size."""

    title = "Speed by size of the picture"
    header = ("size", "pictures", "encode, ms", "decode, ms", "encode, Mpixel/s", "decode, Mpixel/s")

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    pictures: int
    """How many there were."""
    encode_milliseconds: float
    """Mean time of a picture."""
    decode_milliseconds: float
    """Mean time of a picture."""
    encode_megapixels_per_second: float
    """Pixels over time."""
    decode_megapixels_per_second: float
    """Pixels over time."""

    def cells(self) -> tuple[object, ...]:
        """See `SpeedRow`."""
        return (
            f"{self.width} x {self.height}",
            self.pictures,
            self.encode_milliseconds,
            self.decode_milliseconds,
            self.encode_megapixels_per_second,
            self.decode_megapixels_per_second,
        )


class SpeedMeter:
    """Adds up the times of batches whose pictures have one size."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], tuple[int, float, float]] = {}

    def add(self, size: Sequence[int], pictures: int, encoding: float, decoding: float) -> None:
        """Count a batch of pictures of ``size`` (height, width) that took so many seconds to encode and decode."""
        height, width = size
        count, before, after = self._sums.get((height, width), (0, 0.0, 0.0))
        self._sums[height, width] = (count + pictures, before + encoding, after + decoding)

    def rows(self) -> list[SizeSpeed]:
        """Return the speed of each size, from the most to the least frequent one; of two as frequent the larger first."""
        ordered = sorted(self._sums.items(), key=lambda item: (-item[1][0], -item[0][0] * item[0][1], item[0]))
        return [_row(height, width, *sums) for (height, width), sums in ordered]


def _row(height: int, width: int, pictures: int, encoding: float, decoding: float) -> SizeSpeed:
    megapixels = pictures * height * width / 1e6
    return SizeSpeed(
        height=height,
        width=width,
        pictures=pictures,
        encode_milliseconds=1000 * encoding / pictures,
        decode_milliseconds=1000 * decoding / pictures,
        encode_megapixels_per_second=megapixels / encoding,
        decode_megapixels_per_second=megapixels / decoding,
    )
