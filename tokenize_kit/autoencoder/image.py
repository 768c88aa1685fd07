"""A trained image autoencoder as a tokenizer: any picture size, mixed batches, tiles, and a folder of safetensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors.torch import save
from torch import Tensor

from tokenize_kit.autoencoder.config import AutoencoderConfig
from tokenize_kit.autoencoder.model import Autoencoder, from_pixels, to_pixels
from tokenize_kit.autoencoder.network import receptive_radius
from tokenize_kit.autoencoder.tiles import spans
from tokenize_kit.files import atomic_write
from tokenize_kit.media.image import check_image
from tokenize_kit.tokenizer import (
    Tokenizer,
    TokenSpec,
    check_ids,
    check_target,
    fingerprint_of,
    read_config,
    size_of,
    write_config,
)
from tokenize_kit.weights import load_tensors, read_tensors

if TYPE_CHECKING:
    from tokenize_kit.tokenizer import Sample

NAME = "autoencoder"
WEIGHTS_FILE = "model.safetensors"
TILE_PIXELS = 1024
"""Pictures with a longer side are cut into tiles of this side."""
GLOBAL_MARGIN = 8
"""Ids that a tile sees beyond its own where the network looks at whole pictures, so that no distance is enough."""
BATCH_PIXELS = 1 << 18
"""Pixels that go through the network at once: enough for its speed, little enough for the processor's cache."""


class AutoencoderTokenizer(Tokenizer):
    """Turns pictures of any size into the ids of a learned discrete autoencoder; see `AutoencoderConfig`.

    A picture whose sides are no multiples of the downsample factor is continued with its last row and column; `decode_sized`
    cuts that off again. Arithmetic is float32 whatever the model was trained in, so that ids do not depend on the batch.

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

    def to(self, device: torch.device | str) -> Self:
        """Compute on another device; ids and pictures still come back on the CPU."""
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
        pictures = [check_image(sample, self._spec.channels) for sample in samples]
        factor = self.config.network.downsample_factor
        grids = [(-(-picture.shape[1] // factor), -(-picture.shape[2] // factor)) for picture in pictures]
        result: list[Tensor] = [torch.empty(0)] * len(pictures)
        for grid, chosen in self._groups(grids):
            group = [pictures[place] for place in chosen]
            for place, ids in zip(chosen, self._encode_equal(group, grid), strict=True):
                result[place] = ids
        return result

    def decode_batch(self, grids: Sequence[Tensor]) -> list[Sample]:
        """Decode grids of mixed sizes; those of one size go through the network together."""
        checked = [self._check(ids) for ids in grids]
        result: list[Sample] = [""] * len(checked)
        for shape, chosen in self._groups([tuple(ids.shape) for ids in checked]):
            group = torch.stack([checked[place] for place in chosen])
            for place, picture in zip(chosen, self._decode_equal(group, shape[:2]), strict=True):
                result[place] = picture
        return result

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
        folder = check_target(folder, self)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        with atomic_write(folder / WEIGHTS_FILE) as file:
            file.write(save(tensors))
        write_config(folder, self, self._options())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; every tensor must be there, and no other."""
        config = read_config(folder)
        if config["tokenizer"] != NAME:
            raise ValueError(f"{folder} holds a {config['tokenizer']!r} tokenizer, not {NAME!r}; use load_tokenizer")
        options = dict(config["options"])
        if set(options) != {"config", "tile"} or type(options["tile"]) is not int:
            raise ValueError(f"{folder} is damaged: its options {sorted(options)} are not those of an autoencoder")
        path = Path(folder) / WEIGHTS_FILE
        tensors = read_tensors(path)
        with torch.random.fork_rng([]):  # the fresh weights are overwritten; nobody's random numbers shall change
            model = Autoencoder(AutoencoderConfig.from_dict(options["config"]))
        load_tensors(model.state_dict(), tensors, path)
        return cls(model, options["tile"])

    def _options(self) -> dict[str, Any]:
        return {"config": self.config.to_dict(), "tile": self.tile}

    def _check(self, ids: Tensor) -> Tensor:
        if isinstance(ids, Tensor) and ids.numel() == 0:
            raise ValueError(f"an id grid of shape {tuple(ids.shape)} is empty; a picture has at least one pixel")
        return check_ids(ids, self._spec)

    def _groups(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, ...], list[int]]]:
        """Return the places of equal shapes together, at most `BATCH_PIXELS` at once."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for place, shape in enumerate(shapes):
            by_shape.setdefault(shape, []).append(place)
        area = self.config.network.downsample_factor**2
        groups = []
        for shape, places in by_shape.items():
            most = max(1, BATCH_PIXELS // (shape[0] * shape[1] * area))
            groups += [(shape, places[start : start + most]) for start in range(0, len(places), most)]
        return groups

    def _encode_equal(self, pictures: Sequence[Tensor], grid: tuple[int, ...]) -> Tensor:
        """Encode pictures of one grid size, tile by tile."""
        factor, device = self.config.network.downsample_factor, next(self.model.parameters()).device
        rows = []
        for top, bottom, read_top, read_bottom in spans(grid[0], self.tile // factor, self._encoder_margin):
            row = []
            for left, right, read_left, read_right in spans(grid[1], self.tile // factor, self._encoder_margin):
                cut = torch.stack(
                    [_window(picture, read_top, read_bottom, read_left, read_right, factor) for picture in pictures]
                )
                ids = self.model.encode(to_pixels(cut.to(device)))
                row.append(ids[:, top - read_top : bottom - read_top, left - read_left : right - read_left].cpu())
            rows.append(torch.cat(row, 2))
        return torch.cat(rows, 1)

    def _decode_equal(self, ids: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Decode grids of one size (B, h, w, ...) to uint8 (B, C, f h, f w), tile by tile."""
        network, device = self.config.network, next(self.model.parameters()).device
        f = network.downsample_factor
        result = torch.empty((len(ids), network.channels, grid[0] * f, grid[1] * f), dtype=torch.uint8)
        for top, bottom, read_top, read_bottom in spans(grid[0], self.tile // f, self._decoder_margin):
            for left, right, read_left, read_right in spans(grid[1], self.tile // f, self._decoder_margin):
                cut = ids[:, read_top:read_bottom, read_left:read_right].to(device)
                pixels = from_pixels(self.model.decode(cut)).cpu()
                y, x = (top - read_top) * f, (left - read_left) * f
                height, width = (bottom - top) * f, (right - left) * f
                result[:, :, top * f : bottom * f, left * f : right * f] = pixels[:, :, y : y + height, x : x + width]
        return result


def _window(picture: Tensor, top: int, bottom: int, left: int, right: int, factor: int) -> Tensor:
    """Return the pixels of some ids of a picture (C, H, W); beyond its edge the last row or column is repeated."""
    rows = torch.arange(top * factor, bottom * factor).clamp_(max=picture.shape[1] - 1)
    columns = torch.arange(left * factor, right * factor).clamp_(max=picture.shape[2] - 1)
    return picture[:, rows][:, :, columns]
