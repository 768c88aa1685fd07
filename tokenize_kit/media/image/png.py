"""PNG files: what their pixels are made from, which colour is transparent, and what is said of the colours.

`take_apart` leaves out every chunk that Pillow does not need for the pixels: text of any size, animation, and all that has a
checksum which is wrong although it is no part of the picture. See the PNG specification (W3C, third edition).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenize_kit.media.image.parts import Parts
from tokenize_kit.media.image.profiles import coded_profile, gamma_profile

MAX_PROFILE_BYTES = 16 << 20
"""The most that a compressed profile may unfold to; the largest of printers have a few megabytes."""
_MAX_TEXT_BYTES = 4 << 20
_STRIP = 256

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3
# What is said of the colours, the most telling first.
_COLOUR_CHUNKS = (b"cICP", b"iCCP", b"sRGB", b"gAMA")
_ANCILLARY = 0x20


@dataclass(frozen=True)
class PngParts(Parts):
    """A PNG file taken apart."""

    depth: int = 8
    """Bits of a sample."""
    key: tuple[int, ...] | None = None
    """The grey value or the colour that is transparent, of `depth` bits."""

    @property
    def has_deep_key(self) -> bool:
        """Whether it is a colour of 16 bits, of which Pillow keeps 8."""
        return self.key is not None and len(self.key) == 3 and self.depth == 16


def take_apart(data: bytes) -> PngParts:
    """Return what matters of a PNG file.

    Raises:
        ValueError: the header is damaged, or a chunk that the pixels depend on has another checksum than it says.
    """
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ValueError("not a picture that can be read (a PNG without a header); it is damaged or cut short")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    kept: list[tuple[int, int]] = [(0, 8)]
    said: dict[bytes, bytes | None] = {}
    exif = xmp = b""
    key: tuple[int, ...] | None = None
    place, size = 8, len(data)
    while place + 8 <= size:
        length, kind = struct.unpack_from(">I4s", data, place)
        start, place = place, place + 12 + length
        if kind in (b"IDAT", b"IHDR", b"IEND") or (kind in (b"PLTE", b"tRNS") and colour == _PALETTE):
            if kind == b"IDAT":
                # Pillow looks at no checksum of these; of what zlib does not need for the last pixel it knows nothing.
                _check_pixels(data, start, place)
            kept.append((start, min(place, size)))
        elif kind == b"tRNS" and colour in (_GREY, _RGB):
            key = _key(_checked(data, start, place), colour, depth)
        elif kind in _COLOUR_CHUNKS or kind == b"cHRM":
            said.setdefault(kind, _sound(data, start, place))
        elif kind == b"eXIf":
            exif = exif or _sound(data, start, place) or b""
        elif kind in (b"iTXt", b"zTXt", b"tEXt"):
            exif, xmp = exif or _exif_text(kind, data, start, place), xmp or _xmp_text(kind, data, start, place)
        elif not kind.isalpha() or (kind != b"PLTE" and _renamed(data, start, place)):
            raise ValueError("a part of the PNG has lost its name; the picture is damaged")
        elif not kind[0] & _ANCILLARY and kind != b"PLTE":
            raise ValueError(f"a PNG with the unknown part {kind.decode('ascii')}, without which it cannot be shown")
        if kind == b"IEND":
            break
    return PngParts(_joined(data, kept), (width, height), _profile(said), exif, xmp, depth, key)


def with_transparency(picture: Image.Image, parts: PngParts) -> Image.Image:
    """Return a loaded picture with what `PngParts.key` says, in 8 bits: as ``info["transparency"]`` or with an alpha channel.

    It may be a part of the picture; the key is none of `with_deep_transparency`.
    """
    if parts.key is None:
        return picture
    if parts.depth < 16:
        scale = 255 // ((1 << parts.depth) - 1)
        scaled = tuple(value * scale for value in parts.key)
        picture.info["transparency"] = scaled if len(scaled) > 1 else scaled[0]
        return picture
    values = np.asarray(picture).astype(np.int64)
    grey = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    return Image.merge("LA", (grey, _alpha(values == parts.key[0])))


def low_bytes_of_key(low: Image.Image, parts: PngParts) -> NDArray[np.uint8]:
    """Return which pixels have the low bytes of the transparent colour, as bits ``(H, ceil(W / 8))``.

    Of 16-bit colour Pillow keeps the high bytes, and gives the low ones if it is told that the order is the other one. They are
    looked at first, so that only one picture is held at a time.

    Args:
        low: the picture of the low bytes.
        parts: what the file says, with `PngParts.has_deep_key`.
    """
    key = np.array([value & 255 for value in parts.key or ()], np.uint8)
    bits = np.empty((low.height, -(-low.width // 8)), np.uint8)
    for top, strip in _strips(low):
        bits[top : top + len(strip)] = np.packbits((strip == key).all(-1), axis=1)
    return bits


def with_deep_transparency(
    picture: Image.Image, parts: PngParts, low: NDArray[np.uint8]
) -> tuple[Image.Image, PngParts]:
    """Return a loaded picture whose transparent colour has 16 bits with an alpha channel; ``low`` is of `low_bytes_of_key`."""
    key = np.array([value >> 8 for value in parts.key or ()], np.uint8)
    alpha = Image.new("L", picture.size)
    for top, strip in _strips(picture):
        same = np.unpackbits(low[top : top + len(strip)], axis=1, count=picture.width).view(np.bool_)
        alpha.paste(_alpha((strip == key).all(-1) & same), (0, top))
    picture.putalpha(alpha)
    return picture, replace(parts, key=None)


def _strips(picture: Image.Image) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the first row and the values ``(H, W, C)`` of parts of a picture."""
    for top in range(0, picture.height, _STRIP):
        yield top, np.asarray(picture.crop((0, top, picture.width, min(top + _STRIP, picture.height))))


def _alpha(hidden: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8))


def _sound(data: bytes, start: int, stop: int) -> bytes | None:
    """Return the body of a chunk; None if it is cut or its checksum is another."""
    body = data[start + 8 : stop - 4]
    if stop > len(data) or zlib.crc32(data[start + 4 : stop - 4]) != int.from_bytes(data[stop - 4 : stop], "big"):
        return None
    return body


def _renamed(data: bytes, start: int, stop: int) -> bool:
    """Whether a chunk of an unknown name has the checksum of one that matters, so that only its name is damaged."""
    if stop > len(data) or _sound(data, start, stop) is not None:
        return False
    said, body = int.from_bytes(data[stop - 4 : stop], "big"), memoryview(data)[start + 8 : stop - 4]
    return any(zlib.crc32(body, zlib.crc32(name)) == said for name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"))


def _checked(data: bytes, start: int, stop: int) -> bytes:
    body = _sound(data, start, stop)
    if body is None:
        name = data[start + 4 : start + 8].decode("ascii")
        raise ValueError(f"the {name} chunk of a PNG has a wrong checksum; it is damaged or cut short")
    return body


def _check_pixels(data: bytes, start: int, stop: int) -> None:
    if stop - 4 > len(data):
        raise ValueError(f"a PNG that ends inside its pixels, after {len(data):,} bytes; it is damaged or cut short")
    if stop <= len(data):  # else only the checksum is missing, and zlib has one of its own
        _checked(data, start, stop)


def _key(body: bytes, colour: int, depth: int) -> tuple[int, ...]:
    count = 1 if colour == _GREY else 3
    if len(body) < 2 * count:
        raise ValueError("the tRNS chunk of a PNG is cut short; the picture is damaged")
    # Of fewer than 16 bits the lower ones count.
    return tuple(value & (1 << depth) - 1 for value in struct.unpack_from(f">{count}H", body))


def _joined(data: bytes, kept: list[tuple[int, int]]) -> bytes:
    """Return the kept parts of a file as one, which is the file itself if nothing is left out."""
    if all(stop == start for (_, stop), (start, _) in pairwise(kept)):
        return data
    view = memoryview(data)
    return b"".join(view[start:stop] for start, stop in kept)


def _inflated(data: bytes, limit: int) -> bytes | None:
    """Return what zlib data unfold to, if it is no more than ``limit``."""
    try:
        unfolder = zlib.decompressobj()
        text = unfolder.decompress(data, limit)
    except zlib.error:
        return None
    return None if unfolder.unconsumed_tail else text


def _profile(said: dict[bytes, bytes | None]) -> bytes | None:
    """Return the ICC profile of what is said of the colours, see `Parts.profile`."""
    kind = next((kind for kind in _COLOUR_CHUNKS if kind in said), None)
    if kind is None or kind == b"sRGB":
        return None
    body = said[kind]
    if kind == b"iCCP":
        name, _, rest = (body or b"").partition(b"\0")
        return _inflated(rest[1:], MAX_PROFILE_BYTES) or b"" if name and rest[:1] == b"\0" else b""
    if body is None or len(body) < 4:
        return b""
    if kind == b"cICP":
        return coded_profile(body[0], body[1])
    gamma = int.from_bytes(body[:4], "big")
    chroma = said.get(b"cHRM")
    points = struct.unpack_from(">8I", chroma) if chroma and len(chroma) >= 32 else None
    return gamma_profile(gamma / 100_000, None if points is None else tuple(value / 100_000 for value in points))


def _exif_text(kind: bytes, data: bytes, start: int, stop: int) -> bytes:
    """Return the EXIF data that ImageMagick and others write as a text of hexadecimal digits."""
    if kind == b"iTXt" or not data.startswith((b"Raw profile type exif\0", b"Raw profile type APP1\0"), start + 8):
        return b""
    text = _sound(data, start, stop)
    if text is None:
        return b""
    text = text[22:]
    if kind == b"zTXt":
        text = _inflated(text[1:], _MAX_TEXT_BYTES) or b""
    # A line with the name, one with the length, and the digits.
    lines = text.strip().split(b"\n", 2)
    digits = re.sub(rb"[^0-9a-fA-F]", b"", lines[2]) if len(lines) == 3 else b""
    return bytes.fromhex(digits[: len(digits) & ~1].decode("ascii"))


def _xmp_text(kind: bytes, data: bytes, start: int, stop: int) -> bytes:
    """Return the XMP packet, if the chunk is one."""
    name = b"XML:com.adobe.xmp\0"
    body = _sound(data, start, stop) if kind == b"iTXt" and data.startswith(name, start + 8) else None
    if body is None or len(body) < len(name) + 4:
        return b""
    packed = body[len(name)]
    text = body[len(name) + 2 :].split(b"\0", 2)[-1]
    return (_inflated(text, _MAX_TEXT_BYTES) or b"") if packed else text
