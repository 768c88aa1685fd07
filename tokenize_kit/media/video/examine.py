"""Whether all of a film is there, before anything is decoded: what its format states is compared with what there is."""

from __future__ import annotations

from typing import IO

from tokenize_kit.media.audio.boxes import MP4_TYPES, check_avi, check_mp4
from tokenize_kit.media.audio.ebml import check_matroska
from tokenize_kit.media.audio.part import Peek

_QUICK = 1 << 26
"""Bytes of a file that is walked over whatever is wanted of it."""


def check_whole(file: IO[bytes], *, quickly: bool = False) -> None:
    """Refuse a film that is cut short.

    Args:
        file: a seekable file.
        quickly: whether the walk may be spared where it would read through a large file.

    Raises:
        ValueError: it is empty or cut.
    """
    peek = Peek(file)
    if not peek.size:
        raise ValueError("not a video that can be read (0 bytes)")
    head = peek.at(0, 16)
    if head[4:8] in MP4_TYPES:
        check_mp4(peek)
    elif quickly and peek.size > _QUICK:
        return
    elif head[:4] == b"\x1a\x45\xdf\xa3":
        check_matroska(peek)
    elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        check_avi(peek)
