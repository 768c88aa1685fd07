"""All Noto emoji as pictures of 64x64 pixels on white, in two tars: to train on, and held out by base emoji.

    python benchmarks/emoji_pictures.py FOLDER

Skin tones, genders and hair of one emoji are on one side of the split: the hash of what is left of the code points without
them decides. fontTools and Pillow are installed with matplotlib.
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

from fetch import fetch
from fontTools.ttLib import TTFont
from PIL import Image

from tokenize_kit.files import atomic_write
from tokenize_kit.sources.heldout import key_fraction

SIDE = 64
HELD_OUT = 0.1
SKIN = range(0x1F3FB, 0x1F400)
HAIR = range(0x1F9B0, 0x1F9B4)
PEOPLE = {0x1F468: 0x1F9D1, 0x1F469: 0x1F9D1}
"""Man and woman count as person."""
SIGNS = {0x2640, 0x2642, 0xFE0F, 0x200D}


def base_of(points: tuple[int, ...]) -> str:
    """Return the name of the base emoji of some code points."""
    kept = [PEOPLE.get(point, point) for point in points if point not in SIGNS]
    kept = [point for point in kept if point not in SKIN and point not in HAIR] or list(points)
    return "-".join(f"{point:x}" for point in kept)


def pictures() -> dict[tuple[int, ...], bytes]:
    """Return the PNG of each emoji of the font, by its code points; equal pictures once."""
    font = TTFont(fetch("emoji") / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    glyph_of: dict[int, str] = font.getBestCmap()
    points_of = {glyph: (point,) for point, glyph in sorted(glyph_of.items(), reverse=True)}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            for first, ligatures in getattr(getattr(table, "ExtSubTable", table), "ligatures", {}).items():
                for ligature in ligatures:
                    parts = (first, *ligature.Component)
                    if all(part in points_of and len(points_of[part]) == 1 for part in parts):
                        points_of.setdefault(ligature.LigGlyph, tuple(points_of[part][0] for part in parts))
    found: dict[tuple[int, ...], bytes] = {}
    seen: set[bytes] = set()
    for glyph, bitmap in sorted(font["CBDT"].strikeData[0].items()):
        if glyph in points_of and bitmap.imageData not in seen:
            seen.add(bitmap.imageData)
            found[points_of[glyph]] = bitmap.imageData
    return found


def small(data: bytes) -> bytes:
    """Return a picture as PNG, in the middle of a white square, scaled to `SIDE`."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    buffer = io.BytesIO()
    square.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()


def build(folder: Path) -> tuple[Path, Path]:
    """Write ``train.tar`` and ``held-out.tar`` if they are not there, and return their paths."""
    train, held_out = folder / "train.tar", folder / "held-out.tar"
    if train.is_file() and held_out.is_file():
        return train, held_out
    sides: dict[Path, list[tuple[str, bytes]]] = {train: [], held_out: []}
    for points, data in sorted(pictures().items()):
        base = base_of(points)
        name = f"{base}/{'-'.join(f'{point:x}' for point in points)}.png"
        sides[held_out if key_fraction(base) < HELD_OUT else train].append((name, small(data)))
    for path, members in sides.items():
        with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        print(f"{path}: {len(members)} pictures of {len({name.split('/')[0] for name, _ in members})} base emoji")
    return train, held_out


if __name__ == "__main__":
    build(Path(sys.argv[1]))
