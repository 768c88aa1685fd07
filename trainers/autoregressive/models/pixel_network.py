"""The network of PixelCNNs: the pictures of documents embedded, convolved, and read where their ids are predicted.

What is predicted outside of pictures, and what a picture is given besides grids, is made of the mean of the tokens that are of no
picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.autoregressive.models.base import HeadedModel
from trainers.autoregressive.models.canvases import (
    CHANNEL,
    COLUMN,
    GIVEN,
    PART,
    ROW,
    Grids,
    inside,
    own_cells,
    resampled,
)
from trainers.autoregressive.models.embeddings import reset_embedding
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.ordinal import HeadConfig
from trainers.autoregressive.models.pixel_layers import GatedLayer, MaskedLayer, PixelStack, RowConv
from trainers.autoregressive.models.runs import runs_of


@dataclass(frozen=True)
class PixelCNNConfig(HeadConfig):
    """A stack of layers over pictures."""

    of_the_data: ClassVar[Mapping[str, str]] = {
        **HeadConfig.of_the_data,
        "channels": "follows from the templates",
        "grid_condition": "follows from the templates",
    }
    kind: Literal["gated", "original"] = "gated"
    """Two stacks that see all pixels within the field, or one with a blind spot."""
    layers: int = 8
    """How many stand on each other."""
    width: int = 72
    """Channels of each; those of the ids of a pixel share them. A gated layer costs about nine times an original one."""
    kernel: int = 3
    """Rows and columns of the square that a layer's kernel is the upper half of; odd."""
    first_kernel: int = 7
    """The same of the first layer."""
    dropout: float = 0.0
    """Probability of dropping an activation of each layer while training."""
    channels: int = 1
    """The most ids of a pixel."""
    grid_condition: bool = False
    """Whether grids that come before a picture are its condition, place by place."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "layers", "width", "channels")
        self.at_least(3, "kernel", "first_kernel")
        self.probability("dropout")
        for name in ("kernel", "first_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} {getattr(self, name)} must be odd; use {getattr(self, name) + 1}")
        if self.width % (2 * self.channels):
            raise ValueError(
                f"width {self.width} is not a multiple of {2 * self.channels}, twice the {self.channels} channels that share it; "
                f"use {-(-self.width // (2 * self.channels)) * 2 * self.channels}"
            )

    @property
    def field(self) -> int:
        """How many rows and columns away a pixel may be that is seen."""
        return self.first_kernel // 2 + (self.layers - 1) * (self.kernel // 2)


class PixelNetwork(HeadedModel):
    """Hidden states of documents with pictures.

    Args:
        config: of the family.
    """

    def __init__(self, config: PixelCNNConfig) -> None:
        width, channels = config.width, config.channels
        super().__init__(config, width // channels, width)
        self.summary = nn.Sequential(nn.Linear(width // channels, width), nn.GELU(), nn.Linear(width, width))
        self.aligned = _Aligned(width) if config.grid_condition else None
        layer = GatedLayer if config.kind == "gated" else MaskedLayer
        self.stack = PixelStack(
            [
                layer(width, config.kernel if number else config.first_kernel, channels, not number, config.dropout)
                for number in range(config.layers)
            ]
        )
        self.features = RowConv(width, channels * width, 1, channels)
        self.norm = nn.RMSNorm(width)
        reset_embedding(self.embedding, 1.0)

    def hidden(self, inputs: Inputs) -> Tensor:
        """Return the last hidden states (B, T, width).

        Raises:
            ValueError: the rows are longer than the context, or the cells are missing.
        """
        self.check_length(inputs)
        count, length = inputs.ids.shape
        x: Tensor = self.embedding(inputs.ids)
        cells = inputs.of("cells")
        if inputs.documents is None:
            return self._of_documents(x, cells, torch.full((count,), length, device=x.device))
        result = x.new_zeros(count, length, self.config.width)
        for runs in runs_of(inputs.documents):
            found = self._of_documents(runs.gather(x), runs.gather(cells), runs.lengths)
            result = runs.scatter(result, found)
        return result

    def _of_documents(self, x: Tensor, cells: Tensor, lengths: Tensor) -> Tensor:
        """Return the hidden states of R documents (R, L, width), each a row of its own that begins with it.

        Args:
            x: (R, L, D), their tokens embedded.
            cells: (R, L, 8), of the tokens after them.
            lengths: int64 (R,), how many tokens are real, those first.
        """
        real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        own = own_cells(cells).masked_fill(~real[..., None], -1)
        cells = cells.masked_fill(~real[..., None], -1)
        outside = real & (own[..., PART] < 0)
        count = outside.cumsum(1).clamp(min=1)[..., None]
        mean = (x * outside[..., None]).cumsum(1) / count
        drawn = (cells[..., PART] >= 0) & (cells[..., GIVEN] == 0)
        result = x.new_zeros(*x.shape[:2], self.config.width)
        alone = real & ~drawn
        result = result.index_put((alone,), self.norm(self.summary(mean[alone])).to(result.dtype))
        grids = Grids.of(cells, own)
        for chosen, size in grids.of_one_size((grids.cells[:, GIVEN] == 0).nonzero()[:, 0]):
            pictures = grids.paint(x, own, chosen, size, self.config.channels)
            start = self.summary(mean[grids.rows[chosen], grids.starts[chosen]])
            condition = self.condition(start, x, own, grids, chosen, size)
            features = self.features(self.stack(pictures, condition))
            numbers = grids.numbered(chosen)[grids.next_of]
            places = numbers >= 0
            one = cells[places]
            features = features.unflatten(1, (self.config.channels, self.config.width))
            found = features[numbers[places], one[:, CHANNEL], :, one[:, ROW], one[:, COLUMN]]
            result = result.index_put((places,), self.norm(found).to(result.dtype))
        return result

    def condition(
        self, summary: Tensor, x: Tensor, own: Tensor, grids: Grids, chosen: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Return what grids of one size are drawn by, (N, width, height or 1, width or 1).

        Args:
            summary: (N, width), of the tokens before them that are of no grid.
            x: (R, L, D), the tokens of the documents.
            own: (R, L, 8), their cells.
            grids: of the documents.
            chosen: int64 (N,), those that are drawn.
            size: of these.
        """
        result = summary[..., None, None]
        if self.aligned is None:
            return result
        pictures = x.new_zeros(len(chosen), self.config.width, *size)
        places = x.new_zeros(len(chosen), 2, *size)
        earlier = grids.rows[chosen][:, None] == grids.rows
        earlier &= torch.arange(len(grids.rows), device=x.device) < chosen[:, None]
        for sources, other in grids.of_one_size(earlier.any(0).nonzero()[:, 0]):
            painted = resampled(grids.paint(x, own, sources, other, self.config.channels), size)
            goal, which = earlier[:, sources].nonzero(as_tuple=True)
            pictures = pictures.index_add(0, goal, painted[which].to(pictures.dtype))
            places = places.index_add(0, goal, inside(size, other, x).expand(len(goal), -1, -1, -1))
        found: Tensor = self.aligned(pictures, places)
        return result + found


class _Aligned(nn.Module):
    """What grids that come before a picture say of each of its pixels and of those around it.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Conv2d(2, width, 1, bias=False)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, pictures: Tensor, places: Tensor) -> Tensor:
        """Return (N, width, H, W).

        Args:
            pictures: (N, width, H, W), the ids of the grids embedded, at the size of the picture, added up.
            places: (N, 2, H, W), where in a pixel of the grids each pixel is.
        """
        x = pictures + self.inside(places)
        found: Tensor = x + self.second(F.gelu(self.first(x)))
        return found
