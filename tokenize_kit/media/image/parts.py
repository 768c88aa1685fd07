"""What a picture file is taken apart into: the bytes that its pixels are made from, and what it says of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parts:
    """A picture file without what does not matter.

    Text, thumbnails, further pages and the like are left out, so that it does not matter how large, odd or damaged they are.
    """

    pixels: bytes
    """A file of the same format that holds what the pixels are made from, and little else."""
    size: tuple[int, int]
    """Width and height as stored."""
    profile: bytes | None = None
    """The ICC profile of the colours; None where they are sRGB or nothing is said, empty where it cannot be had."""
    exif: bytes = b""
    """The TIFF structure of the EXIF data."""
    xmp: bytes = b""
    """The XMP packet."""
