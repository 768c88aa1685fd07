"""The checksums of FFV1: FFmpeg's decoder fills a slice whose checksum is wrong from the frame before, and does not say so.

A packet of version 3 is a row of slices, each of which ends with its size (3 bytes) and, where the stream has checksums, a status
and four bytes that make the CRC of the whole slice 0 (RFC 9043, 4.6 and 4.9.1; polynomial 0x04C11DB7, not reflected).
"""

from __future__ import annotations

import zlib

_TRAILER = 8
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


class SliceChecks:
    """Looks at the packets of one stream; that it has checksums is known when one slice fits its own."""

    def __init__(self) -> None:
        self._known = False
        self._wrong = False

    def is_damaged(self, packet: bytes) -> bool:
        """Return whether this packet, or one before it, has a slice that is not what was written."""
        end = len(packet)
        while end > 0:
            size = int.from_bytes(packet[max(0, end - _TRAILER) : max(0, end - _TRAILER + 3)], "big") + _TRAILER
            begin = end - size
            if begin >= 0 and _remainder(packet[begin:end]) == 0:
                self._known = True
                end = begin
                continue
            self._wrong = True
            break
        return self._known and self._wrong


def _remainder(data: bytes) -> int:
    # zlib's is the reflected form, so bits are turned; it inverts before and after, so that is taken back.
    return zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
