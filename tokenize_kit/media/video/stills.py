"""Animated pictures, written frame by frame: WebP and PNG to the bit, GIF in 256 colours a frame.

Pillow codes each picture; what follows here puts them together, so that memory holds one frame and not the film. Of a frame only
the rectangle is written in which it differs from the one before. WebP: the RIFF container of Google's specification; PNG: the
third edition of W3C's, with ``acTL``, ``fcTL`` and ``fdAT``; GIF: GIF89a.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import IO, Any

import numpy as np

from tokenize_kit.media.video.shown import Pixels

_MOST_WEBP = 16_383
_MOST_GIF = 65_535


def write_webp(file: IO[bytes], frames: Iterator[Pixels], rate: Fraction) -> None:
    """Write an animated, lossless WebP.

    Raises:
        ValueError: its sides or the length of its frames are outside what WebP has.
    """
    alpha, width, height = False, 0, 0
    for number, (pixels, box, ticks) in enumerate(_changes(frames, rate, 1000, 1, "WebP", even=True)):
        if not number:
            _, height, width = pixels.shape
            if max(width, height) > _MOST_WEBP:
                raise ValueError(
                    f"a WebP of {width}x{height} pixels is larger than {_MOST_WEBP} a side; write .png or .mkv"
                )
            alpha = len(pixels) == 4
            file.write(b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<I", 10) + bytes((2 | alpha << 4, 0, 0, 0)))
            file.write(_three(width - 1) + _three(height - 1))
            file.write(b"ANIM" + struct.pack("<IIH", 6, 0, 0))
        left, top, right, bottom = box
        part = io.BytesIO()
        _picture(pixels[:, top:bottom, left:right]).save(part, "WEBP", lossless=True, exact=True, quality=80, method=4)
        chunks = _picture_chunks(part.getvalue())
        head = b"".join(map(_three, (left // 2, top // 2, right - left - 1, bottom - top - 1, ticks)))
        # Not blended, not disposed of: the rectangle replaces what was there.
        body = head + b"\2" + chunks
        file.write(b"ANMF" + struct.pack("<I", len(body)) + body + bytes(len(body) % 2))
    size = file.tell()
    file.seek(4)
    file.write(struct.pack("<I", size - 8))
    file.seek(size)


def write_png(file: IO[bytes], frames: Iterator[Pixels], rate: Fraction) -> None:
    """Write an animated PNG."""
    sequence, count, place = 0, 0, 0
    for pixels, box, ticks in _changes(frames, rate, 1000, 1, "PNG"):
        left, top, right, bottom = box
        part = io.BytesIO()
        _picture(pixels[:, top:bottom, left:right]).save(part, "PNG")
        coded = part.getvalue()
        data = b"".join(body for name, body in _png_chunks(coded) if name == b"IDAT")
        if not count:
            _, height, width = pixels.shape
            depth_and_colour = coded[24:29]
            file.write(coded[:8])
            _write_chunk(file, b"IHDR", struct.pack(">II", width, height) + depth_and_colour)
            place = file.tell()
            _write_chunk(file, b"acTL", bytes(8))
        # Not disposed of; the rectangle replaces what was there.
        shape = (right - left, bottom - top, left, top)
        _write_chunk(file, b"fcTL", struct.pack(">IIIIIHHBB", sequence, *shape, ticks, 1000, 0, 0))
        sequence += 1
        if count:
            _write_chunk(file, b"fdAT", struct.pack(">I", sequence) + data)
            sequence += 1
        else:
            _write_chunk(file, b"IDAT", data)
        count += 1
    _write_chunk(file, b"IEND", b"")
    size = file.tell()
    file.seek(place)
    _write_chunk(file, b"acTL", struct.pack(">II", count, 0))
    file.seek(size)


def write_gif(file: IO[bytes], frames: Iterator[Pixels], rate: Fraction) -> None:
    """Write a GIF that runs for ever; transparency of half and more is kept, the rest is on white.

    Raises:
        ValueError: its sides or the length of its frames are outside what GIF has.
    """
    started = False
    for pixels, _, ticks in _changes(frames, rate, 100, 2, "GIF"):
        _, height, width = pixels.shape
        if not started:
            if max(width, height) > _MOST_GIF:
                raise ValueError(f"a GIF of {width}x{height} pixels is larger than {_MOST_GIF} a side; write .mkv")
            file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0))
            file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")
            started = True
        palette, data, clear = _gif_parts(pixels)
        disposal = 2 if clear is not None else 1
        file.write(b"!\xf9\x04" + struct.pack("<BHBB", disposal << 2 | (clear is not None), ticks, clear or 0, 0))
        bits = len(palette) // 3 - 1
        file.write(b"," + struct.pack("<HHHHB", 0, 0, width, height, 0x80 | bits.bit_length() - 1) + palette + data)
    file.write(b";")


def _gif_parts(pixels: Pixels) -> tuple[bytes, bytes, int | None]:
    """Return the palette of a frame, what follows it, and the transparent colour."""
    picture = _picture(pixels)
    clear: int | None = None
    if len(pixels) == 4 and pixels[3].min() < 128:
        from PIL import Image

        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB").quantize(255)
        clear = 255
        picture.paste(clear, mask=Image.fromarray(np.where(pixels[3] < 128, 255, 0).astype(np.uint8)))
    elif len(pixels) > 1:
        picture = picture.convert("RGB").quantize(256)
    part = io.BytesIO()
    picture.save(part, "GIF", optimize=False, interlace=False)
    data = part.getvalue()
    size = 3 << (data[10] & 7) + 1
    palette, place = data[13 : 13 + size].ljust(768 if clear is not None else size, b"\0"), 13 + size
    while data[place : place + 1] == b"!":
        place += 2
        while data[place]:
            place += 1 + data[place]
        place += 1
    return palette, data[place + 10 : -1], clear


def _changes(
    frames: Iterator[Pixels], rate: Fraction, second: int, least: int, name: str, even: bool = False
) -> Iterator[tuple[Pixels, tuple[int, int, int, int], int]]:
    """Yield each frame with the box (left, top, right, bottom) that differs from the one before, and its length in ticks.

    Each frame begins at the tick that is nearest to its time, so that no drift adds up.

    Args:
        frames: the frames.
        rate: frames a second.
        second: ticks of a second.
        least: ticks that a frame must last.
        name: of the format.
        even: whether a box must begin at even numbers.

    Raises:
        ValueError: frames are too short or too long for the format.
    """
    most = {"WebP": (1 << 24) - 1}.get(name, 65_535)
    if second / rate < least or second / rate > most - 1:
        raise ValueError(
            f"{float(rate):g} frames a second cannot be written as {name}, whose frames last {least} to {most} times "
            f"1/{second} s; give another rate, or write .mp4, .webm or .mkv"
        )
    before: Pixels | None = None
    for number, pixels in enumerate(frames):
        begin, end = (round(one * second / rate) for one in (number, number + 1))
        yield pixels, _box(before, pixels, even), end - begin
        before = pixels


def _box(before: Pixels | None, pixels: Pixels, even: bool) -> tuple[int, int, int, int]:
    _, height, width = pixels.shape
    if before is None:
        return 0, 0, width, height
    changed = (before != pixels).any(0)
    if not changed.any():
        return 0, 0, 1, 1
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    left, top = int(columns[0]), int(rows[0])
    if even:
        left, top = left & ~1, top & ~1
    return left, top, int(columns[-1]) + 1, int(rows[-1]) + 1


def _picture(pixels: Pixels) -> Any:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def _three(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _picture_chunks(data: bytes) -> bytes:
    """Return the chunks of a still WebP that are its picture."""
    kept, place = b"", 12
    while place + 8 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] in (b"VP8L", b"VP8 ", b"ALPH"):
            kept += data[place : place + 8 + size + size % 2]
        place += 8 + size + size % 2
    return kept


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        yield name, data[place + 8 : place + 8 + size]
        place += 12 + size


def _write_chunk(file: IO[bytes], name: bytes, body: bytes) -> None:
    file.write(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))


WRITERS: dict[str, Callable[[IO[bytes], Iterator[Pixels], Fraction], None]] = {
    ".webp": write_webp,
    ".png": write_png,
    ".apng": write_png,
    ".gif": write_gif,
}
"""What writes an animated picture, by its ending."""
