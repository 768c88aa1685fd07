"""Clips: how one long file becomes several samples, how such a sample is called, and what else belongs to its span of time.

A clip begins at a frame: clip number i at frame ``i * step`` of those that the file has at the frame rate that is wanted, counted
from the first that is shown. Its key is that of the file, an ``@`` and the seconds of its first frame: ``film.mp4@12.48``.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.protocol.spec import Sample

TAILS = ("keep", "drop")
_KEY = re.compile(r"(.+)@(\d+\.\d{2,})", re.DOTALL)


@dataclass(frozen=True)
class Clips:
    """How a long file is cut into samples.

    Raises:
        ValueError: a number is below 1, or the tail is nothing that is known.
    """

    frames: int
    """Frames of a clip."""
    stride: int | None = None
    """Frames from the beginning of one clip to that of the next; None is the length of a clip."""
    tail: Literal["keep", "drop"] = "keep"
    """What becomes of frames at the end that are too few: a shorter clip, or nothing."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"--clip-frames {self.frames} must be at least 1")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"--clip-stride {self.stride} must be at least 1")
        if self.tail not in TAILS:
            raise ValueError(f"--clip-tail {self.tail} is not one of {', '.join(TAILS)}")

    @property
    def step(self) -> int:
        """Frames from clip to clip."""
        return self.stride or self.frames

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary without what says nothing; `from_dict` is its inverse."""
        values: dict[str, Any] = {"frames": self.frames}
        values |= {} if self.stride is None else {"stride": self.stride}
        return values | ({} if self.tail == "keep" else {"tail": self.tail})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Clips:
        """Build it from `to_dict`'s form."""
        return cls(**values)

    def cut(self, blocks: Iterable[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Cut a sample that comes in blocks along its first axis; no more than a clip and a block is held.

        At the end there is one shorter clip at most, and only if it has a frame that is in no clip before it. With ``tail`` drop
        it has no frames at all: the caller can count it.

        Yields:
            The number of the first frame of each clip, and the clip.
        """
        import torch

        held: list[Tensor] = []
        start = there = covered = 0
        """The first frame of the next clip, the first that has not come, and the first that is in no clip."""
        for block in blocks:
            held.append(block)
            there += len(block)
            if there < start + self.frames:
                held = [] if there <= start else held
                continue
            frames = torch.cat(held)
            first = there - len(frames)
            while there >= start + self.frames:
                # A copy, so that no clip keeps what is around it.
                yield start, frames[start - first : start - first + self.frames].clone()
                covered = start + self.frames
                start += self.step
            held = [frames[start - first :].clone()] if there > start else []
        if there > max(start, covered):
            frames = torch.cat(held)
            yield start, (frames[len(frames) - (there - start) :] if self.tail == "keep" else frames[:0]).clone()


class Span(NamedTuple):
    """A stretch of time in a file, in seconds from the first frame that is shown."""

    start: float
    stop: float
    """The end of its last frame."""


class Part(NamedTuple):
    """One sample of a file that gives several."""

    span: Span
    """Where in the file it is."""
    sample: Tensor
    """It; of no frames where a tail is left out."""
    notes: tuple[str, ...]
    """What had to be done to it, see `Modality.read_noting`."""
    share: float
    """About how much of the file was read by now, 0 to 1."""


class Follower(ABC):
    """What a file of another kind has for each clip of a film: its sound, for one. Clips come in the order of time."""

    @abstractmethod
    def take(self, span: Span) -> tuple[Sample, tuple[str, ...]]:
        """Return what belongs to a span of time, and notes as `Modality.read_noting` has them.

        Raises:
            ValueError: it is damaged there.
        """


def digits_for(rate: float) -> int:
    """Return how many digits after the point tell the frames of ``rate`` a second apart, each from the seconds alone; 2 at least.

    They are at least twice as fine as the frames: 2 for 25 frames a second and 29.97, 3 for 120.
    """
    return max(2, math.ceil(math.log10(2 * rate)))


def clip_key(key: str, start: float, rate: float) -> str:
    """Return the key of the clip of a file that begins ``start`` seconds after its first frame, at ``rate`` frames a second."""
    return f"{key}@{start:.{digits_for(rate)}f}"


def frame_of(key: str, rate: float | Fraction) -> int:
    """Return the frame at which the clip of a key begins: the inverse of `clip_key`.

    Raises:
        ValueError: it is no key of a clip.
    """
    if not (found := _KEY.fullmatch(key)):
        raise ValueError(f"{key!r} is not the key of a clip, which ends in @ and seconds, such as film.mp4@12.48")
    return round(Fraction(found[2]) * Fraction(rate))


def file_of(key: str) -> str:
    """Return the key of the file that a clip is of; any other key is returned as it is."""
    found = _KEY.fullmatch(key)
    return found[1] if found else key
