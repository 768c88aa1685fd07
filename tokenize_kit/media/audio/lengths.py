"""How many bytes of samples a file has whose header may not know it.

A program that writes into a pipe cannot go back to write the size, and leaves a number of its own: 0, -1, 0x7FFFF000 (SoX),
0x7FFFFFFF, 0x80000000 (arecord), 0x7F000000, with or without the header, cut to whole frames. With such a number the samples
reach to the end of the file. Any other number is meant: a file that has fewer bytes is cut short, and what a file has beyond
them must be something else than samples.
"""

from __future__ import annotations

from typing import Literal

from tokenize_kit.media.containers.peek import CUT, Peek, end_without_tags, is_placeholder, tag_size

METADATA = frozenset(
    name.encode()
    for name in [
        *(
            "LIST",
            "INFO",
            "id3 ",
            "ID3 ",
            "bext",
            "iXML",
            "axml",
            "cue ",
            "smpl",
            "inst",
            "fact",
            "PEAK",
            "JUNK",
            "junk",
        ),
        *(
            "PAD ",
            "FLLR",
            "_PMX",
            "umid",
            "afsp",
            "plst",
            "acid",
            "strc",
            "cart",
            "chna",
            "DISP",
            "minf",
            "elm1",
            "regn",
        ),
        *(
            "ovwf",
            "levl",
            "link",
            "dbmd",
            "SMED",
            "LGWV",
            "MARK",
            "COMT",
            "NAME",
            "AUTH",
            "ANNO",
            "(c) ",
            "APPL",
            "INST",
        ),
        *("MIDI", "AESD", "CHAN", "SAUR", "AFAn", "note", "labl", "ltxt", "adtl", "Fake"),
    ]
)
"""Chunks that hold no samples, and may be cut without loss of any."""


def samples_end(peek: Peek, start: int, said: int, *, bits: int = 32, whole: bool = False, chunks: bool = True) -> int:
    """Return where the samples end that begin at ``start``.

    Args:
        peek: the file.
        start: the place of the first sample.
        said: how many bytes the header says there are.
        bits: of the field that says it.
        whole: whether the file as a whole is known to have the size that its header says.
        chunks: whether the format has other chunks, which may follow.

    Raises:
        ValueError: there are fewer bytes than said, or more that may be samples.
    """
    there = peek.size - start
    if is_placeholder(said, bits):
        if said == 0 and there and chunks and _chunk_at(peek, start) and not _foreign(peek, start):
            return start  # An empty sound with other chunks behind it.
        # A file that is longer than the number has that many by chance if a chunk follows them.
        if 0 < said < there and chunks and _chunk_at(peek, start + said + said % 2):
            return start + said
        return end_without_tags(peek, start)
    if said > there:
        if whole:
            return peek.size
        raise ValueError(f"the sound ends after {there:,} of {said:,} bytes of samples; {CUT}")
    end = start + said
    foreign = _foreign(peek, end + said % 2, chunks=chunks)
    if foreign and said % 2:
        foreign = _foreign(peek, end, chunks=chunks) and foreign
    if foreign:
        raise ValueError(
            f"the header says {said:,} bytes of samples, and {foreign} follows them; the file is damaged or two files "
            "in one; write it anew with the true size"
        )
    return end


def is_name(name: bytes) -> bool:
    """Return whether four bytes can be the name of a chunk."""
    return name in METADATA or (len(name) == 4 and name[:1].isalnum() and all(0x20 <= byte < 0x7F for byte in name))


def _chunk_at(peek: Peek, place: int) -> bool:
    head = peek.at(place, 8)
    sizes = (int.from_bytes(head[4:8], "little"), int.from_bytes(head[4:8], "big"))
    return is_name(head[:4]) and min(sizes) <= peek.size - place - 8


def _foreign(peek: Peek, place: int, *, chunks: bool = True) -> str:
    """Say what follows the samples that may be samples too; nothing if it is all chunks, tags or zeros."""
    if peek.size - place < 8:
        return ""
    order: Literal["big", "little"] = "big" if peek.at(0, 4) in (b"FORM", b"RIFX") else "little"
    for _ in range(10_000):
        left = peek.size - place
        if left < 8:
            return ""
        head = peek.at(place, 8)
        if size := tag_size(peek, place):
            place += size
        elif chunks and is_name(head[:4]):
            size = int.from_bytes(head[4:8], order)
            if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM", b"data", b"SSND"):
                return "another sound"
            if size > left - 8 + 1 and head[:4] not in METADATA:
                return f"{left:,} bytes that are no chunk"
            # Not every writer pads an odd chunk.
            place += 8 + size + (size % 2 and not is_name(peek.at(place + 8 + size, 4)))
        elif peek.empty(place, peek.size):
            return ""
        else:
            return f"{left:,} bytes that are no chunk"
    return "10,000 chunks and more"
