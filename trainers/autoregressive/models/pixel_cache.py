"""Pictures that are drawn pixel by pixel: what the layers of a PixelCNN keep of a picture, so that only what is new is computed.

What comes down into a row is computed when the row begins, for all its columns; a pixel then costs one column of
`PixelLayer.along`. Kept are of each layer the last rows that its kernel reaches and the last pixels of the row, so neither the
time of a pixel nor the memory of the layers grows with the rows that are drawn.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.autoregressive.models.pixel_layers import PixelLayer, PixelStack


class Drawing:
    """The pictures of B rows on their way.

    Args:
        stack: the layers.
        width: features of it.
        batch: B.
        like: a tensor of the device and dtype that is wanted.
    """

    def __init__(self, stack: PixelStack, width: int, batch: int, like: Tensor) -> None:
        self.columns = 0
        self._above: list[Tensor] = []
        """For each layer what its `above` read of the last rows, (B, D, reach, columns)."""
        self._entered: list[Tensor] = []
        """For each layer what entered of the present row, (B, entered, 1, columns), where its `above` reads that."""
        self._down: list[Tensor] = []
        """For each layer what comes down into the present row, (B, carried, 1, columns)."""
        self._strips: list[Tensor] = []
        """For each layer what entered of the present pixel and those to its left, (B, entered, 1, reach + 1)."""
        for layer in stack.each:
            read = layer.entered if layer.reads_above else width
            self._above.append(like.new_zeros(batch, read, layer.reach, 0))
            self._entered.append(like.new_zeros(batch, layer.entered if layer.reads_above else 0, 1, 0))
            self._down.append(like.new_zeros(batch, layer.carried, 1, 0))
            self._strips.append(like.new_zeros(batch, layer.entered, 1, layer.reach + 1))

    def select(self, rows: Tensor) -> None:
        """Keep the rows ``rows`` (int64), in that order."""
        for parts in (self._above, self._entered, self._down, self._strips):
            parts[:] = [part[rows] for part in parts]

    def begin(self, rows: Tensor, columns: int) -> None:
        """Begin pictures of so many columns at the most in some rows."""
        if columns > self.columns:
            for parts in (self._above, self._entered, self._down):
                parts[:] = [F.pad(part, (0, columns - self.columns)) for part in parts]
            self.columns = columns
        for parts in (self._above, self._entered, self._strips):
            for part in parts:
                part[rows] = 0

    def begin_row(self, stack: PixelStack, rows: Tensor, condition: Tensor, widths: Tensor) -> None:
        """Compute what comes down into the next row of the pictures of some rows.

        Args:
            stack: the layers.
            rows: int64 (N,).
            condition: (N, D, 1, columns or 1), of the next row.
            widths: int64 (N,), of the pictures.
        """
        # Beyond its border a picture is nothing but zeros, also where another one is wider.
        there = (torch.arange(self.columns, device=rows.device) < widths[:, None])[:, None, None]
        found: Tensor | None = None
        for number, layer in enumerate(stack.each):
            new = self._entered[number][rows] if layer.reads_above else cast("Tensor", found)
            strip = torch.cat((self._above[number][rows], new), 2)
            self._above[number][rows] = strip[:, :, 1:]
            found, down = layer.above(strip[:, :, 1:] if layer.reads_above else strip, condition)
            found = (found * there).to(strip.dtype)
            self._down[number][rows] = down.to(strip.dtype)
            self._strips[number][rows] = 0

    def pixel(self, stack: PixelStack, rows: Tensor, columns: Tensor, x: Tensor) -> Tensor:
        """Return the features (N, D) of one pixel in each of some rows, as far as they are known.

        Args:
            stack: the layers.
            rows: int64 (N,).
            columns: int64 (N,), where in its row each is.
            x: (N, D), the pixels embedded; zero for channels that are not known yet.
        """
        h = x[..., None, None]
        # Without copies where all rows are meant, as they mostly are.
        own = slice(None) if len(rows) == len(self._strips[0]) else rows
        for number, layer in enumerate(stack.each):
            entered = self._enter(number, layer, rows, columns, h)
            strip = torch.cat((self._strips[number][own][..., :-1], entered), 3)
            self._strips[number][own] = strip.to(self._strips[number].dtype)
            h = layer.along(h, strip, self._down[number][rows, :, :, columns][..., None])
        return h[..., 0, 0]

    def know(self, stack: PixelStack, rows: Tensor, columns: Tensor, x: Tensor) -> None:
        """Tell the first layer all of a pixel after the last of its channels is known; no other layer sees that there."""
        entered = self._enter(0, stack.each[0], rows, columns, x[..., None, None])
        self._strips[0][rows, :, :, -1] = entered[..., 0].to(self._strips[0].dtype)

    def move(self, rows: Tensor) -> None:
        """Go on to the next pixel of the same row."""
        for number, part in enumerate(self._strips):
            if len(rows) == len(part):
                self._strips[number] = F.pad(part[..., 1:], (0, 1))
            else:
                part[rows] = F.pad(part[rows][..., 1:], (0, 1))

    def _enter(self, number: int, layer: PixelLayer, rows: Tensor, columns: Tensor, h: Tensor) -> Tensor:
        entered = layer.enter(h)
        if layer.reads_above:
            self._entered[number][rows, :, 0, columns] = entered[..., 0, 0].to(self._entered[number].dtype)
        return entered


class PixelCache:
    """What a PixelCNN keeps of B rows of documents; see `SequenceModel.new_cache`.

    Args:
        drawing: the pictures.
        length: of the rows.
        left_padding: int64 (B,) or None.
        pixel: (B, channels, D), the ids of the present pixel embedded, zero where they are not known.
        total: (B, D), for the sum of the embedded tokens that are none of a picture.
    """

    def __init__(
        self, drawing: Drawing, length: int, left_padding: Tensor | None, pixel: Tensor, total: Tensor
    ) -> None:
        batch, device = len(total), total.device
        self.drawing, self.length, self.position = drawing, length, 0
        self.padding = torch.zeros(batch, dtype=torch.int64, device=device) if left_padding is None else left_padding
        self.pixel, self.total = pixel, total
        self.count = torch.zeros(batch, dtype=torch.int64, device=device)
        """int64 (B,), how many these are."""
        self.ids = torch.zeros(batch, length, dtype=torch.int64, device=device)
        """int64 (B, length), all tokens: what a picture's condition is made of when it begins."""
        self.cells = torch.full((batch, length, 8), -1, device=device)
        """int64 (B, length, 8), those of the tokens after them."""
        self.condition = pixel.new_zeros(batch, pixel.shape[1] * pixel.shape[2], 1, 1)
        """(B, width, rows or 1, columns or 1), of the present picture."""

    def select(self, rows: Tensor) -> PixelCache:
        """Return a cache of the rows ``rows`` (int64), in that order."""
        for name in ("padding", "pixel", "total", "count", "ids", "cells", "condition"):
            setattr(self, name, getattr(self, name)[rows])
        self.drawing.select(rows)
        return self
