"""Files that do not say what they are."""

from __future__ import annotations

import io
import struct
from typing import IO


def self_describing(extension: str, data: bytes) -> bytes:
    """Return a file's bytes so that they say what they are: raw G.722 (``.g722``), which has no header, gets that of a wav."""
    return _g722_header(len(data)) + data if extension.lower().endswith(".g722") else data


def self_describing_file(name: str, file: IO[bytes]) -> IO[bytes]:
    """Do the same for a file that is open: a G.722 file (an hour has 29 MB) is read into memory, others stay as they are."""
    return io.BytesIO(self_describing(name, file.read())) if name.lower().endswith(".g722") else file


def _g722_header(size: int) -> bytes:
    # Format tag 0x028F is G.722; 16 kHz, 64 kbit/s. A length that 32 bits cannot say is left open.
    form = struct.pack("<HHIIHHH", 0x028F, 1, 16_000, 8_000, 1, 4, 0)
    sizes = (min(size + 38, 0xFFFFFFFF), min(size, 0xFFFFFFFF))
    return (
        struct.pack("<4sI4s4sI", b"RIFF", sizes[0], b"WAVE", b"fmt ", 18)
        + form
        + struct.pack("<4sI", b"data", sizes[1])
    )
