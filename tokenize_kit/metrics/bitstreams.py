"""What of a coded video is pictures: the bytes of its packets less parameter sets, messages and delimiters.

Containers keep parameter sets (H.264, H.265) and the sequence header (AV1) once for a file and drop delimiters; messages (SEI,
metadata) hold the encoder's name and settings, which x264 alone spends 678 bytes on. None of it is needed for each clip, and
tokens have no such thing, so a fair rate leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator

_START = b"\0\0\1"


def picture_bytes(packet: bytes, codec: str) -> int:
    """Return how many bytes of a packet are coded pictures.

    Args:
        packet: an access unit of H.264 or H.265 with start codes (Annex B), or a temporal unit of AV1.
        codec: ``h264``, ``h265`` or ``av1``.

    Raises:
        ValueError: the codec is another, or the packet is damaged.
    """
    if codec == "av1":
        # Frame headers, frames and tile groups, and a header that is repeated.
        return sum(size for kind, size in _open_bitstream_units(packet) if kind in (3, 4, 6, 7))
    if codec == "h264":
        # Slices and their partitions.
        return sum(size for first, size in _units(packet) if 1 <= first & 31 <= 5)
    if codec == "h265":
        return sum(size for first, size in _units(packet) if first >> 1 & 63 < 32)
    raise ValueError(f"codec {codec!r} is not one of h264, h265, av1")


def _units(packet: bytes) -> Iterator[tuple[int, int]]:
    """Yield the first byte of each NAL unit and its size with its start code."""
    place = packet.find(_START)
    if place < 0:
        raise ValueError("a packet of H.264 or H.265 has no start code")
    begin = 0
    while place >= 0:
        following = packet.find(_START, place + 3)
        end = len(packet) if following < 0 else following
        # The zero before a start code of four bytes belongs to it.
        while following >= 0 and end > place + 3 and packet[end - 1] == 0:
            end -= 1
        if place + 3 >= end:
            raise ValueError("a packet of H.264 or H.265 has an empty unit")
        yield packet[place + 3], end - begin
        begin, place = end, following


def _open_bitstream_units(packet: bytes) -> Iterator[tuple[int, int]]:
    """Yield the type of each OBU and its size with its header (AV1 specification, 5.3)."""
    place = 0
    while place < len(packet):
        header = packet[place]
        body = place + 1 + (header >> 2 & 1)
        if not header & 2:
            raise ValueError("a packet of AV1 has a unit without its size")
        size = shift = 0
        while True:
            if body >= len(packet) or shift > 49:
                raise ValueError("a packet of AV1 is cut short")
            byte = packet[body]
            size |= (byte & 127) << shift
            body, shift = body + 1, shift + 7
            if not byte & 128:
                break
        if body + size > len(packet):
            raise ValueError("a packet of AV1 is cut short")
        yield header >> 3 & 15, body + size - place
        place = body + size
