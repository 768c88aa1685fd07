"""Animated pictures (GIF, WebP, PNG) through Pillow, and still pictures as films of one frame.

Before a pixel is decoded the blocks or chunks of an animation are walked over: whether all are there, how many frames there are
and how long each is shown. Pillow then composes the frames, with their disposal and blending. A frame of no length, and in a
GIF one of 1/100 s, is shown for 100 ms, as browsers do.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from tokenize_kit.media.containers.peek import CUT
from tokenize_kit.media.image import read_image_noting
from tokenize_kit.media.video.colours import check_size, into
from tokenize_kit.media.video.shown import Pixels, Shown

MAX_ANIMATION_PIXELS = 3 << 22
"""The largest frame of an animation, which takes up to 30 bytes a pixel to compose (4K has 8,294,400 pixels)."""

_PNG = b"\x89PNG\r\n\x1a\n"
_SHORTEST = Fraction(1, 10)
_GIF_CONTROL = re.compile(rb"!\xf9\x04....\0[!,]", re.DOTALL)
"""The block that says how long the next frame of a GIF is shown, up to where that one begins."""
_WEBP_ALPHA = 0x10
_WEBP_CHUNKS = frozenset((b"VP8X", b"ICCP", b"ANIM", b"ANMF", b"EXIF", b"XMP "))


class Table(NamedTuple):
    """What the blocks of an animation say of it."""

    format: str
    width: int
    height: int
    durations: tuple[Fraction, ...]
    """Seconds, one a frame."""
    skipped: int = 0
    """Frames that Pillow counts and that are none of the animation: the still picture of a PNG."""


def is_picture(head: bytes) -> bool:
    """Return whether a file that begins with these 32 bytes is one of pictures, moving or not."""
    if head.startswith((_PNG, b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")):
        return True
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"heic", b"heix", b"mif1"):
        return True
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


class Animation:
    """An animated picture as a film.

    Args:
        data: the bytes of the file.
        table: what `table_of` found.
    """

    def __init__(self, data: bytes, table: Table) -> None:
        check_size(table.width, table.height, MAX_ANIMATION_PIXELS)
        if table.format == "WEBP" and not data[20] & _WEBP_ALPHA:
            # What no frame covers is transparent also where no frame is; without the mark Pillow makes it black.
            data = data[:20] + bytes([data[20] | _WEBP_ALPHA]) + data[21:]
        self._data, self._table = data, table
        self.format = self.codec = table.format
        self.height, self.width = table.height, table.width
        total = sum(table.durations, Fraction(0))
        self.rate = len(table.durations) / total
        """Frames a second, on average."""
        self.duration: Fraction | None = total
        self.origin = Fraction(0)
        self.slack = Fraction(1, 200 if table.format == "GIF" else 2000)
        self.notes: list[str] = []

    def shown(self, at: Fraction) -> Iterator[Shown]:
        """Yield the frames from that on which is shown ``at`` seconds after the first, or from an earlier one.

        Raises:
            ValueError: the animation is damaged or cut short.
        """
        del at  # each frame is made from the one before it
        time = Fraction(0)
        for duration, frame in zip(self._table.durations, self._frames(), strict=True):
            yield Shown(time, duration, _painter(frame))
            time += duration

    def _frames(self) -> Iterator[Any]:
        from PIL import Image

        count = len(self._table.durations)
        number = 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                picture = Image.open(io.BytesIO(self._data), formats=(self._table.format,))
                found = getattr(picture, "n_frames", 1) - self._table.skipped
                if found != count:
                    raise ValueError(f"{count} frames are there, and {found} can be read")
                for number in range(count):
                    picture.seek(number + self._table.skipped)
                    frame = picture.convert("RGBA")
                    if frame.size != (self.width, self.height):
                        raise ValueError(f"a frame of {frame.width}x{frame.height} in {self.width}x{self.height}")
                    yield frame
        except Exception as error:  # on broken bytes Pillow's decoders raise nearly every built-in exception
            words = " ".join(str(error).split())
            words = type(error).__name__ if not words or "BytesIO" in words else words
            raise ValueError(f"frame {number} of the animation cannot be decoded ({words}); {CUT}") from None


def _painter(frame: Any) -> Any:
    def paint(out: Pixels) -> None:
        array = np.asarray(frame)
        planes = [array[..., index] for index in range(4)]
        into(out, planes[:3] if planes[3].min() == 255 else planes)

    return paint


class Still:
    """A picture as a film of one frame, read by `tokenize_kit.media.image`.

    Args:
        data: the bytes of the file.
        channels: of the frame.
        at_least: see `tokenize_kit.media.image.read_image_noting`.
    """

    def __init__(self, data: bytes, channels: int, at_least: int | None = None) -> None:
        read = read_image_noting(data, channels, at_least)
        self._pixels = read.pixels.numpy()
        self.format = self.codec = "picture"
        self.height, self.width = self._pixels.shape[1:]
        self.rate = Fraction(0)
        self.duration: Fraction | None = None
        self.origin = self.slack = Fraction(0)
        self.notes = list(read.notes)

    def shown(self, at: Fraction) -> Iterator[Shown]:
        """Yield the one frame."""
        del at

        def paint(out: Pixels) -> None:
            out[:] = self._pixels

        yield Shown(Fraction(0), Fraction(0), paint)


def table_of(data: bytes) -> Table | None:
    """Return what the blocks of an animation say; None if it is a still picture.

    Raises:
        ValueError: it is cut short or damaged.
    """
    if data.startswith((b"GIF87a", b"GIF89a")):
        table = _gif(data)
        return table if len(table.durations) > 1 else None
    if data[:4] == b"RIFF":
        return _webp(data)
    return _png(data) if data.startswith(_PNG) else None


def _gif(data: bytes) -> Table:
    width, height, flags = struct.unpack_from("<HHB", data.ljust(13, b"\0"), 6)
    place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    durations: list[Fraction] = []
    controls: set[int] = set()
    delay = 0
    while True:
        mark = data[place : place + 1]
        if mark == b";":
            break
        if not mark:
            raise ValueError(f"the animation ends without its end mark; {CUT}")
        if mark == b"!":
            begin, place = place, _after_blocks(data, place + 2)
            if data[begin + 1] == 0xF9:
                if data[begin + 2] != 4 or place != begin + 8:
                    raise ValueError(f"a control block of the GIF at byte {begin:,} has not 4 bytes; {CUT}")
                controls.add(begin)
                delay = int.from_bytes(data[begin + 4 : begin + 6], "little")
        elif mark == b",":
            local = data[place + 9 : place + 10]
            if not local:
                raise ValueError(f"the animation ends inside a frame; {CUT}")
            place += 10 + (3 << (local[0] & 7) + 1 if local[0] & 0x80 else 0) + 1
            place = _after_blocks(data, place)
            durations.append(Fraction(delay, 100) if delay > 1 else _SHORTEST)
            delay = 0
        else:
            raise ValueError(f"there is no block of a GIF at byte {place:,}; {CUT}")
    if not durations:
        raise ValueError(f"a GIF without a frame; {CUT}")
    # A GIF states no number of frames: a size that is damaged can take some into another block, or bring the end mark too early.
    for control in _GIF_CONTROL.finditer(data):
        if control.start() not in controls:
            raise ValueError(
                f"a frame of the GIF at byte {control.start():,} is inside another block or behind the end; {CUT}"
            )
    return Table("GIF", width, height, tuple(durations))


def _after_blocks(data: bytes, place: int) -> int:
    """Return where the sub-blocks end that begin at a place."""
    while place < len(data):
        size = data[place]
        place += 1 + size
        if not size:
            return place
    raise ValueError(f"the animation ends inside a block; {CUT}")


def _webp(data: bytes) -> Table | None:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise ValueError(f"the file ends after {len(data):,} of {end:,} bytes; {CUT}")
    if data[12:16] != b"VP8X" or not data[20] & 2:
        return None
    width, height = (1 + int.from_bytes(data[start : start + 3], "little") for start in (24, 27))
    durations: list[Fraction] = []
    place = 12
    while place + 8 <= end:
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if place + 8 + size > end:
            raise ValueError(f"the file ends inside a chunk of {size:,} bytes; {CUT}")
        if name == b"ANMF":
            _check_frame(data, place + 24, place + 8 + size)
            milliseconds = int.from_bytes(data[place + 20 : place + 23], "little")
            durations.append(Fraction(milliseconds, 1000) if milliseconds else _SHORTEST)
        elif name not in _WEBP_CHUNKS:
            raise ValueError(f"there is no chunk of a WebP at byte {place:,}; {CUT}")
        place += 8 + size + size % 2
    if not durations:
        raise ValueError(f"an animated WebP without a frame; {CUT}")
    return Table("WEBP", width, height, tuple(durations))


def _check_frame(data: bytes, place: int, end: int) -> None:
    """Refuse a frame of a WebP whose chunks do not end where it ends."""
    while place + 8 <= end:
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    if place != end:
        raise ValueError(f"a frame of the WebP does not end at byte {end:,}; {CUT}")


def _png(data: bytes) -> Table | None:
    durations: list[Fraction] = []
    said, still, place = 0, True, 8
    while place + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        body = data[place + 8 : place + 8 + size]
        if name == b"acTL":
            said = int.from_bytes(body[:4], "big")
        elif name == b"IDAT" and not durations:
            # The picture for those who know no animation is none of its frames then.
            still = False
        elif name == b"fcTL":
            top, bottom = struct.unpack_from(">HH", body.ljust(26, b"\0"), 20)
            durations.append(Fraction(top, bottom or 100) if top else _SHORTEST)
        if said and name in (b"IHDR", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"PLTE", b"tRNS", b"IEND"):
            if place + 12 + size > len(data):
                raise ValueError(f"the animation ends inside a part of {size:,} bytes; {CUT}")
            checksum = int.from_bytes(data[place + 8 + size : place + 12 + size], "big")
            if zlib.crc32(data[place + 4 : place + 8 + size]) != checksum:
                raise ValueError(f"a part {name.decode()} of the animated PNG has a wrong checksum; {CUT}")
        place += 12 + size
        if name == b"IEND":
            break
    else:
        if said:
            raise ValueError(f"the animated PNG has no end; {CUT}")
    if not said:
        if durations:
            raise ValueError(f"frames of an animated PNG that does not say that it is one; {CUT}")
        return None
    if said != len(durations):
        raise ValueError(f"{said} frames of the animated PNG are said, and {len(durations)} are there; {CUT}")
    width, height = struct.unpack_from(">II", data, 16)
    return Table("PNG", width, height, tuple(durations), int(not still))
