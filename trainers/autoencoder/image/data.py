"""Pictures to training batches, by way of token shards of raw pixels, made with the lossless ``pixels`` tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.shards import ShardSet
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from trainers.autoencoder.data import Ints, NumberedBatches, SampleBatch, Samples, decode_once

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from trainers.autoencoder.image.options import TrainImageOptions


@dataclass(frozen=True)
class Cutting:
    """How squares are cut out of pictures."""

    size: int | None
    """Side of the result; None takes pictures as they are."""
    crop: Literal["random", "center"]
    """Where."""
    scaled: bool
    """Whether squares may be larger than ``size`` and are scaled down to it."""
    flip: bool
    """Whether half of them are mirrored."""


class Pictures(Samples):
    """The pictures of a shard set, by number.

    Args:
        shards: made by `prepare`.
    """

    def __init__(self, shards: ShardSet) -> None:
        super().__init__(shards, "image")

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """Return a picture (H, W, C), a view of the mapped file."""
        grid = self.grid(number)
        return grid if grid.ndim == 3 else grid[..., None]

    def check_sizes(self, size: int | None, factor: int, source: str) -> None:
        """Refuse pictures that cannot be put together or do not fit the network.

        Raises:
            ValueError: names the sizes and what to do.
        """
        if size is not None:
            check_image_size(size, factor)
            return
        sizes = np.unique(self.shapes[:, :2], axis=0)
        if len(sizes) > 1:
            smallest, largest = (f"{height}x{width}" for height, width in (sizes[0], sizes[-1]))
            raise ValueError(
                f"{source} has pictures of different sizes ({smallest} to {largest}); give an --image-size"
            )
        height, width = sizes[0]
        if height % factor or width % factor:
            raise ValueError(
                f"pictures of {height}x{width} are no multiple of {factor} (the tokenizer's downsample factor); "
                f"give an --image-size that is"
            )

    def cut(self, number: int, cutting: Cutting, draw: np.random.Generator | None) -> Tensor:
        """Return a picture as it is trained on, uint8 (C, H, W); without ``draw`` from its middle, unmirrored."""
        picture = self[number]
        height, width = picture.shape[:2]
        if cutting.size is not None:
            short = min(height, width)
            side = short
            if draw is not None and cutting.scaled:
                side = int(draw.integers(cutting.size, short + 1))
            top, left = (height - side) // 2, (width - side) // 2
            if draw is not None and cutting.crop == "random":
                top, left = int(draw.integers(height - side + 1)), int(draw.integers(width - side + 1))
            picture = picture[top : top + side, left : left + side]
        if draw is not None and cutting.flip and draw.random() < 0.5:
            picture = picture[:, ::-1]
        # A copy, because the mapped file cannot be written to.
        tensor = torch.from_numpy(picture.transpose(2, 0, 1).copy())
        if cutting.size is not None and tensor.shape[1] != cutting.size:
            tensor = _scaled(tensor, cutting.size)
        return tensor


class PictureBatches(NumberedBatches):
    """Training batches by number, for one of several processes; each epoch has an order of its own.

    Args:
        pictures: where they come from.
        chosen: the numbers of those that are trained on.
        cutting: how squares are cut out of them.
        batch_size: pictures of a batch of this process.
        seed: decides order and cuts.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(
        self, pictures: Pictures, chosen: Ints, cutting: Cutting, batch_size: int, seed: int, rank: int, world: int
    ) -> None:
        super().__init__(chosen, batch_size, seed, rank, world)
        self.pictures, self.cutting = pictures, cutting
        self._orders: dict[int, Ints] = {}

    def epoch(self, batches: int) -> float:
        """Return how often each picture was seen after so many batches of every process."""
        return batches * self.batch_size * self.world / len(self.chosen)

    def read(self, index: int) -> SampleBatch:
        """Read a batch: a function of ``index`` alone."""
        draw = np.random.default_rng([self.seed, 1, index, self.rank])
        numbers = [self._number(place) for place in self.places(index)]
        return SampleBatch(torch.stack([self.pictures.cut(number, self.cutting, draw) for number in numbers]))

    def _number(self, place: int) -> int:
        epoch, within = divmod(place, len(self.chosen))
        # Two threads read: what one has drawn may be gone from the dictionary when it is needed.
        order = self._orders.get(epoch)
        if order is None:
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(self.chosen)
            self._orders = {key: value for key, value in self._orders.items() if key >= epoch - 1} | {epoch: order}
        return int(order[within])


def check_image_size(size: int, factor: int) -> None:
    """Refuse squares that do not fit the network.

    Raises:
        ValueError: ``size`` is no multiple of the downsample factor; names the nearest ones.
    """
    if size % factor:
        lower = max(factor, size // factor * factor)
        raise ValueError(
            f"--image-size {size} is not a multiple of {factor} (the tokenizer's downsample factor); "
            f"use {lower} or {lower + factor}"
        )


def prepare(options: TrainImageOptions, data: Sequence[str], folder: Path, progress: Progress | None) -> None:
    """Decode pictures into a shard set in ``folder``; continues where it was stopped.

    Raises:
        FileNotFoundError: there is nothing to read.
        ValueError: the folder holds something else, or the pictures of other options.
        TooManyFailuresError: more than ``options.max_failures`` pictures cannot be read.
    """
    size = None if options.image_size is None else math.ceil(options.image_size * options.max_scale)
    tokenizer = PixelTokenizer(options.channels)
    center = options.crop == "center"
    decode_once(tokenizer, "pixels", options, data, folder, progress, image_size=size, crop=center, pad=options.pad)


def _scaled(picture: Tensor, size: int) -> Tensor:
    scaled = F.interpolate(picture[None].float(), (size, size), mode="bicubic", antialias=True)
    return scaled[0].round_().clamp_(0, 255).to(torch.uint8)
