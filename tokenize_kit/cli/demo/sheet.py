"""The demo in one picture: reconstructions, pictures below their captions, and spectrograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def write_sheet(
    columns: Sequence[tuple[str, Sequence[Tensor]]],
    kept: Tensor,
    films: tuple[str, Tensor],
    strips: Sequence[tuple[str, Tensor]],
    path: Path,
    scale: int = 3,
    gap: int = 8,
) -> None:
    """Write one picture of all that can be seen at once.

    Args:
        columns: captions, each with its pictures (C, H, W), which come below it.
        kept: reconstructions (C, H, W), on top.
        films: a caption with a picture (C, H, W) as wide as the sheet, below the columns.
        strips: captions with pictures (C, H, W) that stand side by side at the bottom.
        path: the PNG file.
        scale: screen pixels of a pixel of the columns.
        gap: pixels between two pictures.
    """
    from PIL import Image, ImageDraw

    from tokenize_kit.files import atomic_write
    from tokenize_kit.media.image import to_pillow

    side = columns[0][1][0].shape[-1] * scale
    rows = max(len(images) for _, images in columns)
    width = len(columns) * (side + gap) + gap
    top_height = round(kept.shape[1] * width / kept.shape[2])
    middle_height = rows * (side + gap) + 32
    said, frames = films
    film_height = round(frames.shape[1] * (width - 2 * gap) / frames.shape[2])
    strip_height = max(strip.shape[1] for _, strip in strips)
    film_top = top_height + middle_height
    strip_top = film_top + 32 + film_height + gap
    sheet = Image.new("RGB", (width, strip_top + strip_height + 32 + gap), "white")
    sheet.paste(to_pillow(kept).convert("RGB").resize((width, top_height), Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(sheet)
    for column, (caption, images) in enumerate(columns):
        left = gap + column * (side + gap)
        draw.text((left + side / 2, top_height + 16), caption, fill="black", anchor="mm")
        for row, image in enumerate(images):
            picture = to_pillow(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top_height + 32 + row * (side + gap)))
    draw.text((width / 2, film_top + 16), said, fill="black", anchor="mm")
    rows_of_films = to_pillow(frames).resize((width - 2 * gap, film_height), Image.Resampling.LANCZOS)
    sheet.paste(rows_of_films, (gap, film_top + 32))
    strip_width = (width - gap) // len(strips) - gap
    for number, (caption, strip) in enumerate(strips):
        left, top = gap + number * (strip_width + gap), strip_top
        draw.text((left + strip_width / 2, top + 16), caption, fill="black", anchor="mm")
        picture = to_pillow(strip).resize((strip_width, strip_height), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left, top + 32))
    with atomic_write(path) as file:
        sheet.save(file, "PNG")
