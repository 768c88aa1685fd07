"""Memory for a large picture that is given back as its pixels are read.

Pillow frees a picture as a whole, and what becomes of it is as large again. A picture that is decoded into a mapping of our own
is given back row by row instead, so that both together take little more than the larger of them.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

from PIL import Image, _imaging
from PIL.ImageFile import ImageFile

LARGE = 1 << 22
"""From so many pixels on it is worth it."""

# The bytes of a pixel in memory, of the modes that large pictures have.
_WIDTHS = {"L": 1, "I;16": 2, "I": 4, "LA": 4, "RGB": 4, "RGBA": 4, "CMYK": 4}
_CAN_GIVE_BACK = hasattr(mmap, "MADV_DONTNEED")


def lend(picture: Image.Image) -> None:
    """Let an opened picture that is not decoded yet be decoded into memory that `give_back` returns, if it is a large one.

    What its decoder has held until then, where it decodes into bytes first, is dropped before that memory is taken.
    """
    if not isinstance(picture, ImageFile) or picture.width * picture.height <= LARGE:
        return
    prepare: Callable[[], None] = picture.load_prepare

    def prepared() -> None:
        del picture.__dict__["load_prepare"]  # which refers to the picture, and would keep it
        # The decoders of WebP and AVIF, which have given their pixels away now.
        picture.__dict__.pop("_decoder", None)
        if _CAN_GIVE_BACK and picture.__dict__.get("_im") is None and picture.mode in _WIDTHS:
            size = picture.width * picture.height * _WIDTHS[picture.mode]
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            # As Pillow itself maps a file that is not compressed.
            picture.im = _imaging.map_buffer(memory, picture.size, "raw", 0, (picture.mode, 0, 1))
            picture.__dict__["lent"] = memory
        prepare()

    picture.__dict__["load_prepare"] = prepared


def give_back(picture: Image.Image, rows: int) -> None:
    """Give back the memory of the first ``rows`` rows of a picture that was decoded into lent memory; they are black then."""
    memory = picture.__dict__.get("lent")
    if memory is not None:
        size = len(memory) // picture.height * rows // mmap.PAGESIZE * mmap.PAGESIZE
        if size:
            memory.madvise(mmap.MADV_DONTNEED, 0, size)
