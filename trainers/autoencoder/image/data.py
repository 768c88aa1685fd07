"""Pictures to training batches: decoded once into token shards of raw pixels, then read by number in any order.

The shards come from the same pipeline as all others, with the lossless ``pixels`` tokenizer: so they are resumable, made by
any number of workers, mapped into memory, and pictures that cannot be read are listed. A batch is a function of its number
alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.sources.heldout import key_fractions
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from trainers.autoencoder.reading import NumberedBatches

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from trainers.autoencoder.image.options import TrainImageOptions

Ints = NDArray[np.int64]


@dataclass
class PictureBatch:
    """Some pictures of one size."""

    pictures: Tensor
    """uint8 (B, C, H, W)."""
    made: Tensor | None = None
    """What the autoencoder made of them in this step, float (B, C, H, W), for the discriminator."""

    def to(self, device: torch.device) -> PictureBatch:
        """Return the batch on another device."""
        return PictureBatch(self.pictures.to(device, non_blocking=True))


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


class Pictures:
    """The pictures of a shard set, by number.

    Args:
        shards: made by `prepare`.
    """

    def __init__(self, shards: ShardSet) -> None:
        self._arrays = shards.stream_arrays("image")
        self._starts = np.cumsum([0, *(len(array) for array in self._arrays)])
        self.shapes: Ints = np.concatenate([array.shapes for array in self._arrays])
        self.fractions = key_fractions(shards.column("key").to_pylist())

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """Return a picture (H, W, C), a view of the mapped file."""
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        grid = self._arrays[place].grid(int(number - self._starts[place]))
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


class PictureBatches(NumberedBatches[PictureBatch]):
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
        super().__init__(batch_size, seed, rank, world)
        self.pictures, self.chosen, self.cutting = pictures, chosen, cutting
        self._orders: dict[int, Ints] = {}

    def epoch(self, batches: int) -> float:
        """Return how often each picture was seen after so many batches of every process."""
        return batches * self.batch_size * self.world / len(self.chosen)

    def read(self, index: int) -> PictureBatch:
        """Read a batch: a function of ``index`` alone."""
        draw = np.random.default_rng([self.seed, 1, index, self.rank])
        numbers = [self._number(place) for place in self.places(index)]
        return PictureBatch(torch.stack([self.pictures.cut(number, self.cutting, draw) for number in numbers]))

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
    tokenizer = PixelTokenizer(options.channels)
    size = None if options.image_size is None else math.ceil(options.image_size * options.max_scale)
    encode(
        EncodeOptions(
            tokenizer=("image=pixels",),
            data=tuple(data),
            out=str(folder),
            workers=options.workers,
            media_field=options.media_field,
            image_size=size,
            crop=options.crop == "center",
            max_failures=options.max_failures,
        ),
        progress,
        loaded={"pixels": tokenizer},
    )


def _scaled(picture: Tensor, size: int) -> Tensor:
    scaled = F.interpolate(picture[None].float(), (size, size), mode="bicubic", antialias=True)
    return scaled[0].round_().clamp_(0, 255).to(torch.uint8)


def grid_of(rows: Sequence[Sequence[Tensor]], gap: int = 2) -> Tensor:
    """Return one picture (C, H, W) of rows of pictures of one size, with white gaps; small ones are enlarged."""
    channels, height, width = rows[0][0].shape
    scale = max(1, 64 // max(height, width))
    step_y, step_x = height * scale + gap, width * scale + gap
    sheet = torch.full((channels, gap + len(rows) * step_y, gap + max(map(len, rows)) * step_x), 255, dtype=torch.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            large: Any = picture.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
            top, left = gap + y * step_y, gap + x * step_x
            sheet[:, top : top + height * scale, left : left + width * scale] = large
    return sheet
