"""How fast pictures and videos of each size are encoded and decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Generic, TypeVar


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


@dataclass(frozen=True)
class ClipSpeed(SpeedRow):
    """The speed for videos of one size."""

    title = "Speed by size of the video"
    header = ("size", "frames", "videos", "encode, ms", "decode, ms", "encode, frames/s", "decode, frames/s")

    frames: int
    """Of one video."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    videos: int
    """How many there were."""
    encode_milliseconds: float
    """Mean time of a video."""
    decode_milliseconds: float
    """Mean time of a video."""
    encode_frames_per_second: float
    """Frames over time."""
    decode_frames_per_second: float
    """Frames over time."""

    def cells(self) -> tuple[object, ...]:
        """See `SpeedRow`."""
        return (
            f"{self.width} x {self.height}",
            self.frames,
            self.videos,
            self.encode_milliseconds,
            self.decode_milliseconds,
            self.encode_frames_per_second,
            self.decode_frames_per_second,
        )


R = TypeVar("R", bound=SpeedRow)


class SpeedMeter(Generic[R]):
    """Adds up the times of batches whose samples have one size.

    Args:
        row: makes the row of a size, of how many samples and of how many seconds to encode and decode.
    """

    def __init__(self, row: Callable[[tuple[int, ...], int, float, float], R]) -> None:
        self._row = row
        self._sums: dict[tuple[int, ...], tuple[int, float, float]] = {}

    def add(self, size: Sequence[int], samples: int, encoding: float, decoding: float) -> None:
        """Count a batch of samples of ``size`` that took so many seconds to encode and decode."""
        count, before, after = self._sums.get(tuple(size), (0, 0.0, 0.0))
        self._sums[tuple(size)] = (count + samples, before + encoding, after + decoding)

    def rows(self) -> list[R]:
        """Return the speed of each size, from the most to the least frequent one; of two as frequent the larger first."""
        ordered = sorted(self._sums.items(), key=lambda item: (-item[1][0], -prod(item[0]), item[0]))
        return [self._row(size, *sums) for size, sums in ordered]


def picture_speed(size: tuple[int, ...], pictures: int, encoding: float, decoding: float) -> SizeSpeed:
    """Return the row of pictures of a size (height, width)."""
    height, width = size
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


def clip_speed(size: tuple[int, ...], videos: int, encoding: float, decoding: float) -> ClipSpeed:
    """Return the row of videos of a size (frames, height, width)."""
    frames, height, width = size
    return ClipSpeed(
        frames=frames,
        height=height,
        width=width,
        videos=videos,
        encode_milliseconds=1000 * encoding / videos,
        decode_milliseconds=1000 * decoding / videos,
        encode_frames_per_second=videos * frames / encoding,
        decode_frames_per_second=videos * frames / decoding,
    )
