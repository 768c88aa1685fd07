"""Pictures in rows of tokens: which grids a batch of documents has, and their ids as pictures.

    tokens     <bos> <begin> a b c d e f                  a b c
    cells              0 0   01 02 10 11 12     ->        d e f

A token is told the cell of the token *after* it (`Inputs.cells`), since that is what is predicted there; the cell of a token
itself is what the token before it was told. Pictures of several sizes are painted size by size, so none is padded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

PART, ROW, COLUMN, CHANNEL, HEIGHT, WIDTH, CHANNELS, GIVEN = range(8)
"""What `Inputs.cells` tells."""


def own_cells(cells: Tensor) -> Tensor:
    """Return the cells of tokens themselves (R, L, 8), from those of the tokens after them, of documents from their beginning."""
    return torch.cat((torch.full_like(cells[:, :1], -1), cells[:, :-1]), 1)


class Grids(NamedTuple):
    """The grids of R documents of L tokens, G of them: ordered by document, and in it as they come."""

    rows: Tensor
    """int64 (G,), the document of each."""
    starts: Tensor
    """int64 (G,), the place of the token before its first id."""
    cells: Tensor
    """int64 (G, 8), the cell of its first id."""
    next_of: Tensor
    """int64 (R, L), of which grid the token after each is; -1 for none."""
    own_of: Tensor
    """int64 (R, L), of which grid each token is; -1 for none."""

    @classmethod
    def of(cls, cells: Tensor, own: Tensor) -> Grids:
        """Find the grids of documents.

        Args:
            cells: (R, L, 8), of the token after each; -1 beyond the end of a document.
            own: (R, L, 8), of the tokens themselves.
        """
        count, length = cells.shape[:2]
        parts = int(cells[..., PART].max()) + 2
        key = torch.arange(count, device=cells.device)[:, None] * parts + cells[..., PART]
        there = cells[..., PART] >= 0
        known, which = torch.unique(key[there], return_inverse=True)
        next_of = torch.full((count, length), -1, device=cells.device).masked_scatter(there, which)
        place = torch.arange(length, device=cells.device).expand(count, -1)[there]
        starts = torch.full_like(known, length).scatter_reduce(0, which, place, "amin")
        rows = known // parts
        own_of = own_cells(next_of[..., None])[..., 0].masked_fill(own[..., PART] < 0, -1)
        return cls(rows, starts, cells[rows, starts], next_of, own_of)

    def of_one_size(self, chosen: Tensor) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """Yield those of the grids ``chosen`` (int64) that have one height and width, with these; a size at a time."""
        sizes, which = torch.unique(self.cells[chosen][:, HEIGHT : WIDTH + 1], dim=0, return_inverse=True)
        for number, (height, width) in enumerate(sizes.tolist()):
            yield chosen[which == number], (height, width)

    def numbered(self, chosen: Tensor) -> Tensor:
        """Return for each grid which of ``chosen`` it is, (G + 1,); -1 for the others, and for the grid -1."""
        numbers = torch.full((len(self.rows) + 1,), -1, device=chosen.device)
        return numbers.index_put((chosen,), torch.arange(len(chosen), device=chosen.device))

    def paint(self, x: Tensor, own: Tensor, chosen: Tensor, size: tuple[int, int], channels: int) -> Tensor:
        """Return grids of one size as pictures (N, channels * D, height, width), zero where an id is not known yet.

        Args:
            x: (R, L, D), the tokens embedded.
            own: (R, L, 8), their cells.
            chosen: int64 (N,), the grids.
            size: their height and width.
            channels: the most that a grid has.
        """
        numbers = self.numbered(chosen)[self.own_of]
        tokens = numbers >= 0
        cells = own[tokens]
        picture = x.new_zeros(len(chosen), *size, channels, x.shape[-1])
        where = (numbers[tokens], cells[:, ROW], cells[:, COLUMN], cells[:, CHANNEL])
        return picture.index_put(where, x[tokens]).flatten(3).permute(0, 3, 1, 2)


def resampled(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pictures (N, C, h, w) at another size (H, W): each pixel the mean of what it covers.

    So a pixel of a picture half as large comes to stand at four places, and four of one twice as large at one.
    """
    down, across = (
        _overlap(to, of, pictures) for to, of in zip(size, (pictures.shape[-2], pictures.shape[-1]), strict=True)
    )
    return down @ pictures @ across.T


def inside(size: tuple[int, int], other: tuple[int, int], like: Tensor) -> Tensor:
    """Return where in a pixel of a picture of size ``other`` the middle of each pixel of one of ``size`` is.

    (2, height, width), down and across, from -1 to 1.
    """
    found = []
    for to, of in zip(size, other, strict=True):
        middle = (torch.arange(to, device=like.device, dtype=torch.float32) + 0.5) * of / to
        found.append(2 * (middle % 1) - 1)
    return torch.stack(torch.meshgrid(*found, indexing="ij")).to(like.dtype)


def _overlap(to: int, of: int, like: Tensor) -> Tensor:
    """Return how much of each of ``to`` equal parts of a line each of ``of`` equal parts covers, (to, of); rows sum to 1."""
    ours = torch.arange(to, device=like.device)[:, None] * of
    theirs = torch.arange(of, device=like.device) * to
    covered = torch.minimum(ours + of, theirs + to) - torch.maximum(ours, theirs)
    return (covered.clamp(min=0).double() / of).to(like.dtype)
