"""Picture files to pictures of Pillow, decoded as they are stored, and to what the files say of them.

What comes in from outside is hostile until shown otherwise: only formats that Pillow decodes by itself are opened, or that a
plug-in decodes (see `tokenize_kit.media.picture_plugins`), sizes are checked before a pixel is decoded, and whatever breaks
inside a decoder becomes a ValueError that names it. What is no part of the picture may be as odd as it likes.
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from tokenize_kit.media import picture_plugins as plugins
from tokenize_kit.media.image import jpeg, png, tiff
from tokenize_kit.media.image.exif import is_adobe_rgb
from tokenize_kit.media.image.lent import lend
from tokenize_kit.media.image.parts import Parts
from tokenize_kit.media.image.profiles import adobe_rgb, coded_profile

MAX_PIXELS = 1 << 26
"""The largest picture that is read: 67 megapixels, 200 MB as RGB. Larger ones are refused before they are decoded."""

MAX_PIXELS_HELD = 3 << 23
"""The same of formats whose decoders hold a picture several times, 12 bytes a pixel and more: 25 megapixels."""
_HELD = {"WEBP": 1, "AVIF": 1, "JXL": 1, "HEIF": 2}  # How many times as many; that of HEIF takes less.
# Of these Pillow reads number by number and keeps a copy: values that are not 0 to 255, and text.
_SLOW_DECODERS = ("ppm", "ppm_plain")

# Named, because Pillow would otherwise also try formats that start other programs (EPS) or that are not pictures.
_FORMATS = ("WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM")
# The entry of EXIF data in the list of what a file of the ISO base media format holds.
_EXIF_ITEM = re.compile(rb"(infe[\0-\xff]{8})Exif")


class Opened(NamedTuple):
    """A picture whose pixels are decoded, as they are stored."""

    picture: Image.Image
    parts: Parts
    notes: tuple[str, ...] = ()
    """What was done to it, see `tokenize_kit.media.image.reading.ReadImage`."""


def open_picture(data: bytes, at_least: int | None = None) -> Opened:
    """Decode a picture file.

    Args:
        data: the bytes of the file.
        at_least: see `tokenize_kit.media.image.read_image_noting`.

    Raises:
        ValueError: the bytes are not a picture, a broken or truncated one, or one that is too large.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _decoded_jpeg(data, at_least)
    hint = "" if at_least is None else " (only a JPEG is decoded at reduced size for --image-size)"
    if data.startswith(png.SIGNATURE):
        parts = png.take_apart(data)
        _check_size(*parts.size, hint)
        hidden = _hidden(parts)
        picture = _load(_open(PngImageFile, parts.pixels))
        return Opened(*((picture, parts) if hidden is None else png.with_deep_transparency(picture, parts, hidden)))
    plugin = plugins.plugin_for(data)
    if plugin is not None:
        return _decoded_by(plugin, data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _decoded_tiff(data)
    try:
        picture = _identified(data, _FORMATS)
    except ValueError:
        # Of AVIF Pillow reads the EXIF data as a whole, and libavif checks them; which way it is turned is said elsewhere.
        plain = _EXIF_ITEM.sub(rb"\1skip", data) if data[4:8] == b"ftyp" else data
        if plain == data:
            raise
        picture = _identified(plain, _FORMATS)
    _check_size(*picture.size, hint)
    _check_held(picture)
    return Opened(_load(picture), _said(picture))


def _hidden(parts: png.PngParts) -> NDArray[np.uint8] | None:
    """See `tokenize_kit.media.image.png.low_bytes_of_key`."""
    if not parts.has_deep_key:
        return None
    low = _open(PngImageFile, parts.pixels)
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
    return png.low_bytes_of_key(_load(low), parts)


def _decoded_jpeg(data: bytes, at_least: int | None) -> Opened:
    parts = jpeg.take_apart(data)
    width, height = parts.size
    reduced = 1
    if width * height > MAX_PIXELS and at_least is not None:
        fitting = [by for by in (2, 4, 8) if -(-width // by) * -(-height // by) <= MAX_PIXELS]
        if not fitting or min(width, height) // fitting[0] < at_least:
            raise ValueError(
                f"a picture of {width}x{height} pixels is outside the limit of {MAX_PIXELS:,} pixels, also at the reduced size "
                f"at which its short side still has {at_least}; scale it down first"
            )
        reduced = fitting[0]
    else:
        _check_size(
            width, height, ", or give --image-size, with which a JPEG is decoded at reduced size" if width else ""
        )
    jpeg.check_memory(parts, reduced)
    if not parts.ended:
        whole = jpeg.mended(parts) if reduced == 1 else None
        if whole is None:
            raise ValueError("cannot decode the picture (some of its pixels are not there); it is damaged or cut short")
        parts = whole
    picture: Image.Image = _open(JpegImageFile, parts.pixels)
    notes: tuple[str, ...] = ()
    if reduced > 1:
        picture.draft(None, (width // reduced, height // reduced))
        _check_size(*picture.size)
        notes = (f"more than {MAX_PIXELS:,} pixels, read at 1/{reduced} of the width and height",)
    picture = _load(picture)
    if parts.profile is None and picture.mode == "RGB" and is_adobe_rgb(parts.exif):
        parts = replace(parts, profile=adobe_rgb())
    return Opened(picture, parts, notes)


def _decoded_tiff(data: bytes) -> Opened:
    try:
        picture = _identified(data, ("TIFF",))
        _check_tiff(picture)
        picture = _load(picture)
    except ValueError:
        bare = tiff.bare(data)
        if bare is None:
            raise
        picture = _identified(bare, ("TIFF",))
        _check_tiff(picture)
        picture = _load(picture)
    # Pillow has turned it already.
    return Opened(picture, Parts(data, picture.size, _profile_of(picture)))


def _decoded_by(plugin: plugins.Plugin, data: bytes) -> Opened:
    plugin.load()
    if plugin is plugins.JPEG_XL:
        size = plugins.jxl_size(data)
        if size is None:
            raise ValueError("a JPEG XL picture without a size; it is damaged or cut short")
        _check_size(*size)
        _check_size_held(plugin.title, _HELD[plugin.format], *size)
    picture = _identified(data, (plugin.format,))
    _check_size(*picture.size)
    _check_held(picture)
    picture = _load(picture)
    parts = _said(picture)
    # Both plug-ins turn the picture themselves, save for a JPEG that was packed as JPEG XL.
    return Opened(picture, parts if getattr(picture, "jpeg", False) else replace(parts, exif=b"", xmp=b""))


def _said(picture: Image.Image) -> Parts:
    """Return what an opened picture says of itself, of the formats that Pillow takes apart well."""
    exif, xmp = picture.info.get("exif", b""), picture.info.get("xmp", b"")
    return Parts(
        b"",
        picture.size,
        _profile_of(picture),
        exif if isinstance(exif, bytes) else b"",
        xmp if isinstance(xmp, bytes) else b"",
    )


def _profile_of(picture: Image.Image) -> bytes | None:
    profile = picture.info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        return profile
    coded = picture.info.get("nclx_profile")
    if not isinstance(coded, dict):
        return None
    return coded_profile(int(coded.get("color_primaries", 2)), int(coded.get("transfer_characteristics", 2)))


def _check_size(width: int, height: int, hint: str = "") -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(
            f"a picture of {width}x{height} pixels is outside the limit of 1 to {MAX_PIXELS:,} pixels; "
            f"scale it down first{hint}"
        )


def _check_held(picture: Image.Image) -> None:
    """Refuse a picture that is not decoded yet and whose decoder would take too much for its size."""
    tile = getattr(picture, "tile", None)
    if tile and tile[0][0] in _SLOW_DECODERS:
        _check_size_held("PNM of this kind", 1, *picture.size)
    elif picture.format in _HELD:
        _check_size_held(picture.format, _HELD[picture.format], *picture.size)


def _check_size_held(name: str, times: int, width: int, height: int) -> None:
    limit = MAX_PIXELS_HELD * times
    if width * height > limit:
        raise ValueError(
            f"a picture of {width}x{height} pixels is outside the limit of {limit:,} pixels of {name}, which takes much memory "
            f"to decode; scale it down first, or save it as PNG or JPEG, of which {MAX_PIXELS:,} pixels are read"
        )


def _check_tiff(picture: Image.Image) -> None:
    _check_size(*picture.size)
    tiff.check_tiles(picture, MAX_PIXELS)


def _open(kind: type[ImageFile], data: bytes) -> ImageFile:
    """Open what is known to be of a kind; Pillow's limit of the size does not apply, ours was checked."""
    try:
        return kind(io.BytesIO(data))
    except Exception as error:
        raise ValueError(f"not a picture that can be read ({len(data)} bytes; {_reason(error)})") from None


def _identified(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        raise ValueError(f"a picture larger than the limit of {MAX_PIXELS:,} pixels: {error}") from None
    except BaseException as error:
        _only_of_decoders(error)
        raise ValueError(f"not a picture that can be read ({len(data)} bytes; {_reason(error)})") from None


def _load(picture: Image.Image) -> Image.Image:
    lend(picture)
    try:
        picture.load()
    except BaseException as error:  # on broken bytes Pillow's decoders raise nearly every built-in exception
        _only_of_decoders(error)
        raise ValueError(f"cannot decode the picture ({_reason(error)}); it is damaged or cut short") from None
    # Some formats tell the size of what is in them only now.
    _check_size(*picture.size)
    return picture


def _only_of_decoders(error: BaseException) -> None:
    """Raise what is not the fault of a file: what stops the process is no Exception, save for the panics of plug-ins in Rust."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    # Pillow prints the address of the byte stream, which differs from run to run.
    return type(error).__name__ if not text or "BytesIO" in text else text
