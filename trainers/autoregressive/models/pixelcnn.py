"""PixelCNN: pictures pixel by pixel from the pixels above and to the left, by convolutions (van den Oord et al. 2016).

``gated`` is that of arXiv 1606.05328: a stack of the rows above and one of the row itself, so that every pixel within the field
is seen. ``original`` is that of arXiv 1601.06759, one stack of masked convolutions, whose field has a blind spot. With h the
kernel // 2 of a layer (the first one's is first_kernel // 2) and S the sum of all h, the logits of a pixel depend

- in both kinds on the S pixels to its left in its row, and on no pixel that is more than S rows above or S columns aside,
- if gated on all others that are above;
- if original, of the row d above only on those up to as many columns to the right as the d largest h make together (if no kernel
  is larger than the first). With L layers of one h these are h * L * (L - 1) / 2 pixels less than the gated sees.

It is for grids of height and width: raw pixels, of whose channels each sees those before it, palette ids, learned ids, also of
several codebooks. What comes before a picture is its condition: earlier grids of the document place by place
(``grid_condition``), brought to the size of the picture and added up, and everything else, such as a label, as the mean of its
tokens: of a text that is a bag of words. Tokens outside of pictures are predicted from that mean alone. Text, sound and films are
not predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.autoregressive.models.canvases import (
    CHANNEL,
    COLUMN,
    GIVEN,
    HEIGHT,
    PART,
    ROW,
    WIDTH,
    Grids,
    own_cells,
)
from trainers.autoregressive.models.family import TemplatePart
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.pixel_cache import Drawing, PixelCache
from trainers.autoregressive.models.pixel_network import PixelCNNConfig, PixelNetwork


class PixelCNN(PixelNetwork):
    """Convolutions over pictures; see `SequenceModel` for the shapes of the methods."""

    configuration = PixelCNNConfig

    @classmethod
    def settings_for(cls, templates: Sequence[Sequence[TemplatePart]]) -> dict[str, Any]:
        """See `family.FitsTemplates`: ``channels`` and ``grid_condition``."""
        for part in (part for parts in templates for part in parts if part.predicted):
            if part.is_open or part.axes != ("height", "width"):
                raise ValueError(
                    f"a PixelCNN predicts pictures, and the grids of {part.name!r} have the axes {', '.join(part.axes)}; make "
                    f"{part.name!r} a condition (left of '->'), or take another family"
                )
            if not part.in_grid_order:
                raise ValueError(
                    f"a PixelCNN goes row by row, and {part.name!r} has another order or layout; write it without"
                )
        planes = [
            [part for part in parts if part.axes == ("height", "width") and not part.is_open] for parts in templates
        ]
        return {
            "channels": max(part.depth for parts in planes for part in parts),
            "grid_condition": any(part.predicted for parts in planes for part in parts[1:]),
        }

    @property
    def needs(self) -> frozenset[str]:
        """See `SequenceModel.needs`."""
        return frozenset({"cells"})

    def new_cache(
        self,
        batch: int,
        length: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        left_padding: Tensor | None = None,
        compiled: bool = False,
    ) -> PixelCache:
        """Return an empty cache for ``batch`` rows of up to ``length`` tokens; see `SequenceModel.new_cache`.

        Raises:
            ValueError: ``length`` is beyond the context, or a compiled step is asked for.
        """
        self.check_cache(length, left_padding, compiled)
        weight = self.embedding.weight
        like = torch.empty(0, device=device or weight.device, dtype=dtype or weight.dtype)
        padding = None if left_padding is None else left_padding.to(like.device)
        drawing = Drawing(self.stack, self.config.width, batch, like)
        pixel = like.new_zeros(batch, self.config.channels, self.embedding.embedding_dim)
        return PixelCache(drawing, length, padding, pixel, like.new_zeros(batch, self.embedding.embedding_dim))

    @torch.no_grad()
    def step(self, inputs: Inputs, cache: PixelCache, *, last_only: bool = False) -> Tensor:
        """Return the logits (B, n, V) after each of the next ``n`` tokens, and remember them in ``cache``.

        Raises:
            ValueError: the tokens do not fit the cache, or the cells are missing.
        """
        batch, count = inputs.ids.shape
        begin, stop = cache.position, cache.position + count
        self.check_step(stop, cache.length, cache.padding)
        cache.ids[:, begin:stop], cache.cells[:, begin:stop] = inputs.ids, inputs.of("cells")
        cells = cache.cells[:, begin:stop]
        own = own_cells(cache.cells[:, max(begin - 1, 0) : stop])[:, -count:]
        x = self.embedding(inputs.ids)
        real = torch.arange(begin, stop, device=x.device) >= cache.padding[:, None]
        outside = real & (own[..., PART] < 0)
        total = cache.total[:, None] + (x * outside[..., None]).cumsum(1)
        counts = cache.count[:, None] + outside.cumsum(1)
        cache.total, cache.count = total[:, -1], counts[:, -1]
        mean = total / counts.clamp(min=1)[..., None]
        drawn = (cells[..., PART] >= 0) & (cells[..., GIVEN] == 0)
        hidden = x.new_zeros(batch, count, self.config.width)
        alone = real & ~drawn
        if bool(alone.any()):
            hidden[alone] = self.norm(self.summary(mean[alone])).to(hidden.dtype)
        for place in drawn.any(0).nonzero()[:, 0].tolist():
            rows = drawn[:, place].nonzero()[:, 0]
            found = self._draw(cache, rows, begin + place, x[rows, place], own[rows, place], mean[rows, place])
            hidden[rows, place] = self.norm(found).to(hidden.dtype)
        cache.position = stop
        return self.head(hidden[:, -1:] if last_only else hidden)

    def _draw(self, cache: PixelCache, rows: Tensor, place: int, x: Tensor, own: Tensor, mean: Tensor) -> Tensor:
        """Return what the head makes of the cells that come after one token of some rows, (N, width).

        Args:
            cache: of all rows.
            rows: int64 (N,).
            place: of the token, in the row.
            x: (N, D), the token embedded.
            own: (N, 8), its cell.
            mean: (N, D), of the tokens up to it that are of no grid.
        """
        cells, drawing = cache.cells[rows, place], cache.drawing
        first = cells[:, PART] != own[:, PART]
        new = first | (cells[:, ROW] != own[:, ROW])
        if bool(first.any()):
            self._begin(cache, rows[first], place, mean[first])
            known = ~first
            self._read(cache, rows[known], x[known], own[known], cells[known])
        else:
            self._read(cache, rows, x, own, cells)
        if bool(new.any()):
            condition = cache.condition[rows[new]]
            if condition.shape[2] > 1:
                each = torch.arange(len(condition), device=rows.device)
                condition = condition[each, :, cells[new][:, ROW]][:, :, None]
            drawing.begin_row(self.stack, rows[new], condition, cells[new][:, WIDTH])
        features = drawing.pixel(self.stack, rows, cells[:, COLUMN], cache.pixel[rows].flatten(1))
        found: Tensor = self.features(features[..., None, None])[..., 0, 0].unflatten(1, (self.config.channels, -1))
        return found[torch.arange(len(rows), device=rows.device), cells[:, CHANNEL]]

    def _read(self, cache: PixelCache, rows: Tensor, x: Tensor, own: Tensor, cells: Tensor) -> None:
        """Take in an id of the picture of each of some rows, and go on to the pixel of the cell after it; as `_draw`."""
        cache.pixel[rows, own[:, CHANNEL]] = x.to(cache.pixel.dtype)
        moved = (cells[:, ROW : COLUMN + 1] != own[:, ROW : COLUMN + 1]).any(1)
        if not bool(moved.all()):
            rows, own = rows[moved], own[moved]
        if not len(rows):
            return
        # What saw the pixel before its last id was known has to see it again, if that is not of the last channel of the model.
        last = own[:, CHANNEL] + 1 == self.config.channels
        if bool(last.all()):
            cache.drawing.know(self.stack, rows, own[:, COLUMN], cache.pixel[rows].flatten(1))
        else:
            cache.drawing.pixel(self.stack, rows, own[:, COLUMN], cache.pixel[rows].flatten(1))
        cache.drawing.move(rows)
        cache.pixel[rows] = 0

    def _begin(self, cache: PixelCache, rows: Tensor, place: int, mean: Tensor) -> None:
        """Begin the pictures whose first cell comes after one token of some rows; as `_draw`."""
        ids, cells = cache.ids[rows, : place + 1], cache.cells[rows, : place + 1]
        cache.drawing.begin(rows, int(cells[:, place, WIDTH].max()))
        cache.pixel[rows] = 0
        summary = self.summary(mean)
        if self.aligned is None:
            cache.condition[rows] = summary[..., None, None].to(cache.condition.dtype)
            return
        height = max(int(cells[:, place, HEIGHT].max()), cache.condition.shape[2])
        more = (0, cache.drawing.columns - cache.condition.shape[3], 0, height - cache.condition.shape[2])
        cache.condition = F.pad(cache.condition, more)
        x, own = self.embedding(ids), own_cells(cells)
        grids = Grids.of(cells, own)
        for chosen, size in grids.of_one_size((grids.starts == place).nonzero()[:, 0]):
            mine = grids.rows[chosen]
            found = self.condition(summary[mine], x, own, grids, chosen, size)
            cache.condition[rows[mine], :, : size[0], : size[1]] = found.to(cache.condition.dtype)
