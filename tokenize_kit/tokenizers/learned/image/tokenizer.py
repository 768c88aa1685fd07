"""A trained image autoencoder as a tokenizer: any picture size, mixed batches, tiles, and a folder of safetensors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor

from tokenize_kit.media.image import check_image
from tokenize_kit.protocol import (
    Tokenizer,
    TokenSpec,
    check_ids,
    fingerprint_of,
    size_of,
)
from tokenize_kit.tokenizers.learned.folder import is_mixed, load_network, save_network
from tokenize_kit.tokenizers.learned.image.config import AutoencoderConfig
from tokenize_kit.tokenizers.learned.image.model import Autoencoder, from_pixels, to_pixels
from tokenize_kit.tokenizers.learned.image.network import receptive_radius
from tokenize_kit.tokenizers.learned.tiles import spans

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample

NAME = "autoencoder"
TILE_PIXELS = 1024
"""Pictures with a longer side are cut into tiles of this side."""
GLOBAL_MARGIN = 8
"""Ids that a tile sees beyond its own where the network looks at whole pictures, so that no distance is enough."""
CPU_PIXELS, GPU_PIXELS = 1 << 14, 1 << 18
"""Pixels that go through the network in one call if a picture has fewer: enough for its speed."""
CPU_NUMBERS = 1 << 21
"""Of small pictures a call may have more, up to so many numbers in the first feature map: a narrow network is done with few
pixels before Python has called its layers."""
ONE_THREAD_PIXELS = 1 << 16
"""Pictures with more pixels have all threads of the CPU for themselves: few of them would fill its caches and the memory."""
_LANES = 32
"""Numbers that torch computes together on a CPU. What is left over at the end of a tensor, fewer than these, goes through another
exponential, which can differ in the last bit."""


class _Group(NamedTuple):
    """Some pictures that go through the network in one call (a call a tile)."""

    shape: tuple[int, ...]
    """That of the id grid of each."""
    places: list[int]
    """Where they are in the batch."""
    size: int
    """Pictures of the call; those that are missing are filled up."""
    one_thread: bool
    """Whether the call has one thread, beside others that have one too."""


_Begin: TypeAlias = Callable[[Callable[[_Group], Tensor], _Group], Callable[[], Tensor]]
"""Begins a call of the network; what it returns waits for the result."""


class AutoencoderTokenizer(Tokenizer):
    """Turns pictures of any size into the ids of a learned discrete autoencoder; see `AutoencoderConfig`.

    A picture whose sides are no multiples of the downsample factor is continued with its last row and column; `decode_sized`
    cuts that off again. Arithmetic is float32 whatever the model was trained in, unless `to` says otherwise.

    Ids and pixels do not depend on the batch, to the bit. Libraries choose the order of sums by the number of pictures, above all
    for one against many, and a last bit can turn an id; so the pictures of one size go through the network in calls whose number
    of pictures follows from that size alone, filled up where there are fewer. On a CPU a call has one thread unless its picture
    is large, and several calls run side by side: threads that need not wait for each other are faster.

    Args:
        model: trained; it is put into evaluation mode and its weights are no longer changed.
        tile: side of the tiles, in pixels, of pictures with a longer side.

    Raises:
        ValueError: the tile is smaller than the downsample factor.
    """

    def __init__(self, model: Autoencoder, tile: int = TILE_PIXELS) -> None:
        network = model.config.network
        if tile < network.downsample_factor:
            raise ValueError(f"tile {tile} is smaller than the downsample factor {network.downsample_factor}")
        self.model = model.float().eval().requires_grad_(False)
        self.tile = tile
        self._mixed = False
        sizes = model.quantizer.codebook_sizes
        factor = network.downsample_factor
        self._axes: tuple[str, ...] = ("height", "width")
        if model.quantizer.codebook_axis:
            self._spec = TokenSpec(
                "image", sizes, (*self._axes, "codebook"), (factor, factor, None), False, network.channels
            )
        else:
            self._spec = TokenSpec("image", sizes[0], self._axes, (factor, factor), False, network.channels)
        radius = receptive_radius(network) if network.local else (GLOBAL_MARGIN, GLOBAL_MARGIN)
        self._encoder_margin, self._decoder_margin = radius

    @property
    def spec(self) -> TokenSpec:
        """What this tokenizer is and expects."""
        return self._spec

    @property
    def config(self) -> AutoencoderConfig:
        """What the network is made of."""
        return self.model.config

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 over the configuration, the tile and all weights."""
        return fingerprint_of(NAME, self._options(), self.model.state_dict())

    def to(self, device: torch.device | str, precision: str = "32-true") -> Self:
        """Compute on another device, or with bfloat16; ids and pictures still come back on the CPU."""
        self._mixed = is_mixed(precision)
        self.model.to(device)
        return self

    def encode(self, sample: Sample) -> Tensor:
        """Turn a uint8 picture (C, H, W) into ids, int64 (H / f, W / f) rounded up, or with a last axis of codebooks."""
        return self.encode_batch([sample])[0]

    def decode(self, ids: Tensor) -> Sample:
        """Turn ids (h, w) back into a uint8 picture (C, f h, f w)."""
        return self.decode_batch([ids])[0]

    def encode_batch(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Encode pictures of mixed sizes; those of one size go through the network together."""
        with self._calls(len(samples)) as begin:
            return self._begin_batch(samples, begin)()

    @contextmanager
    def encode_ahead(self) -> Iterator[Callable[[Sequence[Sample]], Callable[[], list[Tensor]]]]:
        """See `tokenize_kit.shards.unit.PipelinedEncoder`: no thread waits for the end of a batch."""
        with self._calls(torch.get_num_threads()) as begin:
            yield lambda samples: self._begin_batch(samples, begin)

    def _begin_batch(self, samples: Sequence[Sample], begin: _Begin) -> Callable[[], list[Tensor]]:
        pictures = [check_image(sample, self._spec.channels) for sample in samples]
        factor = self.config.network.downsample_factor

        def work(group: _Group) -> Tensor:
            return self._encode_equal([pictures[place] for place in group.places], group)

        return self._begin_groups(work, [_grid(picture, factor) for picture in pictures], begin)

    def decode_batch(self, grids: Sequence[Tensor]) -> list[Sample]:
        """Decode grids of mixed sizes; those of one size go through the network together."""
        checked = [self._check(ids) for ids in grids]

        def work(group: _Group) -> Tensor:
            return self._decode_equal(torch.stack([checked[place] for place in group.places]), group)

        with self._calls(len(checked)) as begin:
            return list(self._begin_groups(work, [tuple(ids.shape) for ids in checked], begin)())

    def _begin_groups(
        self, work: Callable[[_Group], Tensor], shapes: Sequence[tuple[int, ...]], begin: _Begin
    ) -> Callable[[], list[Tensor]]:
        """Begin the calls of a batch; what is returned waits for them and puts their results into its order."""
        running = [(group, begin(work, group)) for group in self._groups(shapes)]

        def finish() -> list[Tensor]:
            found = {
                place: value
                for group, made in running
                for place, value in zip(group.places, made().unbind(), strict=True)
            }
            return [found[place] for place in range(len(shapes))]

        return finish

    def decode_sized(self, grids: Sequence[Tensor], sizes: Sequence[tuple[int, ...]]) -> list[Sample]:
        """Decode grids, each cut to its true (H, W)."""
        pictures = self.decode_batch(grids)
        for place, (picture, (height, width)) in enumerate(zip(pictures, sizes, strict=True)):
            assert isinstance(picture, Tensor)
            covered = size_of(picture)
            factor = self.config.network.downsample_factor
            if not (0 <= covered[0] - height < factor and 0 <= covered[1] - width < factor):
                raise ValueError(
                    f"a grid that covers {covered[0]}x{covered[1]} pixels is not that of a picture of {height}x{width}"
                )
            pictures[place] = picture[:, :height, :width].contiguous()
        return pictures

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors`` and ``tokenizer_config.json`` into ``folder``."""
        save_network(folder, self, self.model, self._options())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; every tensor must be there, and no other."""
        return cls(*load_network(folder, NAME, "tile", lambda config: Autoencoder(AutoencoderConfig.from_dict(config))))

    def _options(self) -> dict[str, Any]:
        return {"config": self.config.to_dict(), "tile": self.tile}

    def _check(self, ids: Tensor) -> Tensor:
        if isinstance(ids, Tensor) and ids.numel() == 0:
            raise ValueError(f"an id grid of shape {tuple(ids.shape)} is empty; a picture has at least one pixel")
        return check_ids(ids, self._spec)

    def _groups(self, shapes: Sequence[tuple[int, ...]]) -> list[_Group]:
        """Return the places of equal shapes together, as many as go through the network in one call."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for place, shape in enumerate(shapes):
            by_shape.setdefault(shape, []).append(place)
        groups = []
        for shape, places in by_shape.items():
            ids = shape[0] * shape[1]
            size, used = self._call(ids)
            alone = ids * self.config.network.downsample_factor**2 <= ONE_THREAD_PIXELS and self._device.type == "cpu"
            groups += [
                _Group(shape, places[start : start + used], size, alone) for start in range(0, len(places), used)
            ]
        return groups

    def _call(self, ids: int) -> tuple[int, int]:
        """Return how many pictures of so many ids a call of the network has, and how many of them are used."""
        area = ids * self.config.network.downsample_factor**2
        if self._device.type != "cpu":
            size = max(1, GPU_PIXELS // area)
            return size, size
        pixels = CPU_PIXELS
        if 4 * area <= pixels:
            pixels = max(pixels, CPU_NUMBERS // self.config.network.width)
        size = max(1, pixels // area)
        if size * ids % _LANES == 0:
            return size, size
        # What is left over at the end of a tensor must belong to pictures that only fill up; of twice as many they are few.
        size, spare = max(pixels, 2 * CPU_PIXELS) // area, -(-_LANES // ids)
        return (size, size - spare) if size > 3 else (1, 1)

    @contextmanager
    def _calls(self, most: int) -> Iterator[_Begin]:
        """Yield what begins a call: those of one thread run side by side, others when their result is asked for.

        Args:
            most: no more than so many calls will be running.
        """
        threads = torch.get_num_threads()
        if threads == 1 or self._device.type != "cpu":
            yield partial
            return
        workers = max(1, min(threads, most))
        ready = threading.Barrier(workers)

        def prepare(_worker: int) -> None:
            torch.get_num_threads()  # a thread takes over the number of the process the first time it looks
            torch.set_num_threads(1)
            ready.wait()

        with ThreadPoolExecutor(workers) as pool:
            try:
                list(pool.map(prepare, range(workers)))
            finally:
                # The number of a thread is its own, but threads of later begin with the one that was set last.
                torch.set_num_threads(threads)

            def begin(work: Callable[[_Group], Tensor], group: _Group) -> Callable[[], Tensor]:
                return pool.submit(work, group).result if group.one_thread else partial(work, group)

            try:
                yield begin
            finally:
                pool.shutdown(cancel_futures=True)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _encode_equal(self, pictures: Sequence[Tensor], group: _Group) -> Tensor:
        """Encode pictures of one grid size, tile by tile."""
        factor, grid = self.config.network.downsample_factor, group.shape
        rows = []
        for top, bottom, read_top, read_bottom in spans(grid[0], self.tile // factor, self._encoder_margin):
            row = []
            for left, right, read_left, read_right in spans(grid[1], self.tile // factor, self._encoder_margin):
                cut = torch.stack(
                    [_window(picture, read_top, read_bottom, read_left, read_right, factor) for picture in pictures]
                )
                with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, self._mixed):
                    ids = self.model.encode(to_pixels(_filled(cut, group.size).to(self._device)))[: len(pictures)].cpu()
                row.append(ids[:, top - read_top : bottom - read_top, left - read_left : right - read_left])
            rows.append(torch.cat(row, 2))
        return torch.cat(rows, 1)

    def _decode_equal(self, ids: Tensor, group: _Group) -> Tensor:
        """Decode grids of one size (B, h, w, ...) to uint8 (B, C, f h, f w), tile by tile."""
        network, grid = self.config.network, group.shape
        f = network.downsample_factor
        result = torch.empty((len(ids), network.channels, grid[0] * f, grid[1] * f), dtype=torch.uint8)
        for top, bottom, read_top, read_bottom in spans(grid[0], self.tile // f, self._decoder_margin):
            for left, right, read_left, read_right in spans(grid[1], self.tile // f, self._decoder_margin):
                cut = _filled(ids[:, read_top:read_bottom, read_left:read_right], group.size).to(self._device)
                with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, self._mixed):
                    pixels = from_pixels(self.model.decode(cut)[: len(ids)]).cpu()
                y, x = (top - read_top) * f, (left - read_left) * f
                height, width = (bottom - top) * f, (right - left) * f
                result[:, :, top * f : bottom * f, left * f : right * f] = pixels[:, :, y : y + height, x : x + width]
        return result


def _filled(batch: Tensor, count: int) -> Tensor:
    """Return a batch (B, ...) with its first element repeated at the end, up to ``count`` of them."""
    missing = count - len(batch)
    return torch.cat([batch, batch[:1].expand(missing, *batch.shape[1:])]) if missing > 0 else batch


def _window(picture: Tensor, top: int, bottom: int, left: int, right: int, factor: int) -> Tensor:
    """Return the pixels of some ids of a picture (C, H, W); beyond its edge the last row or column is repeated."""
    top, bottom, left, right = top * factor, bottom * factor, left * factor, right * factor
    if bottom <= picture.shape[1] and right <= picture.shape[2]:
        return picture[:, top:bottom, left:right]
    rows = torch.arange(top, bottom).clamp_(max=picture.shape[1] - 1)
    columns = torch.arange(left, right).clamp_(max=picture.shape[2] - 1)
    return picture[:, rows][:, :, columns]


def _grid(picture: Tensor, factor: int) -> tuple[int, int]:
    return -(-picture.shape[1] // factor), -(-picture.shape[2] // factor)
