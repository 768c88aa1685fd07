"""JPEG files: what their pixels are made from and what is said of them, and whether one that has no end is whole.

`take_apart` leaves out everything that libjpeg does not need: EXIF, profiles, comments, thumbnails. `mended` is for files without
an end marker: they are whole if every pixel is determined by what is there, whatever might follow.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from tokenize_kit.media.image.parts import Parts

MAX_BYTES = 640 << 20
"""What a picture in several scans may take while it is decoded: libjpeg keeps all coefficients of it, 2 bytes each. The largest
picture without subsampling just fits."""
_MAX_SCANS = 200
_STRIP = 256

_EOI = b"\xff\xd9"
_SOS = 0xDA
# SOF markers; C4, C8 and CC are something else.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# A marker with a length; those without one and stuffed bytes are passed over, and so is what stands between segments.
_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd9-\xfe])", re.DOTALL)
_ICC = b"ICC_PROFILE\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True)
class JpegParts(Parts):
    """A JPEG file taken apart."""

    scan: int = 0
    """Where the first scan begins in `pixels`."""
    progressive: bool = False
    several_scans: bool = False
    """Whether there are more scans than the first: libjpeg keeps the whole picture then until the last."""

    @property
    def ended(self) -> bool:
        """Whether there is an end marker."""
        return self.pixels.endswith(_EOI) or self.pixels.find(_EOI, self.scan) >= 0


def take_apart(data: bytes) -> JpegParts:
    """Return what matters of a JPEG file.

    Raises:
        ValueError: it has no frame or scan, or is of a kind that libjpeg does not read here.
    """
    left_out: list[tuple[int, int]] = []
    pieces: dict[int, bytes] = {}
    frame: tuple[int, int, int] | None = None
    exif = xmp = b""
    progressive = several = False
    begin = 2
    for marker, start, stop in _segments(data):
        # What stands between segments is junk; of the markers of applications libjpeg needs two, for the colours.
        ignored = marker == 0xFE or (
            0xE0 <= marker <= 0xEF and data[start + 4 : start + 9] not in (b"JFIF\0", b"Adobe")
        )
        if start > begin or ignored:
            left_out.append((begin, stop if ignored else start))
        begin = stop
        if marker in _FRAMES:
            frame, progressive = _frame(data[start + 4 : stop]), marker in _PROGRESSIVE
        elif marker == 0xE1:
            if data.startswith(b"Exif", start + 4):
                exif = exif or data[start + 10 : stop]
            elif data.startswith(_XMP, start + 4):
                xmp = xmp or data[start + 4 + len(_XMP) : stop]
        elif marker == 0xE2 and data.startswith(_ICC, start + 4) and stop > start + 18:
            pieces.setdefault(data[start + 16], data[start + 18 : stop])
        elif marker == _SOS:
            scan, several = start, progressive or (frame is not None and data[start + 4] != frame[2])
            break
    else:
        raise ValueError("a JPEG without image data; it is damaged or cut short")
    if frame is None:
        raise ValueError("a JPEG without a frame; it is damaged")
    profile = b"".join(pieces[number] for number in sorted(pieces)) if pieces else None
    pixels = _without(data, left_out)
    scan -= len(data) - len(pixels)
    return JpegParts(pixels, frame[:2], profile, exif, xmp, scan, progressive, several)


def check_memory(parts: JpegParts, reduced: int = 1) -> None:
    """Refuse a picture in several scans of which libjpeg would keep too much, or which has so many that it would take hours.

    Args:
        parts: the picture.
        reduced: by what its width and height are divided as it is decoded.

    Raises:
        ValueError: as above.
    """
    if not parts.several_scans:
        return
    scans = list(_scans(parts))
    (frame,) = [body for marker, body in scans if marker in _FRAMES][:1] or [b""]
    count = sum(marker == _SOS for marker, _ in scans)
    factors = [(frame[place + 1] >> 4 or 1, frame[place + 1] & 15 or 1) for place in range(6, len(frame) - 2, 3)]
    widest, highest = max((f[0] for f in factors), default=1), max((f[1] for f in factors), default=1)
    width, height = parts.size
    needed = sum(2 * width * height * across * down // (widest * highest) for across, down in factors)
    needed += width * height * (1 if len(factors) == 1 else 4) // reduced**2  # and the pixels
    if needed > MAX_BYTES:
        raise ValueError(
            f"a progressive JPEG of {width}x{height} pixels takes {needed >> 20} MiB to decode, more than "
            f"{MAX_BYTES >> 20}; convert it to baseline or scale it down first"
        )
    if count > _MAX_SCANS:
        raise ValueError(f"a JPEG of {count} scans, more than {_MAX_SCANS}; it is damaged or made to take long")


def mended(parts: JpegParts) -> JpegParts | None:
    """Return a picture that has no end marker with one, if every pixel is there; None if some are not.

    All scans must be there that bring each coefficient to its full precision, and the pixels must stay the same whatever follows
    the last byte: where a decoder is still in want of data, different continuations give different pixels.
    """
    # Programs that reserve the room for a download leave zeros behind what came. One zero belongs to an 0xff that is no marker.
    body = parts.pixels.rstrip(b"\0")
    if body.endswith(b"\xff"):
        body = body + b"\0" if len(body) < len(parts.pixels) else body[:-1]
    whole = replace(parts, pixels=body + _EOI)
    if not _all_precise(whole):
        return None
    wanted = _fingerprint(whole.pixels)
    if wanted is None or any(_fingerprint(body + tail + _EOI) != wanted for tail in _continuations()):
        return None
    return whole


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, begin and end of each segment up to the first scan's."""
    place = 2
    while (found := _MARKER.search(data, place)) is not None:
        marker, start = found[1][0], found.end() - 2
        stop = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == 0xD9 or stop < start + 4 or stop > len(data):
            return
        yield marker, start, stop
        if marker == _SOS:
            return
        place = stop


def _without(data: bytes, left_out: list[tuple[int, int]]) -> bytes:
    if not left_out:
        return data
    view, kept, place = memoryview(data), list[memoryview](), 0
    for start, stop in left_out:
        kept.append(view[place:start])
        place = stop
    return b"".join([*kept, view[place:]])


def _frame(body: bytes) -> tuple[int, int, int]:
    """Return width, height and the number of components."""
    if len(body) < 6:
        raise ValueError("a JPEG whose frame is cut short; it is damaged")
    bits, height, width, layers = struct.unpack_from(">BHHB", body)
    if bits != 8:
        raise ValueError(f"a JPEG of {bits} bits a sample cannot be read, only of 8; convert it first")
    if layers not in (1, 3, 4):
        raise ValueError(f"a JPEG of {layers} components cannot be read, only of 1, 3 or 4; convert it first")
    return width, height, layers


def _scans(parts: JpegParts) -> Iterator[tuple[int, bytes]]:
    """Yield marker and body of each frame and scan header, also those behind the first scan."""
    place = 2
    while (found := _MARKER.search(parts.pixels, place)) is not None:
        marker, start = found[1][0], found.end() - 2
        if marker == 0xD9:
            return
        place = start + 2 + max(2, int.from_bytes(parts.pixels[start + 2 : start + 4], "big"))
        if place > len(parts.pixels):
            return
        if marker == _SOS or marker in _FRAMES:
            yield marker, parts.pixels[start + 4 : place]


def _all_precise(parts: JpegParts) -> bool:
    """Return whether the scans bring every coefficient of every component to its full precision."""
    open_bits: dict[int, list[int]] = {}
    for marker, body in _scans(parts):
        if marker in _FRAMES:
            open_bits = {body[place]: [99] * 64 for place in range(6, len(body) - 2, 3)}
            continue
        count = body[0] if body else 0
        if len(body) < 4 + 2 * count:
            return False
        first, last, precision = body[1 + 2 * count : 4 + 2 * count]
        if not parts.progressive:
            first, last, precision = 0, 63, 0
        for place in range(1, 1 + 2 * count, 2):
            bits = open_bits.get(body[place], [])
            bits[first : last + 1] = [precision & 15] * len(bits[first : last + 1])
    return bool(open_bits) and not any(any(bits) for bits in open_bits.values())


def _continuations() -> Iterator[bytes]:
    """Yield what might follow: zeros, ones and other bits, each before and after every restart marker that may be due."""
    draw = np.random.default_rng(0)
    for filling in (bytes(64), b"\xff\x00" * 64, draw.integers(1, 255, 64, np.uint8).tobytes(), b"\x55" * 64):
        yield filling + b"".join(bytes([0xFF, 0xD0 + number]) + filling for number in range(8))


def _fingerprint(data: bytes) -> bytes | None:
    """Return a digest of the pixels, one picture in memory at a time; None if they cannot be decoded."""
    try:
        picture = JpegImageFile(io.BytesIO(data))
        picture.load()
    except Exception:  # see `tokenize_kit.media.image`
        return None
    digest = hashlib.sha256()
    for top in range(0, picture.height, _STRIP):
        digest.update(picture.crop((0, top, picture.width, min(top + _STRIP, picture.height))).tobytes())
    return digest.digest()
