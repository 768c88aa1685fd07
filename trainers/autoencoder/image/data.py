"""Pictures to training batches, by way of token shards of raw pixels, made with the lossless ``pixels`` tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.shards import ShardSet
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from trainers.autoencoder.cutting import Cutting, scaled
from trainers.autoencoder.data import EpochBatches, Ints, SampleBatch, Samples, decode_once

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from trainers.autoencoder.image.options import TrainImageOptions


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

    def cut(self, number: int, cutting: Cutting, draw: np.random.Generator | None) -> Tensor:
        """Return a picture as it is trained on, uint8 (C, H, W); without ``draw`` from its middle, unmirrored."""
        picture = self[number]
        rows, columns = cutting.of(picture.shape[0], picture.shape[1], draw)
        # A copy, because the mapped file cannot be written to.
        tensor = torch.from_numpy(picture[rows, columns].transpose(2, 0, 1).copy())
        if cutting.size is not None and tensor.shape[1] != cutting.size:
            tensor = scaled(tensor[None], cutting.size)[0]
        return tensor


class PictureBatches(EpochBatches):
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

    def read(self, index: int) -> SampleBatch:
        """Read a batch: a function of ``index`` alone."""
        draw = np.random.default_rng([self.seed, 1, index, self.rank])
        numbers = [self.number(place) for place in self.places(index)]
        return SampleBatch(torch.stack([self.pictures.cut(number, self.cutting, draw) for number in numbers]))


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
