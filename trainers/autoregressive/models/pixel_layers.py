"""The layers of PixelCNNs: each pixel from those above it and to its left, a part for each of the two.

What comes from the rows above a pixel (`above`) is known as soon as the row begins; what comes along the row (`along`) is not.
Each part is one function for a whole picture and for the one row or pixel that is new while a picture is drawn: it is given a
strip, the new rows or columns with those before them that it needs, and returns what belongs to the new ones.

    above    . . . . .        along    . . [strip]
             [ strip ]                       new
             [  new  ]

Channels of a pixel are seen in their order: the features of a layer are so many groups, and at the pixel itself a group reads
those of its own channel and of the ones before it, the first layer only of the ones before.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RowConv(nn.Module):
    """A convolution along the row over a pixel and some to its left, masked by channels at the pixel itself.

    Args:
        width: channels in.
        out: channels out, for each of ``gates`` parts that have the groups of their own.
        taps: pixels, the last of them the pixel itself.
        channels: groups.
        strict: whether a group does not read itself at the pixel.
        gates: parts.
    """

    mask: Tensor | None

    def __init__(
        self, width: int, out: int, taps: int, channels: int, strict: bool = False, gates: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out * gates, (1, taps), bias=bias)
        mask = None
        # Where nothing is hidden there is nothing to multiply.
        if channels > 1 or strict:
            theirs, ours = torch.arange(width) * channels // width, torch.arange(out) * channels // out
            seen = theirs < ours[:, None] if strict else theirs <= ours[:, None]
            mask = torch.ones(out * gates, width, 1, taps, dtype=torch.bool)
            mask[..., 0, -1] = seen.repeat(gates, 1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, strip: Tensor) -> Tensor:
        """Return (N, out * gates, rows, columns) of (N, width, rows, columns + taps - 1)."""
        weight = self.conv.weight
        if self.mask is not None:
            weight = weight * self.mask.to(weight.dtype)
        if strip.shape[2:] == weight.shape[2:]:
            # A single pixel: a product of matrices takes a tenth of the time of a convolution.
            return F.linear(strip.flatten(1), weight.flatten(1), self.conv.bias)[..., None, None]
        return F.conv2d(strip, weight, self.conv.bias)


class PixelLayer(nn.Module):
    """What a layer is to those who run it. Shapes: N pictures, D features in the layer.

    Args:
        kernel: rows and columns of the field of a layer, from a pixel to the border of the square around it and back: odd.
        first: whether it is the first layer, which must not see the pixel itself.
    """

    reads_above: bool
    """Whether `above` is given the rows above the new ones of what `enter` made (True), or what `above` of the layer before made,
    the new rows included (False)."""
    entered: int
    """Channels of what `enter` makes."""
    carried: int
    """Channels of what goes down the columns into `along`."""

    def __init__(self, kernel: int, first: bool) -> None:
        super().__init__()
        self.reach, self.first = kernel // 2, first

    def enter(self, h: Tensor) -> Tensor:
        """Return what is read along the row, of features (N, D, ...)."""
        return h

    def above(self, strip: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the next layer reads in its `above`, if it reads that, and what goes down into `along`.

        Args:
            strip: (N, ..., rows + reach, columns), or one row less if the new ones are not in it.
            condition: (N, D, rows or 1, columns or 1).
        """
        raise NotImplementedError

    def along(self, h: Tensor, strip: Tensor, down: Tensor) -> Tensor:
        """Return the features of the next layer (N, D, rows, columns).

        Args:
            h: (N, D, rows, columns), those of this one.
            strip: (N, entered, rows, columns + reach), entered.
            down: (N, carried, rows, columns), from `above`.
        """
        raise NotImplementedError


class GatedLayer(PixelLayer):
    """A vertical stack of all rows above and a horizontal one of the row, gated (van den Oord et al. 2016, arXiv 1606.05328).

    The vertical stack never sees the row of the pixel, so its convolutions need no mask, and no pixel is missed. It has a
    residual connection as the horizontal one, which the paper has not.

    Args:
        width: features.
        kernel: see `PixelLayer`.
        channels: ids of a pixel.
        first: see `PixelLayer`.
        dropout: probability of dropping a feature behind a gate of the horizontal stack.
    """

    def __init__(self, width: int, kernel: int, channels: int, first: bool, dropout: float) -> None:
        super().__init__(kernel, first)
        self.reads_above, self.entered, self.carried = first, width, 2 * width
        rows = self.reach if first else self.reach + 1
        self.vertical = nn.Conv2d(width, 2 * width, (rows, kernel), padding=(0, self.reach))
        self.down = nn.Conv2d(2 * width, 2 * width, 1)
        self.condition = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.row = RowConv(width, width, self.reach + 1, channels, strict=first, gates=2)
        self.out = RowConv(width, width, 1, channels)
        self.dropout = nn.Dropout(dropout)
        if not first:
            nn.init.zeros_(self.out.conv.weight)

    def above(self, strip: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """See `PixelLayer.above`."""
        seen = self.vertical(strip)
        to_vertical, to_horizontal = self.condition(condition).chunk(2, 1)
        found = _gate(seen + to_vertical)
        return found if self.first else found + strip[:, :, self.reach :], self.down(seen) + to_horizontal

    def along(self, h: Tensor, strip: Tensor, down: Tensor) -> Tensor:
        """See `PixelLayer.along`."""
        found: Tensor = self.out(self.dropout(_gate(self.row(strip) + down)))
        return found if self.first else h + found


class MaskedLayer(PixelLayer):
    """One masked convolution in a residual block (van den Oord et al. 2016, arXiv 1601.06759), with its blind spot.

    Of each row above, a pixel sees ``kernel // 2`` columns further to the right than of the one below it, and no more.

    Args: see `GatedLayer`.
    """

    def __init__(self, width: int, kernel: int, channels: int, first: bool, dropout: float) -> None:
        super().__init__(kernel, first)
        inner = width if first else width // 2
        self.reads_above, self.entered, self.carried = True, inner, inner
        self.narrow = None if first else RowConv(width, inner, 1, channels)
        self.rows = nn.Conv2d(inner, inner, (self.reach, kernel), padding=(0, self.reach), bias=False)
        self.row = RowConv(inner, inner, self.reach + 1, channels, strict=first)
        self.condition = nn.Conv2d(width, inner, 1, bias=False)
        self.widen = None if first else RowConv(inner, width, 1, channels)
        self.dropout = nn.Dropout(dropout)
        if self.widen is not None:
            nn.init.zeros_(self.widen.conv.weight)

    def enter(self, h: Tensor) -> Tensor:
        """See `PixelLayer.enter`."""
        return h if self.narrow is None else self.narrow(h.relu()).relu()

    def above(self, strip: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """See `PixelLayer.above`."""
        return strip, self.rows(strip) + self.condition(condition)

    def along(self, h: Tensor, strip: Tensor, down: Tensor) -> Tensor:
        """See `PixelLayer.along`."""
        found: Tensor = self.row(strip) + down
        return found if self.widen is None else h + self.widen(self.dropout(found.relu()))


def _gate(x: Tensor) -> Tensor:
    signal, gate = x.chunk(2, 1)
    return signal.tanh() * gate.sigmoid()


class PixelStack(nn.Module):
    """Layers on each other, over whole pictures.

    Args:
        layers: the first of them `PixelLayer.first`.
    """

    def __init__(self, layers: list[PixelLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    @property
    def each(self) -> list[PixelLayer]:
        """The layers."""
        return cast("list[PixelLayer]", list(self.layers))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return features (N, D, height, width); group k of them has seen all before channel k of its pixel.

        Args:
            x: (N, D, height, width), the pictures embedded.
            condition: (N, D, height or 1, width or 1).
        """
        h = above = x
        for layer in self.each:
            entered = layer.enter(h)
            read = entered[:, :, :-1] if layer.reads_above else above
            above, down = layer.above(F.pad(read, (0, 0, layer.reach, 0)), condition)
            h = layer.along(h, F.pad(entered, (layer.reach, 0)), down)
        return h
