"""Odd sound files, made of what `toys.files` makes: headers that say something else, pages, boxes, elements, tags."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
import soundfile
import torch

from tokenize_kit.media.audio import AudioReader
from toys import files

ID3 = b"ID3\x03\0\0\0\0\x01\x0a" + bytes(138)
"""An ID3v2 tag, which begins a file."""
ID3V1 = b"TAG" + bytes(125)
APE = (
    b"APETAGEX"
    + struct.pack("<IIII", 2000, 52, 1, 0xA0000000)
    + bytes(28)
    + b"APETAGEX"
    + struct.pack("<IIII", 2000, 52, 1, 0x80000000)
    + bytes(8)
)


def read(data: bytes, rate: int | None = None, channels: int | None = None) -> torch.Tensor:
    """What a reader makes of a file."""
    return torch.cat(list(AudioReader(io.BytesIO(data), rate, channels).blocks()), 1)


def exact(data: bytes) -> torch.Tensor:
    """What libsndfile makes of a healthy file, all at once."""
    return torch.from_numpy(soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0].T.copy())


# --- chunks -----------------------------------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes, order: str = "<") -> bytes:
    """A chunk of RIFF or, with ``>``, of AIFF, padded."""
    return name + struct.pack(f"{order}I", len(data)) + data + b"\0" * (len(data) % 2)


def riff(*chunks: bytes, kind: bytes = b"RIFF", order: str = "<") -> bytes:
    """A wav file of chunks."""
    body = b"WAVE" + b"".join(chunks)
    return kind + struct.pack(f"{order}I", len(body)) + body


def form(tag: int = 1, channels: int = 1, width: int = 2, rate: int = files.RATE, order: str = "<") -> bytes:
    """A fmt chunk."""
    block = channels * width
    return chunk(b"fmt ", struct.pack(f"{order}HHIIHH", tag, channels, rate, rate * block, block, 8 * width), order)


def extensible(channels: int, mask: int, rate: int = files.RATE) -> bytes:
    """A fmt chunk that says where its channels of 16 bits belong."""
    plain = struct.pack("<HHIIHH", 0xFFFE, channels, rate, rate * 2 * channels, 2 * channels, 16)
    return chunk(b"fmt ", plain + struct.pack("<HHIH", 22, 16, mask, 1) + bytes.fromhex("000000001000800000aa00389b71"))


# --- pages ------------------------------------------------------------------------------------------------------------


def pages(data: bytes) -> list[bytearray]:
    """The pages of an Ogg file."""
    found, place = [], 0
    while place < len(data):
        count = data[place + 26]
        size = 27 + count + sum(data[place + 27 : place + 27 + count])
        found.append(bytearray(data[place : place + size]))
        place += size
    return found


def joined(parts: Sequence[bytes | bytearray]) -> bytes:
    """Pages with their checksums made right."""
    out = b""
    for page in map(bytearray, parts):
        page[22:26] = bytes(4)
        page[22:26] = struct.pack("<I", files._ogg_checksum(page))
        out += bytes(page)
    return out


def page(serial: int, number: int, flags: int, body: bytes, granule: int = 0) -> bytes:
    """A page of one packet; its checksum is made by `joined`."""
    table = [255] * (len(body) // 255) + [len(body) % 255]
    head = b"OggS\0" + bytes([flags]) + struct.pack("<qIII", granule, serial, number, 0)
    return head + bytes([len(table), *table]) + body


# --- files of several tracks ------------------------------------------------------------------------------------------


def muxed(
    kind: str,
    coding: str,
    *,
    seconds: float = 1.0,
    rate: int = 48_000,
    video: str = "",
    tracks: int = 1,
    pipe: bool = False,
    default: int | None = None,
    **options: str,
) -> bytes:
    """A file as FFmpeg writes it, with mono tracks of noise (each of its own) and perhaps pictures."""
    target: Any = files._Pipe() if pipe else io.BytesIO()
    container = av.open(target, "w", format=kind, options=options)
    pictures: Any = container.add_stream(video, rate=10) if video else None
    if pictures is not None:
        pictures.width, pictures.height, pictures.pix_fmt = 32, 32, "yuv420p"
    streams: list[Any] = [container.add_stream(coding, rate=rate, layout="mono") for _ in range(tracks)]
    for number, stream in enumerate(streams if default is not None else []):
        stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
    for number in range(int(seconds * 10) if video else 0):
        grey = np.full((32, 32, 3), number * 9 % 255, np.uint8)
        container.mux(pictures.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
    for number, stream in enumerate(streams):
        files.mux(container, stream, files.noise(seconds, rate, number), rate)
    if pictures is not None:
        container.mux(pictures.encode(None))
    container.close()
    return bytes(target.data) if pipe else target.getvalue()


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and size of the boxes of an MP4 file."""
    place, end = start, len(data) if end is None else end
    while place < end:
        size = int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], place, size
        place += size


def box(data: bytes, *names: bytes) -> int:
    """Where the body of a box begins."""
    start, end = 0, len(data)
    for wanted in names:
        place, size = next((place, size) for name, place, size in boxes(data, start, end) if name == wanted)
        start, end = place + 8, place + size
    return start


def elements(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Name, place, first byte and end of the elements of a Matroska file; sizes must be known."""
    from tokenize_kit.media.containers.ebml import _element
    from tokenize_kit.media.containers.peek import Peek

    place, peek = start, Peek(io.BytesIO(data))
    while place < end:
        name, size, inside = _element(peek, place)
        yield name, place, inside, inside + (size or 0)
        place = inside + (size or 0)


SEGMENT = bytes.fromhex("18538067")
CLUSTER = bytes.fromhex("1f43b675")
UNKNOWN = b"\x01" + b"\xff" * 7


def live(data: bytes, *, duration: bool = False) -> bytes:
    """A WebM file as a browser records it: no sizes of the segment and of clusters, no index, no duration."""
    place = data.index(SEGMENT)
    out = data[: place + 4] + UNKNOWN
    for name, begin, inside, end in elements(data, place + 12, len(data)):
        if name == 0x1F43B675:
            out += CLUSTER + UNKNOWN + data[inside:end]
        elif name in (0x1549A966, 0x1654AE6B):
            out += data[begin:end]
    if duration:
        return out
    at = out.index(b"\x44\x89\x88")
    return out[:at] + b"\xec\x89" + bytes(9) + out[at + 11 :]
