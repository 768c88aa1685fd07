"""Bytes of files, made the same on every run: archives, tables, pictures and sounds, whole and odd ones."""

from __future__ import annotations

import bz2
import fractions
import gzip
import io
import itertools
import json
import lzma
import os
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import zstandard
from PIL import Image, ImageCms, PngImagePlugin

RATE = 16_000


# --- text and archives ------------------------------------------------------------------------------------------------


def put(folder: Path, name: str | bytes, data: bytes | str) -> None:
    """Write a file; ``name`` may have folders, and as bytes need not be UTF-8."""
    path = folder / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def sentences(count: int, seed: int = 0) -> list[str]:
    """Distinct lines that do not compress away."""
    rng = np.random.default_rng(seed)
    return [f"line {number} of {seed}: " + rng.bytes(24).hex() for number in range(count)]


def jsonl(texts: Sequence[str], name: str = "text") -> bytes:
    return "".join(json.dumps({name: text}) + "\n" for text in texts).encode()


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(data)


def zst_flushed(parts: Sequence[bytes]) -> list[bytes]:
    """One frame, flushed after each part; what each flush gave."""
    coder = zstandard.ZstdCompressor(level=3).compressobj()
    pieces = [coder.compress(part) + coder.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for part in parts]
    return [*pieces, coder.flush()]


def zst_long(data: bytes, window_log: int) -> bytes:
    """A small frame whose header asks for a window of ``2**window_log`` bytes, as ``zstd --long`` writes from a pipe."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, enable_ldm=True, hash_log=17, chain_log=16)
    coder = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return coder.compress(data) + coder.flush()


def bz(data: bytes) -> bytes:
    return bz2.compress(data)


def xz(data: bytes) -> bytes:
    return lzma.compress(data)


def tar(
    members: Sequence[tuple[str, bytes]], *, encoding: str = "utf-8", kind: int = tarfile.PAX_FORMAT, end: bool = True
) -> bytes:
    """An uncompressed archive; without ``end`` the two empty blocks that close one are left out."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind, encoding=encoding, errors="surrogateescape") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        length = archive.offset
    return buffer.getvalue() if end else buffer.getvalue()[:length]


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


# --- pictures ---------------------------------------------------------------------------------------------------------


def scene(width: int = 60, height: int = 40) -> Image.Image:
    """A smooth picture with another colour in each corner, so that a turned one is another one."""
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = x * 240 // width, y * 240 // height, (x + y) * 200 // (width + height)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_raw(width: int, height: int, depth: int, colour: int, rows: Sequence[bytes], extra: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [png_chunk(b"IHDR", head), extra, png_chunk(b"IDAT", body), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_with_texts(count: int, characters: int, international: bool = False) -> bytes:
    """A PNG with compressed text chunks, as programs that draw write their settings."""
    info = PngImagePlugin.PngInfo()
    for number in range(count):
        add = info.add_itxt if international else info.add_text
        add(f"settings{number}", '{"a":1}' * (characters // 7), zip=True)
    return saved(scene(), "PNG", pnginfo=info)


def tiff_directory(entries: Sequence[tuple[int, int, int, bytes]]) -> bytes:
    """The TIFF structure of EXIF data: tag, type, count and value of each entry."""
    place = 8 + 2 + 12 * len(entries) + 4
    head, body = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in sorted(entries):
        if len(value) <= 4:
            head += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
        else:
            head += struct.pack("<HHII", tag, kind, count, place + len(body))
            body += value
    return b"II*\0" + struct.pack("<I", 8) + head + struct.pack("<I", 0) + body


ORIENTATION_6 = (0x0112, 3, 1, struct.pack("<H", 6))


def jpeg_with_exif(entries: Sequence[tuple[int, int, int, bytes]], picture: Image.Image | None = None) -> bytes:
    base = saved(picture or scene(), "JPEG", quality=95)
    payload = b"Exif\0\0" + tiff_directory(entries)
    return base[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + base[2:]


def turned(data: bytes) -> np.ndarray:
    """What a viewer shows of a picture with orientation 6, as RGB."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").transpose(Image.Transpose.ROTATE_270))


def _s15(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_s15, values))


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, int(value * 256))


def profile(name: str, primaries: Sequence[tuple[float, float, float]], gamma: float) -> bytes:
    """An ICC matrix profile with the white of the profile connection space."""
    colours = zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    curves = [(tag, _gamma(gamma)) for tag in (b"rTRC", b"gTRC", b"bTRC")]
    return _profile(name, b"mntr", b"RGB ", b"XYZ ", [*((tag, _xyz(*values)) for tag, values in colours), *curves])


def grey_profile(gamma: float) -> bytes:
    """An ICC profile of grey values."""
    return _profile("Dot Gain", b"mntr", b"GRAY", b"XYZ ", [(b"kTRC", _gamma(gamma))])


def cmyk_profile() -> bytes:
    """An ICC profile of a printer: a table of Lab values at the corners of CMYK."""
    corners = itertools.product((0, 1), repeat=4)
    table = bytes(
        value
        for c, m, y, k in corners
        for value in (
            round(250 * (1 - 0.9 * k) * (1 - (c + m + y) / 4)),
            128 + 50 * (m - c) // (1 + k),
            128 + 50 * (y - c),
        )
    )
    identity = b"".join(map(_s15, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3
    return _profile("Web press", b"prtr", b"CMYK", b"Lab ", [(b"A2B0", lut)])


def _profile(name: str, kind: bytes, space: bytes, connection: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    label = name.encode() + b"\0"
    tags = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", len(label)) + label + b"\0" * 78),
        (b"cprt", b"text\0\0\0\0none\0"),
        (b"wtpt", _xyz(0.9642, 1, 0.8249)),
        *tags,
    ]
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for tag, value in tags:
        value += b"\0" * (-len(value) % 4)
        table += tag + struct.pack(">II", start + len(body), len(value))
        body += value
    size = start + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02100000, kind, space, connection)
    return head + b"\0" * 12 + b"acsp" + b"\0" * 28 + _s15(0.9642) + _s15(1) + _s15(0.8249) + b"\0" * 48 + table + body


ADOBE_RGB = profile(
    "Adobe RGB (1998)",
    [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)],
    2.19921875,
)
DISPLAY_P3 = profile(
    "Display P3", [(0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)], 2.2
)


def as_srgb(data: bytes) -> np.ndarray:
    """The pixels of a picture with a profile, converted to sRGB by Little CMS."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    source = ImageCms.ImageCmsProfile(io.BytesIO(Image.open(io.BytesIO(data)).info["icc_profile"]))
    return np.asarray(ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB")))


# --- sound ------------------------------------------------------------------------------------------------------------


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440, gain: float = 0.5) -> np.ndarray:
    return (gain * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def noise(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(rate * seconds))).astype(np.float32)


def pcm16(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def wav(
    data: bytes, *, riff_size: int | None = None, data_size: int | None = None, tag: int = 1, sample_bytes: int = 2
) -> bytes:
    """A mono wav file of 16 kHz whose header may say another size than it has; ``tag`` 3 is float."""
    form = struct.pack("<HHIIHH", tag, 1, RATE, RATE * sample_bytes, sample_bytes, sample_bytes * 8)
    length = len(data) if data_size is None else data_size
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", length) + data
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def wav_float(samples: np.ndarray) -> bytes:
    """32-bit float, without the PEAK chunk of libsndfile, which holds the time."""
    return wav(samples.astype("<f4").tobytes(), tag=3, sample_bytes=4)


def sound(samples: np.ndarray, rate: int, kind: str, coding: str | None = None, serial: int = 1) -> bytes:
    """A file as libsndfile writes it."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=coding)
    data = buffer.getvalue()
    return ogg_serial(data, serial) if kind == "OGG" else data


class _Pipe(io.RawIOBase):
    """A target that cannot go back, so that headers stay as they were first written."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self.data += bytes(part)
        return len(part)


def mux(container: Any, stream: Any, samples: np.ndarray, rate: int) -> None:
    """Write all samples, mono, into an opened container, in the frames that the stream takes."""
    frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32).copy(), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, fractions.Fraction(1, rate)
    even = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
    queue = av.AudioFifo()
    for part in even.resample(frame):
        queue.write(part)
    size = stream.codec_context.frame_size or 1024
    while (part := queue.read(size) or queue.read()) is not None:
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def encoded(
    samples: np.ndarray,
    rate: int,
    kind: str,
    coding: str,
    *,
    bit_rate: int | None = None,
    pipe: bool = False,
    options: dict[str, str] | None = None,
) -> bytes:
    """A mono file as FFmpeg writes it."""
    target: Any = _Pipe() if pipe else io.BytesIO()
    container = av.open(target, "w", format=kind, options={"fflags": "+bitexact", **(options or {})})
    stream = container.add_stream(coding, rate=rate, layout="mono")
    stream.codec_context.flags |= 1 << 23  # bitexact
    if bit_rate:
        stream.bit_rate = bit_rate
    mux(container, stream, samples, rate)
    container.close()
    return bytes(target.data) if pipe else target.getvalue()


def mp3(kilobits: int, seconds: float, *, xing: bool = False, seed: int = 0) -> bytes:
    """Constant bit rate at 44.1 kHz, without the Xing frame that tells the length unless asked for."""
    options = {"write_xing": str(int(xing)), "id3v2_version": "0"}
    return encoded(noise(seconds, 44_100, seed), 44_100, "mp3", "libmp3lame", bit_rate=kilobits * 1000, options=options)


def true_length(data: bytes) -> int:
    """How many samples FFmpeg decodes."""
    with av.open(io.BytesIO(data)) as container:
        return sum(frame.samples for frame in container.decode(audio=0))


def flac_total(data: bytes, total: int) -> bytes:
    """A FLAC file whose STREAMINFO says another number of samples."""
    changed = bytearray(data)
    value = int.from_bytes(changed[18:26], "big") >> 36 << 36 | total
    changed[18:26] = value.to_bytes(8, "big")
    return bytes(changed)


def ogg_serial(data: bytes, serial: int) -> bytes:
    """Give all pages of an Ogg file this serial number; libsndfile takes the time."""
    pages, place = [], 0
    while place < len(data):
        segments = data[place + 26]
        size = 27 + segments + sum(data[place + 27 : place + 27 + segments])
        page = bytearray(data[place : place + size])
        page[14:18] = struct.pack("<I", serial)
        page[22:26] = b"\0\0\0\0"
        page[22:26] = struct.pack("<I", _ogg_checksum(page))
        pages.append(bytes(page))
        place += size
    return b"".join(pages)


def _ogg_table() -> list[int]:
    table = []
    for number in range(256):
        value = number << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value >> 31 else value << 1) & 0xFFFFFFFF
        table.append(value)
    return table


_OGG_TABLE = _ogg_table()


def _ogg_checksum(page: bytes | bytearray) -> int:
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ _OGG_TABLE[value >> 24 ^ byte]
    return value
