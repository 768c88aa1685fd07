"""Compressed files: all of them or a word about the rest, however written, and memory that does not grow with a bomb."""

import bz2
import gzip
import io
import lzma
import random
import subprocess
import sys

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.files import zst_flushed, zst_long

from tokenize_kit.compressed import unpacked
from tokenize_kit.errors import DamagedFileError
from tokenize_kit.opening import read_exactly, read_into


def zst(data):
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)


COMPRESS = {"gz": gzip.compress, "zst": zst, "bz2": bz2.compress, "xz": lzma.compress}
KINDS = list(COMPRESS)


def text(size, seed=0):
    rng = random.Random(seed)
    words = [rng.randbytes(6).hex().encode() for _ in range(500)]
    return b" ".join(rng.choice(words) for _ in range(size // 13))


BODY = text(400_000)
PACKED = {kind: compress(BODY) for kind, compress in COMPRESS.items()}


def read(data, kind, size=70_000):
    """What comes out in reads of ``size`` bytes, and what is said in the end."""
    file, parts = unpacked(io.BytesIO(data), kind), []
    try:
        while part := file.read(size):
            parts.append(part)
    except DamagedFileError as error:
        with pytest.raises(DamagedFileError):
            file.read(1)
        return b"".join(parts), str(error)
    return b"".join(parts), ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1000, 131_072, 1 << 20, 1 << 24, -1])
def test_a_whole_file_comes_out_whatever_is_asked_for(kind, size):
    assert read(PACKED[kind], kind, size) == (BODY, "")


@pytest.mark.parametrize("kind", KINDS)
def test_all_streams_of_a_file_are_read_and_zeros_behind_them_are_not_minded(kind):
    compress = COMPRESS[kind]
    many = b"".join(compress(b"line %d\n" % number) for number in range(50))
    assert read(PACKED[kind] + compress(b"") + many, kind) == (BODY + b"".join(b"line %d\n" % n for n in range(50)), "")
    assert read(PACKED[kind] + bytes(1003), kind) == (BODY, "")
    assert read(PACKED[kind] + bytes(512) + compress(b"more"), kind) == (BODY + b"more", "")


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_data_is_said(kind):
    for tail in (b"garbage", bytes(100) + b"x", b"\n"):
        data, said = read(PACKED[kind] + tail, kind)
        assert data == BODY
        assert "followed by something else" in said or "ends inside" in said


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_anywhere_is_said(kind):
    packed = PACKED[kind]
    for cut in [*range(30), len(packed) // 3, len(packed) - 30, *range(len(packed) - 12, len(packed))]:
        data, said = read(packed[:cut], kind)
        assert BODY.startswith(data)
        assert said, cut
    assert "empty" in read(b"", kind)[1]
    assert read(b"this was never compressed", kind)[1]
    if kind != "bz2":  # whose blocks are larger
        assert len(read(packed[: len(packed) * 3 // 4], kind)[0]) > len(BODY) // 4


def test_a_zst_cut_at_a_flush_or_between_blocks_is_said():
    parts = zst_flushed([b"one\n" * 50, b"two\n" * 50, b"three\n" * 50])
    assert read(b"".join(parts), "zst") == (b"one\n" * 50 + b"two\n" * 50 + b"three\n" * 50, "")
    assert read(b"".join(parts[:2]), "zst") == (b"one\n" * 50 + b"two\n" * 50, "it ends inside its zst data")
    # Every byte of a file of several frames, of which only the ends of frames are ends.
    frames = [zst(b"a" * 300), zst(text(300)), zstandard.ZstdCompressor().compress(b"")]
    whole = {0, *(len(b"".join(frames[: n + 1])) for n in range(3))}
    said = {cut for cut in range(len(b"".join(frames))) if not read(b"".join(frames)[:cut], "zst")[1]}
    assert said == whole - {0, len(b"".join(frames))}


def test_skippable_frames_of_a_zst_are_skipped():
    skippable = b"\x5f\x2a\x4d\x18" + (300_000).to_bytes(4, "little") + bytes(300_000)
    assert read(skippable + zst(b"one") + skippable + zst(b"two") + skippable, "zst") == (b"onetwo", "")
    assert read(skippable + zst(b"one") + skippable[:-1], "zst") == (b"one", "it ends inside its zst data")


@pytest.mark.parametrize("window", [20, 28, 30, 31])
def test_a_zst_with_any_legal_window_is_read(window):
    assert read(zst_long(BODY, window), "zst") == (BODY, "")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_is_never_silent(kind, data):
    """Cut, overwritten with zeros, spliced: what comes out is whole, or something is said. All but gz check as they go."""
    body = text(3000, 1)
    packed = COMPRESS[kind](body)
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(packed))] * 2)))
    how = data.draw(st.sampled_from(["cut", "zeros", "out", "flip"]))
    middle = {
        "cut": b"",
        "out": b"",
        "zeros": bytes(second - first),
        "flip": bytes(b ^ 64 for b in packed[first:second]),
    }
    damaged = packed[:first] + middle[how] + (b"" if how == "cut" else packed[second:])
    out, said = read(damaged, kind)
    assert said or out == body


def test_reading_goes_up_to_damage_and_no_further():
    file = unpacked(io.BytesIO(gzip.compress(BODY)[:-4]), "gz")
    with memoryview(bytearray(len(BODY) + 10)) as view:
        assert read_into(file, view) == len(BODY)
        with pytest.raises(DamagedFileError):
            read_into(file, view)
    file = unpacked(io.BytesIO(gzip.compress(BODY)[:-4]), "gz")
    assert read_exactly(file, 100) == BODY[:100]
    assert file.seek(300_000) == file.tell() == 300_000
    with pytest.raises(io.UnsupportedOperation):
        file.seek(5)
    with pytest.raises(DamagedFileError):
        read_exactly(file, len(BODY))


BOMBS = """
import bz2, gzip, io, lzma, re, sys, zlib
from pathlib import Path
import zstandard
from tokenize_kit.compressed import unpacked
from tokenize_kit.errors import DamagedFileError

def peak():
    return int(re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10

def run(data, kind):
    before, size, said, file = peak(), 0, "", unpacked(io.BytesIO(data), kind)
    try:
        while part := file.read(1 << 20):
            size += len(part)
    except DamagedFileError as error:
        said = str(error)
    print(kind, size >> 20, peak() - before, said)

zeros = bytes(16 << 20)
preset = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
run(bz2.compress(zeros), "bz2")
run(lzma.compress(zeros, filters=preset), "xz")
run(gzip.compress(zeros), "gz")
# A block of one byte, 128 KiB of it, takes four bytes.
block = (1 << 17 << 3 | 2).to_bytes(3, "little") + b"a"
header = lambda window: bytes([0x28, 0xb5, 0x2f, 0xfd, 0, (window - 10) << 3])
run(header(17) + block * 4096 + (1).to_bytes(3, "little"), "zst")
# The header of an xz block: size, flags, filter, size of its properties, dictionary (40 is 4 GiB); its CRC32 is the end.
packed = bytearray(lzma.compress(b"x" * 1000, check=lzma.CHECK_NONE, filters=preset))
packed[16], end = 40, 12 + (packed[12] + 1) * 4
packed[end - 4 : end] = zlib.crc32(packed[12 : end - 4]).to_bytes(4, "little")
run(bytes(packed), "xz")
# A window of 2 GiB that is filled with nothing.
run(header(31) + block * 16384 + (1).to_bytes(3, "little"), "zst")
"""


def test_memory_does_not_grow_with_what_a_file_expands_to():
    done = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, check=True)
    rows = [line.split(" ", 3) for line in done.stdout.splitlines()]
    sizes = [(kind, int(size)) for kind, size, *_ in rows]
    assert sizes[:5] == [("bz2", 16), ("xz", 16), ("gz", 16), ("zst", 512), ("xz", 0)]
    assert all(int(grown) < 20 for _, _, grown, _ in rows[:5]), rows
    assert "asks for more than 768 MiB of memory" in rows[4][3]
    assert "asks for 2048 MiB of memory and expands more than 1000 times" in rows[5][3]
    assert int(rows[5][2]) < 600
