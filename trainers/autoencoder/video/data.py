"""Films to training batches, by way of token shards of raw frames, made with the lossless ``frames`` tokenizer.

Films are decoded once, in pieces that are longer than the clips that are trained on: where a clip begins, which square of its
frames it has, and whether it is mirrored, are drawn anew each time it comes. Pictures, if there are any, are shards of raw
pixels, and come as clips of one frame, in batches of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.protocol.notes import counted
from tokenize_kit.shards import ShardSet
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from tokenize_kit.tokenizers.video.frames import FramesTokenizer
from trainers.autoencoder.cutting import Cutting, scaled
from trainers.autoencoder.data import EpochBatches, Ints, SampleBatch, Samples, decode_once

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from trainers.autoencoder.video.options import TrainVideoOptions

_CUT, _KIND, _PICTURES = 1, 2, 3
"""What a random number is for: behind the seed it begins a generator. 0 is for the orders of `EpochBatches`."""


class Films(Samples):
    """The decoded films, or pictures as films of one frame, of a shard set, by number.

    Args:
        shards: made by `prepare` or `prepare_pictures`.
        stream: ``video`` or ``image``.
    """

    def __init__(self, shards: ShardSet, stream: str = "video") -> None:
        super().__init__(shards, stream)
        self._still = "time" not in shards.streams[stream].spec.axes
        sizes = self.shapes[:, :2] if self._still else self.shapes[:, 1:3]
        self.sizes: Ints = sizes.copy()
        """(films, 2) height and width of each."""
        self.lengths: Ints = np.ones(len(self.shapes), np.int64) if self._still else self.shapes[:, 0].copy()
        """(films,) frames of each."""

    def frames(self, number: int) -> NDArray[np.uint8]:
        """Return the frames of a film (T, H, W, C), a view of the mapped file."""
        grid = self.grid(number)
        if self._still:
            grid = grid[None]
        return grid if grid.ndim == 4 else grid[..., None]

    def clip(self, number: int, length: int, cutting: Cutting, draw: np.random.Generator | None) -> NDArray[np.uint8]:
        """Return a clip as it is trained on, uint8 (T, H, W, C): a view of the mapped file where nothing is scaled.

        Args:
            number: of the film.
            length: frames of the clip; a shorter film has fewer.
            cutting: which square of its frames.
            draw: decides where it begins and what `cutting` leaves open; None takes the beginning, the middle, unmirrored.
        """
        frames = self.frames(number)
        room = len(frames) - length
        start = int(draw.integers(room + 1)) if draw is not None and room > 0 else 0
        rows, columns = cutting.of(frames.shape[1], frames.shape[2], draw)
        clip = frames[start : start + length, rows, columns]
        if cutting.size is not None and clip.shape[1] != cutting.size:
            # A copy, because the mapped file cannot be written to.
            larger = torch.from_numpy(clip.transpose(0, 3, 1, 2).copy())
            clip = scaled(larger, cutting.size).numpy().transpose(0, 2, 3, 1)
        return clip


class Mixing(NamedTuple):
    """Pictures that are trained on beside films."""

    pictures: Films
    """Of one frame each."""
    weight: float
    """Part of the steps that are trained on them."""
    accumulate: int = 1
    """Batches of a step, which are all of one kind."""


class ClipBatches(EpochBatches):
    """Training batches by number, for one of several processes.

    Each epoch has an order of its own, in which a film comes as often as clips fit into it, each time with a clip drawn
    anew. Whether a step is one of pictures follows from its number alone and is the same for every process.

    Args:
        films: where clips come from.
        chosen: the numbers of those that are trained on.
        length: frames of a clip.
        cutting: how squares are cut out of their frames.
        batch_size: clips, or pictures, of a batch of this process.
        seed: decides orders and clips.
        rank: number of this process.
        world: number of processes.
        mixing: pictures that are trained on too.
    """

    def __init__(
        self,
        films: Films,
        chosen: Ints,
        length: int,
        cutting: Cutting,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
        mixing: Mixing | None = None,
    ) -> None:
        times = np.maximum(1, films.lengths[chosen] // length)
        super().__init__(chosen, batch_size, seed, rank, world, np.repeat(chosen, times))
        self.films, self.length, self.cutting, self.mixing = films, length, cutting, mixing

    def epoch(self, batches: int) -> float:
        """Return how often all films were seen after so many batches of every process."""
        return super().epoch(batches) * (1 - (self.mixing.weight if self.mixing else 0.0))

    def of_pictures(self, index: int) -> bool:
        """Return whether batch ``index`` is one of pictures."""
        if self.mixing is None:
            return False
        step = index // self.mixing.accumulate
        return bool(np.random.default_rng([self.seed, _KIND, step]).random() < self.mixing.weight)

    def read(self, index: int) -> SampleBatch:
        """Read a batch: a function of ``index`` alone."""
        places = self.places(index)
        if self.mixing is not None and self.of_pictures(index):
            pictures = self.mixing.pictures
            clips = []
            for place in places:
                draw = np.random.default_rng([self.seed, _PICTURES, place])
                clips.append(pictures.clip(int(draw.integers(len(pictures))), 1, self.cutting, draw))
            return SampleBatch(joined(clips, 1))
        clips = []
        for place in places:
            draw = np.random.default_rng([self.seed, _CUT, place])
            clips.append(self.films.clip(self.number(place), self.length, self.cutting, draw))
        return SampleBatch(joined(clips, self.length))


def joined(clips: Sequence[NDArray[np.uint8]], length: int) -> Tensor:
    """Return clips (T, H, W, C) as one tensor (B, C, T, H, W), whose values lie as theirs do.

    Clips of fewer than ``length`` frames stand still at their end.
    """
    batch = np.empty((len(clips), length, *clips[0].shape[1:]), np.uint8)
    for place, clip in zip(batch, clips, strict=True):
        place[: len(clip)] = clip
        place[len(clip) :] = clip[-1]
    return torch.from_numpy(batch).permute(0, 4, 1, 2, 3)


def prepare(options: TrainVideoOptions, data: Sequence[str], folder: Path, progress: Progress | None) -> None:
    """Decode films into a shard set of raw frames in ``folder``; continues where it was stopped.

    Raises:
        FileNotFoundError: there is nothing to read.
        ValueError: the folder holds something else, or the films of other options.
        TooManyFailuresError: more than ``options.max_failures`` films cannot be read.
    """
    tokenizer = FramesTokenizer(options.fps, options.channels)
    cutting = {"clip_frames": options.piece_frames, **_size(options)}
    result = decode_once(tokenizer, "frames", options, data, folder, progress, **cutting)
    if progress is not None:
        for what, count in result.conversions.items():
            progress.note(counted(count, f"of {result.rows:,} films", what))


def prepare_pictures(options: TrainVideoOptions, folder: Path, progress: Progress | None) -> None:
    """Decode pictures into a shard set of raw pixels in ``folder``; continues where it was stopped.

    Raises:
        FileNotFoundError: there is nothing to read.
        ValueError: the folder holds something else, or the pictures of other options.
        TooManyFailuresError: more than ``options.max_failures`` pictures cannot be read.
    """
    tokenizer = PixelTokenizer(options.channels)
    decode_once(tokenizer, "pixels", options, options.pictures, folder, progress, **_size(options))


def _size(options: TrainVideoOptions) -> dict[str, int | bool | None]:
    size = None if options.image_size is None else math.ceil(options.image_size * options.max_scale)
    return {"image_size": size, "crop": options.crop == "center"}
