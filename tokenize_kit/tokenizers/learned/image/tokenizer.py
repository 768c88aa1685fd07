"""A trained image autoencoder as a tokenizer: any picture size, mixed batches, tiles, and a folder of safetensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from tokenize_kit.media.image import check_image
from tokenize_kit.protocol import (
    Tokenizer,
    TokenSpec,
    check_grid,
    fingerprint_of,
)
from tokenize_kit.tokenizers.learned.folder import is_mixed, load_network, save_network
from tokenize_kit.tokenizers.learned.image.batching import Group, filled, grouped
from tokenize_kit.tokenizers.learned.image.config import AutoencoderConfig
from tokenize_kit.tokenizers.learned.image.model import Autoencoder
from tokenize_kit.tokenizers.learned.image.network import receptive_radius
from tokenize_kit.tokenizers.learned.pieces import Cut, Piece, computed, window
from tokenize_kit.tokenizers.learned.pixels import from_pixels, to_pixels
from tokenize_kit.tokenizers.learned.threads import Begin, side_by_side

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample

NAME = "autoencoder"
TILE_PIXELS = 1024
"""Pictures with a longer side are cut into tiles of this side."""
GLOBAL_MARGIN = 8
"""Ids that a tile sees beyond its own where the network looks at whole pictures, so that no distance is enough."""


class AutoencoderTokenizer(Tokenizer):
    """Turns pictures of any size into the ids of a learned discrete autoencoder; see `AutoencoderConfig`.

    A picture whose sides are no multiples of the downsample factor is continued with its last row and column; `decode_sized`
    cuts that off again. Arithmetic is float32 whatever the model was trained in, unless `to` says otherwise.

    Ids and pixels do not depend on the batch, to the bit; see `batching.py`. On a CPU a call has one thread unless its picture is
    large, and several calls run side by side.

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
        with side_by_side(len(samples), self._device) as begin:
            return self._begin_batch(samples, begin)()

    @contextmanager
    def encode_ahead(self) -> Iterator[Callable[[Sequence[Sample]], Callable[[], list[Tensor]]]]:
        """See `tokenize_kit.shards.unit.PipelinedEncoder`: no thread waits for the end of a batch."""
        with side_by_side(torch.get_num_threads(), self._device) as begin:
            yield lambda samples: self._begin_batch(samples, begin)

    def _begin_batch(self, samples: Sequence[Sample], begin: Begin) -> Callable[[], list[Tensor]]:
        pictures = [check_image(sample, self._spec.channels) for sample in samples]
        factor = self.config.network.downsample_factor

        def work(group: Group) -> Tensor:
            return self._encode_equal([pictures[place] for place in group.places], group)

        return self._begin_groups(work, [_grid(picture, factor) for picture in pictures], begin)

    def decode_batch(self, grids: Sequence[Tensor]) -> list[Sample]:
        """Decode grids of mixed sizes; those of one size go through the network together."""
        checked = [check_grid(ids, self._spec) for ids in grids]

        def work(group: Group) -> Tensor:
            return self._decode_equal(torch.stack([checked[place] for place in group.places]), group)

        with side_by_side(len(checked), self._device) as begin:
            return list(self._begin_groups(work, [tuple(ids.shape) for ids in checked], begin)())

    def _begin_groups(
        self, work: Callable[[Group], Tensor], shapes: Sequence[tuple[int, ...]], begin: Begin
    ) -> Callable[[], list[Tensor]]:
        """Begin the calls of a batch; what is returned waits for them and puts their results into its order."""
        running = [
            (group, begin(work, group) if group.one_thread else partial(work, group))
            for group in grouped(shapes, self.config.network, self._device)
        ]

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
            covered = tuple(picture.shape[1:])
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
        model, settings = load_network(
            folder, NAME, ["tile"], lambda config: Autoencoder(AutoencoderConfig.from_dict(config))
        )
        return cls(model, **settings)

    def _options(self) -> dict[str, Any]:
        return {"config": self.config.to_dict(), "tile": self.tile}

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _encode_equal(self, pictures: Sequence[Tensor], group: Group) -> Tensor:
        """Encode pictures of one grid size, tile by tile."""
        factor = self.config.network.downsample_factor

        def encoded(piece: Piece) -> Tensor:
            cut = torch.stack([window(picture, piece, factor) for picture in pictures])
            with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, self._mixed):
                return self.model.encode(to_pixels(filled(cut, group.size).to(self._device)))[: len(pictures)].cpu()

        return computed(group.shape[:2], self._cuts(self._encoder_margin), encoded)

    def _decode_equal(self, ids: Tensor, group: Group) -> Tensor:
        """Decode grids of one size (B, h, w, ...) to uint8 (B, C, f h, f w), tile by tile."""
        factor = self.config.network.downsample_factor

        def decoded(piece: Piece) -> Tensor:
            rows, columns = (slice(span.read_start, span.read_stop) for span in piece)
            cut = filled(ids[:, rows, columns], group.size).to(self._device)
            with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, self._mixed):
                return from_pixels(self.model.decode(cut)[: len(ids)]).cpu()

        cuts = self._cuts(self._decoder_margin)
        return computed(group.shape[:2], cuts, decoded, first=2, factors=(factor, factor))

    def _cuts(self, margin: int) -> tuple[Cut, Cut]:
        cut = Cut(self.tile // self.config.network.downsample_factor, margin, margin)
        return cut, cut


def _grid(picture: Tensor, factor: int) -> tuple[int, int]:
    return -(-picture.shape[1] // factor), -(-picture.shape[2] // factor)
