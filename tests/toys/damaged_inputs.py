"""Damage to files of every format, and what is right for it: whole, or listed, never fewer samples without a word.

`FORMATS` are small healthy files. `damages` cuts them, fills ranges with zeros, flips bits, sets numbers to their limits,
appends garbage, puts blocks in another order and joins two files. `judge` reads what came out beside a healthy file, as
``encode`` does up to the tokenizer, and compares. The suite and `benchmarks/fuzz.py` share all of it.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from PIL import Image

from tokenize_kit.sources.decoding import RowDecoder, Shaping
from tokenize_kit.sources.fields import resolve_columns
from tokenize_kit.sources.planning import ReadOptions, find_sources, plan_units
from tokenize_kit.sources.reading import read_unit
from tokenize_kit.tokenizers.audio.pcm import PCMTokenizer
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from tokenize_kit.tokenizers.video.frames import FramesTokenizer
from toys.files import bz, encoded, gz, jsonl, mp3, noise, parquet, pcm16, saved, sentences, sound, tar, wav, xz
from toys.films import film, moving, written

RATE = 16_000
SPECS = {
    "image": PixelTokenizer(3).spec,
    "audio": PCMTokenizer(RATE, 1).spec,
    # Each frame of the file: how many there are at another rate, damaged time stamps may say.
    "video": replace(FramesTokenizer(12).spec, frame_rate=None),
}
_LENGTH = {"image": -1, "audio": -1, "video": 0}
UNIT_BYTES = 4_000
"""Larger files are divided, so that the pieces are tried as well."""


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    name: str
    """How its files are called."""
    make: Callable[[int], bytes] = field(repr=False)
    """A healthy file; other numbers give other ones."""
    modality: str = "text"
    checked: bool = False
    """Whether checksums cover all of it, so that no change may pass without a word."""
    states: bool = True
    """Whether it says how much it holds, so that a part may not pass for the whole."""
    records: Callable[[bytes], int] | None = field(default=None, repr=False)
    """How many records there are in a damaged file, where nothing but the file can say that; each must be accounted for."""


def _lines(data: bytes) -> int:
    return sum(bool(line.strip()) for line in data.split(b"\n"))


def _rows(data: bytes) -> int:
    """As many as a table has below its first line."""
    return max(0, _lines(data) - 1)


def _objects(data: bytes) -> int:
    return data.count(b'{"text": "')


def _one(data: bytes) -> int:
    return int(bool(data))


def _headers(data: bytes) -> int:
    """How many tar headers stand where one can stand."""
    return sum(data[place + 257 : place + 262] == b"ustar" for place in range(0, len(data) - 511, 512))


def _texts(seed: int) -> list[str]:
    return sentences(40, seed)


def _photo(seed: int, size: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


def _members(seed: int) -> list[tuple[str, bytes]]:
    return [(f"{seed}-{number}.txt", text.encode() * 9) for number, text in enumerate(_texts(seed)[:12])]


def _idx(seed: int) -> bytes:
    pictures = np.random.default_rng(seed).integers(0, 256, (12, 19, 17), np.uint8)
    return struct.pack(">4B3I", 0, 0, 8, 3, *pictures.shape) + pictures.tobytes()


def _table(seed: int, **options: Any) -> bytes:
    return parquet({"text": _texts(seed), "n": list(range(40))}, row_group_size=16, **options)


def _zst(data: bytes, checksum: bool) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=checksum).compress(data)


def _speech(seed: int) -> Any:
    return noise(0.2, RATE, seed)


def _picture(kind: str, **options: Any) -> Callable[[int], bytes]:
    return lambda seed: saved(_photo(seed), kind, **options)


def _sound(kind: str, coding: str | None = None) -> Callable[[int], bytes]:
    return lambda seed: sound(_speech(seed), RATE, kind, coding)


def _stream(kind: str, coding: str) -> Callable[[int], bytes]:
    return lambda seed: encoded(noise(0.3, 48_000, seed), 48_000, kind, coding)


def _film(kind: str, codec: str, pixels: str = "yuv420p", **options: str) -> Callable[[int], bytes]:
    return lambda seed: film(moving(8, 48, 64, seed=seed), kind, codec, pixels, 12, options={"g": "4", **options})


def _animation(ending: str) -> Callable[[int], bytes]:
    return lambda seed: written(moving(8, 24, 32, seed=seed), ending)


def _array(seed: int) -> bytes:
    return json.dumps([{"text": text} for text in _texts(seed)]).encode()


def _csv(seed: int, mark: str = ",") -> bytes:
    return "".join(f"{text}{mark}{number}\n" for number, text in enumerate(["text", *_texts(seed)])).encode()


FORMATS = [
    Format("a.txt", lambda seed: "\n".join(_texts(seed)).encode(), states=False, records=_one),
    Format("a.jsonl", lambda seed: jsonl(_texts(seed)), states=False, records=_lines),
    Format("a.json", lambda seed: _array(seed), records=_objects),
    Format("a.csv", _csv, states=False, records=_rows),
    Format("a.tsv", lambda seed: _csv(seed, "\t"), states=False, records=_rows),
    Format("a.jsonl.gz", lambda seed: gz(jsonl(_texts(seed))), checked=True),
    Format("a.txt.gz", lambda seed: gz("\n".join(_texts(seed)).encode()), checked=True),
    Format("a.csv.gz", lambda seed: gz(_csv(seed)), checked=True),
    Format("a.jsonl.zst", lambda seed: _zst(jsonl(_texts(seed)), True), checked=True),
    Format("b.jsonl.zst", lambda seed: _zst(jsonl(_texts(seed)), False), records=lambda _: 0),
    Format("a.jsonl.bz2", lambda seed: bz(jsonl(_texts(seed))), checked=True),
    Format("a.jsonl.xz", lambda seed: xz(jsonl(_texts(seed))), checked=True),
    Format("a.parquet", _table),
    Format("b.parquet", lambda seed: _table(seed, compression="none", use_dictionary=False)),
    Format("c.parquet", lambda seed: _table(seed, compression="zstd", write_page_index=True)),
    Format("a.tar", lambda seed: tar(_members(seed)), records=_headers),
    Format("a.tar.gz", lambda seed: gz(tar(_members(seed))), checked=True),
    Format("a-images-idx3-ubyte", _idx, "image"),
    Format("a-images-idx3-ubyte.gz", lambda seed: gz(_idx(seed)), "image", checked=True),
    Format("a.png", _picture("PNG"), "image", checked=True),
    Format("a.jpeg", _picture("JPEG", quality=90), "image"),
    Format("a.webp", _picture("WEBP", lossless=True), "image"),
    Format("a.gif", _picture("GIF"), "image"),
    Format("a.bmp", _picture("BMP"), "image"),
    Format("a.tiff", _picture("TIFF"), "image"),
    Format("a.avif", _picture("AVIF"), "image"),
    Format("a.ppm", _picture("PPM"), "image"),
    Format("a.wav", lambda seed: wav(pcm16(_speech(seed))), "audio"),
    Format("a.flac", _sound("FLAC"), "audio", checked=True),
    Format("a.ogg", _sound("OGG", "VORBIS"), "audio", checked=True),
    Format("a.opus", _stream("ogg", "libopus"), "audio", checked=True),
    Format("a.mp3", lambda seed: mp3(64, 0.4, xing=True, seed=seed), "audio"),
    Format("b.mp3", lambda seed: mp3(64, 0.4, seed=seed), "audio", states=False, records=_one),
    Format("a.m4a", _stream("ipod", "aac"), "audio"),
    Format("a.webm", _stream("webm", "libopus"), "audio"),
    Format("a.aiff", _sound("AIFF"), "audio"),
    Format("a.mp4", _film("mp4", "libx264"), "video"),
    Format("b.webm", _film("webm", "libvpx-vp9"), "video"),
    Format("a.mkv", _film("matroska", "ffv1", "bgr0", slicecrc="1"), "video"),
    Format("c.gif", _animation(".gif"), "video", states=False),
    Format("c.webp", _animation(".webp"), "video"),
]

RARE = [
    Format("a.tar.zst", lambda seed: _zst(tar(_members(seed)), True), checked=True),
    Format(
        "d.parquet", lambda seed: _table(seed, compression="gzip", data_page_version="2.0", write_page_checksum=True)
    ),
    Format(
        "e.parquet", lambda seed: _table(seed, compression="brotli", use_byte_stream_split=False, data_page_size=200)
    ),
    Format("b.jpeg", _picture("JPEG", quality=90, progressive=True), "image"),
    Format("b.png", lambda seed: saved(_photo(seed).convert("P"), "PNG", transparency=3), "image", checked=True),
    Format("b.webp", _picture("WEBP", quality=80), "image"),
    Format("b.tiff", _picture("TIFF", compression="tiff_lzw"), "image"),
    Format("c.tiff", _picture("TIFF", compression="tiff_adobe_deflate"), "image"),
    Format("b.gif", lambda seed: saved(_photo(seed), "GIF", save_all=True, append_images=[_photo(seed + 9)]), "image"),
    Format("b.wav", _sound("WAVEX", "FLOAT"), "audio"),
    Format("a.w64", _sound("W64", "PCM_24"), "audio"),
    Format("a.caf", _sound("CAF", "ALAC_16"), "audio"),
    Format("a.au", _sound("AU", "ULAW"), "audio"),
    Format("a.aac", _stream("adts", "aac"), "audio", states=False, records=_one),
    Format("a.mka", _stream("matroska", "flac"), "audio"),
    Format("b.mp4", _stream("mp4", "aac"), "audio"),
    Format("c.apng", _animation(".apng"), "video", checked=True),
    Format("a.avi", _film("avi", "mpeg4"), "video"),
    Format("a.ogv", _film("ogg", "libvpx"), "video", checked=True),
    Format("a.mov", _film("mov", "png", "rgb24"), "video"),
    Format("b.mkv", _film("matroska", "libx264"), "video"),
    Format("c.webm", _film("webm", "libvpx"), "video"),
    Format("c.mp4", _film("mp4", "libsvtav1", preset="12"), "video"),
    Format("d.mp4", _film("mp4", "libx265", **{"x265-params": "log-level=none"}), "video"),
]
"""What the fuzzer tries besides."""


@cache
def healthy(form: Format, seed: int) -> bytes:
    """A healthy file, made once."""
    return form.make(seed)


Damage = tuple[str, bytes]
"""What was done, and what came out."""


def damages(form: Format, count: int, seed: int = 0) -> Iterator[Damage]:
    """Yield ``count`` damaged files, the same on every run."""
    rng = random.Random(f"{form.name} {seed}")
    names = list(_DAMAGES)
    for number in range(count):
        name = names[number % len(names)]
        yield name, _DAMAGES[name](healthy(form, 0), healthy(form, 1 + rng.randrange(3)), rng)


def _cut(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice([rng.randrange(len(data)), len(data) - rng.randrange(1, min(40, len(data)))])]


def _flip(data: bytes, other: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    # Headers and ends are short, and most of what can go wrong is there.
    ranges = [(0, len(data)), (0, min(64, len(data))), (max(0, len(data) - 300), len(data))]
    for _ in range(rng.choice([1, 1, 3])):
        changed[rng.randrange(*rng.choice(ranges))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _zero(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    size = min(len(data) - start, rng.choice([4, 60, 600]))
    return data[:start] + bytes(size) + data[start + size :]


def _number(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A number at its limits, where the file may have one."""
    size = rng.choice([1, 2, 4, 4, 8])
    value = rng.choice([0, 1, (1 << 8 * size) - 1, 1 << (8 * size - 1), (1 << (8 * size - 1)) - 1])
    number = value.to_bytes(size, rng.choice(["little", "big"]))
    start = rng.choice([rng.randrange(len(data)), rng.randrange(min(80, len(data))), len(data) - rng.randrange(1, 60)])
    start = max(0, min(start, len(data) - size))
    return data[:start] + number + data[start + size :]


def _append(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data + rng.choice([rng.randbytes(rng.choice([1, 50, 700])), bytes(rng.choice([1, 512, 700])), other])


def _splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _reorder(data: bytes, other: bytes, rng: random.Random) -> bytes:
    size = max(1, min(rng.choice([16, 512]), len(data) // 3))
    first = rng.randrange(len(data) - 2 * size + 1)
    second = rng.randrange(first + size, len(data) - size + 1)
    middle = data[first + size : second]
    return data[:first] + data[second : second + size] + middle + data[first : first + size] + data[second + size :]


_DAMAGES: dict[str, Callable[[bytes, bytes, random.Random], bytes]] = {
    "cut": _cut,
    "flip": _flip,
    "zero": _zero,
    "number": _number,
    "append": _append,
    "splice": _splice,
    "reorder": _reorder,
}


@dataclass
class Seen:
    """What reading a folder gave of one of its files."""

    samples: Counter[str] = field(default_factory=Counter)
    """Digests of the samples."""
    values: int = 0
    """Characters, pixels or sound samples of all of them."""
    listed: int = 0
    """Samples that are known to be lost."""
    reasons: list[str] = field(default_factory=list)


def look(folder: Path, form: Format) -> Seen:
    """Read the files of a folder as a run does; what concerns the healthy neighbour is checked and left out.

    Raises:
        AssertionError: the healthy neighbour was not read in full.
        Exception: what a run would end with.
    """
    seen = Seen()
    options = ReadOptions(modalities=(form.modality,))
    spec = SPECS.get(form.modality)
    decode = None if spec is None else RowDecoder({form.modality: spec}, Shaping())
    files = find_sources([str(folder)], options)
    try:
        options = resolve_columns(files, options, ())
    except ValueError as error:
        # A first file that has other fields is refused by name.
        if form.name not in str(error):
            raise
        return Seen(listed=1, reasons=[f"refused: {error}"])
    neighbour = 0
    for unit in plan_units(files, options, UNIT_BYTES):
        for block in read_unit(unit, options):
            failures = list(block.failures)
            for key, content in zip(block.keys, block.contents[form.modality], strict=True):
                key, content = _plain(key), _plain(content)
                sample = content
                if decode is not None:
                    (decoded,) = decode(key, {form.modality: content})
                    if decoded.failure is not None:
                        failures.append(decoded.failure)
                        continue
                    sample = decoded.samples[form.modality]
                if key.startswith("z"):
                    neighbour += 1
                    continue
                raw = sample.encode() if isinstance(sample, str) else sample.numpy().tobytes()
                seen.samples[hashlib.sha1(raw).hexdigest()] += 1
                seen.values += len(sample) if isinstance(sample, str) else sample.shape[_LENGTH[form.modality]]
            for failure in failures:
                assert not failure.key.startswith("z"), f"the neighbour is listed: {failure.reason}"
                assert failure.reason
                assert failure.samples >= 1
                seen.listed += failure.samples
                seen.reasons.append(failure.reason)
    assert neighbour > 0, "the neighbour is lost"
    return seen


def _plain(value: Any) -> Any:
    return value.as_py() if hasattr(value, "as_py") else value


@cache
def _expected(form: Format) -> Seen:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), form)
        (Path(folder) / form.name).write_bytes(healthy(form, 0))
        seen = look(Path(folder), form)
    assert not seen.listed, f"a healthy {form.name} is listed: {seen.reasons}"
    assert seen.samples
    return seen


def prepare(folder: Path, form: Format) -> None:
    """Make a folder with nothing but the healthy neighbour."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / f"z{form.name}").write_bytes(healthy(form, 9))


def judge(folder: Path, form: Format, damage: Damage) -> tuple[str, str]:
    """Read a damaged file in a folder that was prepared; return ``whole``, ``listed`` or ``silent``, and what was said.

    Raises:
        Exception: what a run would end with.
    """
    name, data = damage
    expected = _expected(form)
    (folder / form.name).write_bytes(data)
    seen = look(folder, form)
    if seen.listed:
        return "listed", seen.reasons[0]
    count = sum(seen.samples.values())
    if data == healthy(form, 0):
        right = seen.samples == expected.samples
    elif any(data == healthy(form, number) for number in (1, 2, 3)):
        right = count == sum(expected.samples.values())  # spliced to a whole other file
    elif form.modality == "video" and not form.checked:
        # A damaged frame may be decoded to something, but it may not be left out.
        right = count >= 1 and (seen.values >= expected.values or not (form.states or name == "cut"))
    elif name == "append" and (form.checked or form.states):
        # What stands behind may be more of the same, for formats that can be joined.
        right = expected.samples <= seen.samples or seen.values >= expected.values
    elif form.checked or (form.states and name == "cut"):
        # The end of a sound may be decoded a little otherwise where the end of its file is missing; it may not be shorter.
        right = expected.samples <= seen.samples or (form.modality == "audio" and seen.values >= expected.values)
    else:
        right = count >= (form.records(data) if form.records else sum(expected.samples.values()))
    words = f"{count} samples, {seen.values} values of {sum(expected.samples.values())} and {expected.values}"
    return ("whole" if right else "silent"), words
