"""Tokenizers that keep one id, or one id a channel, for every pixel.

`PixelTokenizer` hands the channel values through: lossless, vocabulary 256. `PaletteTokenizer` replaces every pixel by
the nearest colour of a small palette, as Image GPT does with 512 colours (Chen et al. 2020). Palettes are fitted by
`trainers.palette.train`; which colour is nearest is `tokenize_kit.tokenizers.image.colors`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from tokenize_kit.files import atomic_write
from tokenize_kit.media.image import check_image
from tokenize_kit.protocol import (
    Tokenizer,
    TokenSpec,
    check_grid,
    check_target,
    fingerprint_of,
    read_options,
    write_config,
)
from tokenize_kit.tokenizers.image.colors import COLOR_SPACES, NearestColor
from tokenize_kit.weights import read_tensors

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample

PALETTE_FILE = "palette.safetensors"
MAX_COLORS = 1 << 16


class PixelTokenizer(Tokenizer):
    """Channel values as ids: lossless, vocabulary 256.

    The grid of a grey picture is ``(height, width)``, of RGB and RGBA ``(height, width, channel)``.

    Args:
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).

    Raises:
        ValueError: another number of channels.
    """

    def __init__(self, channels: int = 3) -> None:
        if channels not in (1, 3, 4) or isinstance(channels, bool):
            raise ValueError(f"channels {channels!r} is not 1 (grey), 3 (RGB) or 4 (RGBA)")
        axes = ("height", "width") if channels == 1 else ("height", "width", "channel")
        self._channels = int(channels)
        self._spec = TokenSpec("image", 256, axes, (1,) * len(axes), lossless=True, channels=self._channels)

    @property
    def spec(self) -> TokenSpec:
        """What this tokenizer is and expects."""
        return self._spec

    @property
    def ordinal(self) -> bool:
        """Ids are values in their order."""
        return True

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 over the number of channels."""
        return fingerprint_of("pixels", {"channels": self._channels})

    def encode(self, sample: Sample) -> Tensor:
        """Turn a uint8 picture ``(C, H, W)`` into ids, int64 ``(H, W, C)``, or ``(H, W)`` if it is grey."""
        picture = check_image(sample, self._channels)
        ids = picture[0] if self._channels == 1 else picture.permute(1, 2, 0)
        return ids.to(torch.int64).contiguous()

    def decode(self, ids: Tensor) -> Sample:
        """Turn ids ``(H, W, C)``, or ``(H, W)`` if grey, back into a uint8 picture ``(C, H, W)``."""
        ids = check_grid(ids, self._spec)
        if self._channels == 1:
            return ids.to(torch.uint8)[None]
        if ids.shape[2] != self._channels:
            raise ValueError(f"an id grid of shape {tuple(ids.shape)} must have {self._channels} channels last")
        return ids.to(torch.uint8).permute(2, 0, 1).contiguous()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer_config.json`` into ``folder``."""
        write_config(check_target(folder, self), self, {"channels": self._channels})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        return cls(**read_options(folder, "pixels", {"channels": int}))


class PaletteTokenizer(Tokenizer):
    """The nearest colour of a palette for every pixel; the grid is ``(height, width)``.

    "Nearest" is the Euclidean distance in ``color_space`` (the space the palette was fitted in); of equally near colours
    the first wins. Ids in RGB are those of scikit-learn's ``KMeans.predict`` with these colours as its centres.
    Encoding is one look-up a pixel in a table of all 2^24 colours, which is filled when it is first needed.

    Args:
        colors: ``(K, 3)`` RGB, integers from 0 to 255, 1 to 65,536 of them. Two may be equal; the second is then unused.
        color_space: ``"rgb"`` or ``"oklab"``.

    Raises:
        TypeError: the colours are not integers.
        ValueError: their shape or range, or the colour space, is wrong.
    """

    def __init__(self, colors: Tensor | Sequence[Sequence[int]], color_space: str = "rgb") -> None:
        values = torch.as_tensor(colors)
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise TypeError(f"palette colours are integers from 0 to 255, got {values.dtype}; round them first")
        if values.ndim != 2 or values.shape[1] != 3 or not 1 <= len(values) <= MAX_COLORS:
            raise ValueError(
                f"palette colours of shape {tuple(values.shape)} are not (K, 3) with 1 to {MAX_COLORS:,} colours"
            )
        if int(values.min()) < 0 or int(values.max()) > 255:
            raise ValueError(f"palette colours from {int(values.min())} to {int(values.max())} are outside 0 to 255")
        if color_space not in COLOR_SPACES:
            raise ValueError(f"colour space {color_space!r} is not one of {', '.join(COLOR_SPACES)}")
        self._colors = values.to("cpu", torch.uint8).clone()
        self._planes = np.ascontiguousarray(self._colors.T.numpy())
        self._color_space = color_space
        self._spec = TokenSpec("image", len(values), ("height", "width"), (1, 1), lossless=False, channels=3)

    @property
    def spec(self) -> TokenSpec:
        """What this tokenizer is and expects."""
        return self._spec

    @property
    def colors(self) -> Tensor:
        """The palette, uint8 ``(K, 3)`` RGB, indexed by id (a copy)."""
        return self._colors.clone()

    @property
    def color_space(self) -> str:
        """The space in which the nearest colour is taken: ``"rgb"`` or ``"oklab"``."""
        return self._color_space

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 over the colours and the colour space."""
        return fingerprint_of("palette", {"color_space": self._color_space}, {"colors": self._colors})

    @cached_property
    def nearest(self) -> NearestColor:
        """The table from every 8-bit colour to its id."""
        return NearestColor(self._planes, self._color_space)

    def encode(self, sample: Sample) -> Tensor:
        """Turn a uint8 picture ``(3, H, W)`` into ids, int64 ``(H, W)``; uses torch's number of threads."""
        picture = check_image(sample, 3)
        planes = picture.reshape(3, -1).numpy()
        ids = torch.from_numpy(self.nearest(planes, torch.get_num_threads()))
        return ids.view(picture.shape[1], picture.shape[2])

    def decode(self, ids: Tensor) -> Sample:
        """Turn ids ``(H, W)`` back into a uint8 picture ``(3, H, W)`` of palette colours."""
        ids = check_grid(ids, self._spec)
        # numpy's take is several times faster than torch's indexing here.
        return torch.from_numpy(np.take(self._planes, ids.numpy(), axis=1))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``palette.safetensors`` and ``tokenizer_config.json`` into ``folder``."""
        folder = check_target(folder, self)
        with atomic_write(folder / PALETTE_FILE) as file:
            file.write(save({"colors": self._colors}))
        write_config(folder, self, {"color_space": self._color_space}, [PALETTE_FILE])

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        options = read_options(folder, "palette", {"color_space": str})
        path = Path(folder) / PALETTE_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; restore it from a copy or train the palette again")
        tensors = read_tensors(path)
        if set(tensors) != {"colors"}:
            raise ValueError(
                f"{path} holds the tensors {sorted(tensors)}, expected 'colors'; it is of another tokenizer"
            )
        return cls(tensors["colors"], **options)

    def __getstate__(self) -> dict[str, Any]:
        # The table holds a lock and 32 MB that a worker process can fill for itself.
        return {name: value for name, value in self.__dict__.items() if name != "nearest"}
