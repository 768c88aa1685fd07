"""Whether all of a film is there, before anything is decoded: what its format states is compared with what there is."""

from __future__ import annotations

from typing import IO

from tokenize_kit.media.containers.boxes import MP4_TYPES, check_mp4
from tokenize_kit.media.containers.ebml import check_matroska
from tokenize_kit.media.containers.ogg import check_ogg
from tokenize_kit.media.containers.peek import Peek
from tokenize_kit.media.containers.riff import check_avi

_QUICK = 1 << 26
"""Bytes of a file that is walked over whatever is wanted of it."""


def frames_of(file: IO[bytes], *, quickly: bool = False) -> tuple[int, ...]:
    """Refuse a film that is cut short, and return how many frames each of its video streams has.

    Args:
        file: a seekable file.
        quickly: whether the walk may be spared where it would read through a large file.

    Returns:
        The number of frames of each stream that is no picture, -1 where it is not known; empty where nothing is.

    Raises:
        ValueError: it is empty or cut.
    """
    peek = Peek(file)
    if not peek.size:
        raise ValueError("not a video that can be read (0 bytes)")
    head = peek.at(0, 16)
    if head[4:8] in MP4_TYPES:
        return check_mp4(peek).frames
    if quickly and peek.size > _QUICK:
        return ()
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return check_matroska(peek).films
    if head[:4] == b"OggS":
        check_ogg(peek)
    if head[:4] == b"RIFF" and head[8:12] != b"WAVE":
        return check_avi(peek)
    return ()
