"""Kinds of pictures that need a plug-in of Pillow which is not installed with this package: HEIC (HEIF) and JPEG XL.

A plug-in is loaded when the first such file comes. Sizes are known before anything is decoded.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_JXL_CODESTREAM = b"\xff\x0a"
_JXL_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"


@dataclass(frozen=True)
class Plugin:
    """A kind of pictures and what reads it."""

    format: str
    """What Pillow calls it."""
    title: str
    extensions: tuple[str, ...]
    module: str
    extra: str
    """The optional dependency of this package that installs it."""

    @property
    def installed(self) -> bool:
        """Whether it can be loaded; it is not loaded for that."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def install(self) -> str:
        """What to do to have it."""
        return f"pip install 'tokenize-kit[{self.extra}]'"

    def load(self) -> None:
        """Make Pillow know of it.

        Raises:
            ValueError: it is not installed; says what to do.
        """
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            raise ValueError(f"{self.title} pictures need {self.module} ({error}): {self.install}") from None
        if hasattr(module, "register_heif_opener"):  # the other one registers itself
            module.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


HEIC = Plugin("HEIF", "HEIC", (".heic", ".heif", ".hif"), "pillow_heif", "heic")
JPEG_XL = Plugin("JXL", "JPEG XL", (".jxl",), "pillow_jxl", "jxl")
PLUGINS = (HEIC, JPEG_XL)


def plugin_for(data: bytes) -> Plugin | None:
    """Return what reads these bytes, if it is a plug-in."""
    if data.startswith((_JXL_CODESTREAM, _JXL_CONTAINER)):
        return JPEG_XL
    if data[4:8] == b"ftyp":
        listed = data[16 : int.from_bytes(data[:4], "big")][:256]
        brands = {data[8:12], *(listed[place : place + 4] for place in range(0, len(listed), 4))}
        if not brands.intersection(_AVIF_BRANDS) and brands.intersection(_HEIF_BRANDS):
            return HEIC
    return None


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height that a JPEG XL file says; None if it does not. Its plug-in decodes before it tells.

    See ISO/IEC 18181-1, SizeHeader.
    """
    if data.startswith(_JXL_CONTAINER):
        found = _codestream(data)
        if found is None:
            return None
        data = found
    if not data.startswith(_JXL_CODESTREAM):
        return None
    bits = int.from_bytes(data[2:18], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & (1 << count) - 1, bits >> count
        return value

    def length(small: int) -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height = length(small)
    ratio = take(3)
    if ratio == 0:
        return length(small), height
    across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * across // down, height


def _codestream(data: bytes) -> bytes | None:
    """Return the beginning of the codestream in a container."""
    place = 0
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        begin = place + (16 if size == 1 else 8)
        if kind == b"jxlc":
            return data[begin : begin + 32]
        if kind == b"jxlp":
            return data[begin + 4 : begin + 36]
        size = int.from_bytes(data[place + 8 : place + 16], "big") if size == 1 else size
        if size < 8:
            return None
        place += size
    return None
