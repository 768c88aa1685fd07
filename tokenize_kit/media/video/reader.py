"""Video files to uint8 tensors ``(T, C, H, W)``, block by block or whole, at the frame rate that is wanted."""

from __future__ import annotations

import io
import itertools
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from tokenize_kit.media.video.animations import Animation, Still, is_picture, table_of
from tokenize_kit.media.video.decoding import Film
from tokenize_kit.media.video.examine import frames_of
from tokenize_kit.media.video.shown import Shown, at_rate
from tokenize_kit.media.video.tensors import CHANNELS
from tokenize_kit.protocol import MAX_FRAME_RATE

MAX_VALUES = 1 << 29
"""The longest video that is read into memory at once, in bytes (frames times channels times pixels); longer ones only block by
block."""

BLOCK_VALUES = 1 << 23
"""How much a block holds at most, in bytes, if more than one frame."""

_SAME_RATE = Fraction(1, 5000)
"""Rates that differ by less are the same: 24 and 23.976 differ by 1 in 1,000, what rounding makes of one by less."""


class Video(NamedTuple):
    """A video."""

    frames: Tensor
    """uint8 ``(T, C, H, W)``."""
    frame_rate: float
    """Frames a second."""


class Source(Protocol):
    """What frames come from: a film, an animated picture or a still one."""

    format: str
    codec: str
    height: int
    width: int
    rate: Fraction
    origin: Fraction
    slack: Fraction
    duration: Fraction | None
    notes: list[str]

    def shown(self, at: Fraction) -> Iterator[Shown]:
        """Yield frames in their order, from one on that is shown ``at`` seconds after the first or before."""
        ...


class VideoReader:
    """Decodes one video block by block, at the frame rate and with the channels that are wanted.

    Args:
        file: the bytes of a file, a seekable one that stays open, or a path.
        frame_rate: frames a second that are wanted, see `tokenize_kit.media.video.shown`; None gives each frame of the file.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        start: the first frame that is wanted, in frames at ``frame_rate``, or of the file if that is None; what is before it
            is not decoded where the file says where key frames are.
        frames: how many are wanted; None gives all to the end. A film that ends earlier gives fewer.
        at_least: of a still picture, see `tokenize_kit.media.image.read_image_noting`.

    Raises:
        ValueError: it is no video that can be read, it is damaged or cut short, or a wish is outside its limits.
    """

    def __init__(
        self,
        file: bytes | IO[bytes] | Path,
        frame_rate: float | None = None,
        channels: int = 3,
        *,
        start: int = 0,
        frames: int | None = None,
        at_least: int | None = None,
    ) -> None:
        if channels not in CHANNELS:
            raise ValueError(f"channels {channels} is not 1 (grey), 3 (RGB) or 4 (RGBA)")
        if frame_rate is not None and not 0 < frame_rate <= MAX_FRAME_RATE:
            raise ValueError(f"frame rate {frame_rate} is outside 0 to {MAX_FRAME_RATE} frames a second")
        if start < 0 or (frames is not None and frames < 1):
            raise ValueError(
                f"frames from {start} on, {frames} of them, are none; give a start of 0 and 1 frame or more"
            )
        self._file: IO[bytes] = file.open("rb") if isinstance(file, Path) else _as_file(file)
        self._owned = isinstance(file, Path)
        try:
            self._source = _source(self._file, channels, at_least, start)
        except BaseException:
            self.close()
            raise
        self.channels = channels
        self.format = self._source.format
        """Name of the file's format."""
        self.codec = self._source.codec
        """Name of its coding."""
        self.height = self._source.height
        """Of the frames, upright and with square pixels."""
        self.width = self._source.width
        self.rate = float(self._source.rate)
        """Frames a second of the file, on average; 0 of a still picture."""
        self.duration = None if self._source.duration is None else float(self._source.duration)
        """Seconds that the file says, None if it does not."""
        self.frame_rate = frame_rate or self.rate or 1.0
        """Frames a second of the blocks."""
        self._wanted = None if frame_rate is None else exact_rate(frame_rate)
        self._start, self._frames = start, frames
        self._uneven = False

    def close(self) -> None:
        """Close the file if it was given as a path."""
        if self._owned:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_owned", False):
            self.close()

    @property
    def conversion(self) -> str:
        """What is changed, such as ``24 frames a second to 12``; empty if nothing is."""
        rate, wanted = self._source.rate, self._wanted
        if wanted is None or not rate:
            return ""
        off = abs(rate - wanted) / wanted
        # What rounding of its time stamps has made of the rate of a short one.
        if off <= _SAME_RATE or off * (self._source.duration or 0) <= 2 * self._source.slack:
            return ""
        return f"{said_rate(rate)} frames a second to {said_rate(wanted)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the video in words, complete when all blocks were read; see `Modality.read_noting`."""
        uneven = "frames of unequal lengths taken one by one" if self._uneven else ""
        return tuple(note for note in (self.conversion, *self._source.notes, uneven) if note)

    def blocks(self) -> Iterator[Tensor]:
        """Yield the video once as uint8 ``(t, C, H, W)``, in bounded memory; the frames do not depend on how they are divided.

        What stands before damage comes before the error.

        Raises:
            ValueError: the file is damaged or cut short, or ends before the first frame that is wanted.
        """
        shape = (self.channels, self.height, self.width)
        most = max(1, BLOCK_VALUES // (self.channels * self.height * self.width))
        frames = self._chosen()
        made = 0
        before: Shown | None = None
        while part := list(itertools.islice(frames, 1)):
            # Made anew for each, as it is given away.
            block = np.empty((most, *shape), np.uint8)
            filled, damage = 0, None
            try:
                for shown in itertools.chain(part, itertools.islice(frames, most - 1)):
                    if shown is before and filled:
                        block[filled] = block[filled - 1]
                    else:
                        shown.paint(block[filled])
                    before, filled = shown, filled + 1
            except ValueError as error:
                damage = error
            made += filled
            if damage is not None and not filled:
                raise damage
            yield torch.from_numpy(block[:filled] if filled == most else block[:filled].copy())
            if damage is not None:
                raise damage
        if not made:
            raise ValueError(f"the video has no frame {self._start:,}; it ends before")

    def _chosen(self) -> Iterator[Shown]:
        source, wanted = self._source, self._wanted
        if wanted is None or not source.rate:
            frames = self._one_by_one()
        else:
            shown = source.shown(Fraction(self._start) / wanted)
            frames = at_rate(shown, wanted, source.origin, source.slack, source.rate, self._start)
        return itertools.islice(frames, self._frames)

    def _one_by_one(self) -> Iterator[Shown]:
        same = 2 * self._source.slack + Fraction(1, 1000)
        before: Fraction | None = None
        shortest, longest = Fraction(1 << 30), Fraction(0)
        for number, shown in enumerate(self._source.shown(Fraction(0))):
            if before is not None:
                shortest, longest = min(shortest, shown.time - before), max(longest, shown.time - before)
                self._uneven = longest - shortest > same
            before = shown.time
            if number >= self._start:
                yield shown


def read_video(
    data: bytes | IO[bytes] | Path,
    frame_rate: float | None = None,
    channels: int = 3,
    *,
    start: int = 0,
    frames: int | None = None,
    at_least: int | None = None,
) -> Video:
    """Decode a video file, or a clip of it; the arguments are those of `VideoReader`.

    Raises:
        ValueError: as `VideoReader`, or it has more than `MAX_VALUES` values.
    """
    return read_video_noting(data, frame_rate, channels, start=start, frames=frames, at_least=at_least)[0]


def read_video_noting(
    data: bytes | IO[bytes] | Path,
    frame_rate: float | None = None,
    channels: int = 3,
    *,
    start: int = 0,
    frames: int | None = None,
    at_least: int | None = None,
) -> tuple[Video, tuple[str, ...]]:
    """Do the same, and say in words what was done to the video, see `VideoReader.notes`.

    Raises:
        ValueError: as `read_video`.
    """
    with VideoReader(data, frame_rate, channels, start=start, frames=frames, at_least=at_least) as reader:
        blocks: deque[Tensor] = deque()
        values = 0
        for block in reader.blocks():
            blocks.append(block)
            values += block.numel()
            if values > MAX_VALUES:
                seconds = values / block[0].numel() / reader.frame_rate
                raise ValueError(
                    f"a video of more than {MAX_VALUES:,} values ({seconds:.1f} s of {reader.width}x{reader.height}) is too long "
                    "to be read at once; cut it into clips, or scale it down"
                )
        return Video(_joined(blocks), reader.frame_rate), reader.notes


def conversion_of(data: bytes | IO[bytes] | Path, frame_rate: float | None, channels: int = 3) -> str:
    """Return `VideoReader.conversion` of a file, of which no more than the first frame is decoded.

    Raises:
        ValueError: as `VideoReader`.
    """
    with VideoReader(data, frame_rate, channels) as reader:
        return reader.conversion


def exact_rate(rate: float) -> Fraction:
    """Return a frame rate as the fraction that it stands for: 29.97 is 30000/1001, 23.976 is 24000/1001."""
    for whole in (24, 30, 48, 60, 120):
        ntsc = Fraction(whole * 1000, 1001)
        if abs(rate - ntsc) < ntsc / 20_000:
            return ntsc
    return Fraction(rate).limit_denominator(100_000)


def said_rate(rate: Fraction) -> str:
    """Return a frame rate in words."""
    return f"{float(rate):.5g}"


def _joined(blocks: deque[Tensor]) -> Tensor:
    if len(blocks) == 1:
        return blocks.pop()
    whole = torch.empty((sum(map(len, blocks)), *blocks[0].shape[1:]), dtype=torch.uint8)
    place = 0
    while blocks:
        # Each is let go when it is copied, so that a long video is not held twice.
        block = blocks.popleft()
        whole[place : place + len(block)] = block
        place += len(block)
    return whole


def _as_file(file: bytes | IO[bytes]) -> IO[bytes]:
    return io.BytesIO(file) if isinstance(file, bytes) else file


def _source(file: IO[bytes], channels: int, at_least: int | None, start: int) -> Source:
    file.seek(0)
    if is_picture(file.read(32)):
        file.seek(0)
        data = file.read()
        table = table_of(data)
        return Still(data, channels, at_least) if table is None else Animation(data, table)
    return Film(file, channels, frames_of(file, quickly=start > 0))
