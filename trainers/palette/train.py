"""Fit a colour palette to pictures: k-means over the colours that occur in them, weighted by how often they do.

Every pixel of every picture counts, through a histogram of all 2^24 colours; scikit-learn's KMeans then sees each
colour once. Where there are very many, colours within the same cell of 4x4x4 are fitted as their weighted mean: for
photographs that gives a smaller error than mini-batches over a sample of the pixels (see `benchmarks/palette.py`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tokenize_kit.progress import Progress

# As many colours as k-means takes in a few seconds.
_MAX_POINTS = 1 << 16
_BUFFER_PIXELS = 1 << 22


@dataclass(frozen=True)
class TrainPaletteOptions:
    """Fit a palette of colours to pictures; each pixel becomes the id of its nearest colour, as in Image GPT."""

    summary: ClassVar[str] = "fit a k-means colour palette on pictures"
    examples: ClassVar[tuple[str, ...]] = (
        "train palette --data photos --out tokenizers/palette",
        "train palette --data assets/emoji.tar --colors 128 --color-space oklab --out tokenizers/palette",
    )

    data: tuple[str, ...]
    """What to read: files, folders, globs or fsspec URLs of pictures, tar and parquet."""
    out: str
    """Folder for the tokenizer."""
    colors: int = 512
    """Size of the palette, 1 to 65,536. Pictures with fewer colours than that give a smaller, exact palette."""
    color_space: Literal["rgb", "oklab"] = "rgb"
    """Where distances are taken: rgb gives the highest PSNR, oklab is closer to what the eye sees."""
    image_size: int | None = None
    """Scale and crop pictures to a square of this many pixels first; use what you will encode with."""
    pad: bool = False
    """With --image-size: scale and pad pictures to the square instead, see encode."""
    media_field: str | None = None
    """Column of a parquet file that holds the picture; by default image."""
    limit: int | None = None
    """Fit to the first N pictures only."""
    max_iterations: int = 100
    """Upper limit of the k-means iterations."""
    max_failures: int = 1000
    """Stop when more pictures than this cannot be read."""
    seed: int = 0
    """Seed of the k-means start; the same seed and pictures give the same palette."""

    def __post_init__(self) -> None:
        if not 1 <= self.colors <= 1 << 16:
            raise ValueError(f"colors {self.colors} is outside 1 to 65,536")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations {self.max_iterations} must be 1 or more")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit {self.limit} must be 1 or more")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size {self.image_size} must be 1 or more")
        if self.pad and self.image_size is None:
            raise ValueError("--pad needs an --image-size: the side of the square that pictures are padded to")


@dataclass(frozen=True)
class TrainPaletteResult:
    """What was fitted, and to what."""

    out: str
    """The tokenizer's folder."""
    fingerprint: str
    """The tokenizer's fingerprint."""
    colors: int
    """Size of the palette."""
    color_space: str
    """The space of the distances."""
    pictures: int
    """Pictures that were read."""
    failures: int
    """Pictures that could not be read."""
    pixels: int
    """Pixels that were counted."""
    distinct_colors: int
    """Different colours among them."""
    psnr: float | None
    """PSNR over all the pixels together, in dB; None if the palette holds every colour, so that nothing is lost."""
    seconds: float
    """Wall time."""


def train_palette(options: TrainPaletteOptions, progress: Progress) -> TrainPaletteResult:
    """Fit a palette and save the tokenizer in ``options.out``.

    Raises:
        FileNotFoundError: there are no pictures.
        ValueError: none can be read, or ``options.out`` holds another tokenizer.
        TooManyFailuresError: more than ``options.max_failures`` pictures cannot be read.
    """
    import numpy as np
    import torch

    from tokenize_kit.protocol import save_as
    from tokenize_kit.tokenizers.image.colors import NearestColor
    from tokenize_kit.tokenizers.image.pixels import PaletteTokenizer

    began = time.monotonic()
    counts, pictures, failures = _count_colors(options, progress)
    packed = np.flatnonzero(counts)
    weights = counts[packed]
    present = np.stack([packed >> 16, packed >> 8 & 255, packed & 255]).astype(np.uint8)
    progress.task("fit palette")
    progress.update(colors=options.colors, distinct_colors=len(packed), pixels=int(weights.sum()))
    palette = fit_palette(present, weights, options)
    if palette.shape[1] < options.colors:
        progress.note(
            f"the palette has {palette.shape[1]} colours instead of {options.colors}: "
            f"the pictures have {len(packed)} different ones"
        )
    tokenizer = PaletteTokenizer(torch.from_numpy(palette.T.copy()), options.color_space)
    save_as(tokenizer, options.out)

    nearest = NearestColor(palette, options.color_space)(np.ascontiguousarray(present), torch.get_num_threads())
    squares = ((present.astype(np.int64) - palette[:, nearest].astype(np.int64)) ** 2).sum(axis=0)
    error = float(np.dot(squares, weights)) / float(3 * weights.sum())
    progress.close()
    return TrainPaletteResult(
        out=options.out,
        fingerprint=tokenizer.fingerprint,
        colors=palette.shape[1],
        color_space=options.color_space,
        pictures=pictures,
        failures=failures,
        pixels=int(weights.sum()),
        distinct_colors=len(packed),
        psnr=10 * math.log10(255**2 / error) if error else None,
        seconds=round(time.monotonic() - began, 3),
    )


def fit_palette(
    present: NDArray[np.uint8], weights: NDArray[np.int64], options: TrainPaletteOptions
) -> NDArray[np.uint8]:
    """Return at most ``options.colors`` colours, uint8 ``(3, K)``, dark to light, without repetition.

    Args:
        present: the different colours that occur, uint8 ``(3, N)``.
        weights: how often each does, int64 ``(N,)``.
        options: number of colours, colour space, seed, iterations.
    """
    import numpy as np
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    from tokenize_kit.tokenizers.image.colors import colors_at, coordinates

    if present.shape[1] <= options.colors:
        palette: NDArray[np.uint8] = present
    else:
        points, masses = _points(present, weights, options.color_space)
        if points.shape[1] <= options.colors:
            points, masses = coordinates(present, options.color_space), weights.astype(np.float64)
        # More threads would add the same numbers in another order, and the palette would depend on the machine.
        with threadpool_limits(limits=1):
            fitted = KMeans(options.colors, n_init=1, max_iter=options.max_iterations, random_state=options.seed)
            fitted.fit(points.T, sample_weight=masses)
        palette = np.unique(colors_at(fitted.cluster_centers_.T, options.color_space), axis=1)
    lightness = coordinates(palette, "oklab")[0]
    return palette[:, np.lexsort((*palette[::-1], lightness))]


def _points(present: NDArray[np.uint8], weights: NDArray[np.int64], space: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what k-means sees, ``(3, N)`` with masses: the colours themselves, or the means of cells of 4x4x4."""
    import numpy as np

    from tokenize_kit.tokenizers.image.colors import coordinates

    places = coordinates(present, space)
    if present.shape[1] <= _MAX_POINTS:
        return places, weights.astype(np.float64)
    red, green, blue = (present >> 2).astype(np.int64)
    _, cell = np.unique(red << 12 | green << 6 | blue, return_inverse=True)
    masses = np.bincount(cell, weights)
    return np.stack([np.bincount(cell, weights * axis) for axis in places]) / masses, masses


def _count_colors(options: TrainPaletteOptions, progress: Progress) -> tuple[NDArray[np.int64], int, int]:
    """Return how often each of the 2^24 colours occurs, the number of pictures, and of those that cannot be read."""
    import numpy as np

    from tokenize_kit.errors import TooManyFailuresError
    from tokenize_kit.media.image import check_image
    from tokenize_kit.sources.blocks import Failure
    from tokenize_kit.sources.samples import iter_samples
    from tokenize_kit.tokenizers.image.pixels import PaletteTokenizer

    failures = 0

    def failed(failure: Failure) -> None:
        nonlocal failures
        failures += failure.samples
        progress.note(f"cannot read {failure.key}: {failure.reason}")
        if failures > options.max_failures:
            raise TooManyFailuresError(
                f"more than {options.max_failures} pictures cannot be read, the last is {failure.key}: "
                f"{failure.reason}; "
                "mend them or raise --max-failures"
            )

    counts = np.zeros(1 << 24, np.int64)
    buffered: list[NDArray[np.int32]] = []
    pictures = waiting = pixels = 0
    wanted = PaletteTokenizer([[0, 0, 0]]).spec
    samples = iter_samples(
        options.data,
        wanted,
        failed,
        media_field=options.media_field,
        image_size=options.image_size,
        pad=options.pad,
        on_remark=progress.note,
        leave_out=(options.out,),
    )
    progress.task("count colours", options.limit)
    for sample in samples:
        red, green, blue = check_image(sample.sample, 3).reshape(3, -1).numpy().astype(np.int32)
        buffered.append(red << 16 | green << 8 | blue)
        pictures, waiting, pixels = pictures + 1, waiting + len(red), pixels + len(red)
        # One count over a full buffer, because each touches the whole histogram.
        if waiting >= _BUFFER_PIXELS:
            counts += np.bincount(np.concatenate(buffered), minlength=1 << 24)
            buffered, waiting = [], 0
        progress.update(pictures, pictures=pictures, pixels=pixels)
        if pictures == options.limit:
            break
    if not pictures:
        raise ValueError(f"none of the {failures} pictures in {', '.join(options.data)} can be read")
    if buffered:
        counts += np.bincount(np.concatenate(buffered), minlength=1 << 24)
    return counts, pictures, failures
