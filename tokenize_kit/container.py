"""``.tkc``: one sample as a file of packed ids, for any tokenizer and modality.

    magic (8 bytes) | version (1) | header | crc32 of all before (4) | packed ids | sha256 of all before, its first 16 bytes

The header holds the tokenizer's fingerprint, the modality, sample rate and channels, the true size of the sample, the shape of
the grid and how many bits an id of each codebook takes; of a video (version 2) also the frame rate, as two numbers. The ids
follow in grid order, each in just these bits, the most significant first, so a file takes ids times bits and about 90 bytes.
Integers are little-endian; a varint has 7 bits a byte, the lowest first.

Samples of a kind that streams, such as sounds, can come and go in pieces (`compress_pieces`, `decompress_pieces`) in memory that
does not grow with their length. Only ids are held whole, because the header in front of them says how many there are: 600 ids a
second make 4 MB an hour.

In a file of version 3 the ids are not packed but coded: in their place is a part of so many bytes that a sequence model made and
only its coder can read (`CodedSample`, ``trainers.autoregressive.coding``). The header, the sums and all checks are the same.

    magic (8 bytes) | version (1) | header, bytes of the code | crc32 of all before (4) | code | sha256 of all before, 16 bytes

The bits are packed by NumPy, a row of ids of several widths at a time; with bitarray, id by id, it takes 67 times as long
for the same bytes (``benchmarks/libraries.py --only packing``).

A file that is foreign, of a newer version, cut short, longer than it says, altered, or of another tokenizer is refused with an
error that says which. What a header asks for is compared with what the file holds before memory is asked for: sums protect from
accidents, not from those who write them.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.errors import VerificationError
from tokenize_kit.files import atomic_write
from tokenize_kit.protocol import PieceTokenizer, TokenSpec, check_grid, decode_sized, first_codebooks, modality_of

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.protocol import Sample, Tokenizer

MAGIC = b"\x89TKC\r\n\x1a\n"
"""As in PNG: no text, and changed by whatever changes line ends."""

VERSION = 1
TIMED_VERSION = 2
"""That of files with a frame rate; all others stay as they were."""
CODED_VERSION = 3
"""That of files whose ids a model coded."""
MAX_WIDTH = 32
_NUMBERED = ("text", "image", "video", "audio")
"""Modalities that a header names by their place here; others are spelled out."""
_CHECKSUM_BYTES = 16
_CHUNK_BITS = 1 << 20
_STEPS_AT_ONCE = 1 << 10
_MAX_NUMBER = 1 << 62
_MAX_AXES = 8
_MAX_CODEBOOKS = 1 << 12
_MAX_NAME = 255
_MOST_PARTS = 1_000_000
"""The largest denominator of a frame rate."""
_FREE_IDS = 1 << 24
"""So many ids may take no bits at all, because there is only one that they can be."""
_FREE_CODED_IDS = 1 << 20
"""So many ids may be coded in any number of bytes, and in each byte so many more:"""
_CODED_IDS_A_BYTE = 1 << 13
_MAX_VALUES = 1 << 29
"""The most values of a sample that is decoded as a whole; no longer one can be read to be encoded."""


@dataclass(frozen=True)
class PackedSample:
    """What a file holds."""

    fingerprint: str
    """Of the tokenizer that made the ids."""
    modality: str
    """What the sample is."""
    sample_rate: int | None
    """Samples a second of a sound."""
    channels: int | None
    """Channels of a picture or sound."""
    size: tuple[int, ...]
    """True size of the sample without its channels, see `Modality.size`."""
    widths: tuple[int, ...]
    """Bits of an id of each codebook, 0 to 32; a single entry without codebooks."""
    ids: NDArray[np.integer[Any]]
    """The grid."""
    frame_rate: float | None = None
    """Frames a second of a video."""


@dataclass(frozen=True)
class CodedSample:
    """What a file holds whose ids a model coded."""

    fingerprint: str
    """As in `PackedSample`, and so are the next five."""
    modality: str
    sample_rate: int | None
    channels: int | None
    size: tuple[int, ...]
    widths: tuple[int, ...]
    shape: tuple[int, ...]
    """Shape of the grid."""
    code: bytes
    """What the model's coder made of the ids."""
    frame_rate: float | None = None
    """Frames a second of a video."""

    def packed(self, ids: NDArray[np.integer[Any]]) -> PackedSample:
        """Return the same with its ids."""
        head = (self.fingerprint, self.modality, self.sample_rate, self.channels, self.size, self.widths)
        return PackedSample(*head, ids, self.frame_rate)


def bit_width(vocab_size: int) -> int:
    """Return how many bits an id below ``vocab_size`` takes: 0 where there is only one."""
    return (vocab_size - 1).bit_length()


def pack_ids(ids: NDArray[np.integer[Any]], widths: Sequence[int]) -> bytes:
    """Pack rows of ids, the most significant bit of each first.

    Args:
        ids: integers (rows, columns).
        widths: bits of an id of each column, 0 to 32.

    Returns:
        rows times the sum of the widths bits, filled up with zeros to whole bytes.

    Raises:
        ValueError: a width is out of range, there is not one a column, or an id needs more bits.
    """
    _check_widths(ids.shape[1], widths)
    limits = np.array([1 << width for width in widths], np.int64)
    shifts, columns = _places(widths)
    parts = []
    for rows in _row_chunks(len(ids), len(shifts)):
        values = ids[rows].astype(np.int64)
        if (outside := (values < 0) | (values >= limits)).any():
            wrong = values[outside][0]
            raise ValueError(f"id {wrong} does not fit into the bits of its codebook ({', '.join(map(str, widths))})")
        bits = (values[:, columns] >> shifts) & 1
        parts.append(np.packbits(bits.astype(np.uint8)).tobytes())
    return b"".join(parts)


def unpack_ids(data: bytes, rows: int, widths: Sequence[int]) -> NDArray[np.int64]:
    """Return the ids (rows, columns) that `pack_ids` packed.

    Raises:
        ValueError: the data has another length, a width is out of range, or the bits that only fill up are not zero.
    """
    _check_widths(len(widths), widths)
    total = sum(widths)
    if len(data) != -(-rows * total // 8):
        raise ValueError(f"{len(data)} bytes are not {rows} rows of {total} bits")
    ids = np.zeros((rows, len(widths)), np.int64)
    if rows and total:
        packed = np.frombuffer(data, np.uint8)
        if (filling := len(data) * 8 - rows * total) and packed[-1] & ((1 << filling) - 1):
            raise ValueError("the bits that fill the last byte are not zero")
        starts = np.cumsum([0, *widths])
        for chunk in _row_chunks(rows, total):
            count = chunk.stop - chunk.start
            first = chunk.start * total // 8
            part = packed[first : first + -(-count * total // 8)]
            bits = np.unpackbits(part, count=count * total).reshape(count, total)
            for column, (low, high) in enumerate(pairwise(starts)):
                for place in range(low, high):
                    ids[chunk, column] = (ids[chunk, column] << 1) | bits[:, place]
    return ids


def compress(tokenizer: Tokenizer, sample: Sample, path: str | os.PathLike[str], codebooks: int | None = None) -> int:
    """Encode one sample into a ``.tkc`` file, whole or not at all, and return its bytes.

    Args:
        tokenizer: of any modality.
        sample: as its spec asks for.
        path: the file.
        codebooks: keep only the first so many codebooks of each step, for a lower rate.

    Raises:
        TypeError, ValueError: the tokenizer refuses the sample, or has no such codebooks.
    """
    return write(packed_sample(tokenizer, sample, codebooks), path)


def packed_sample(tokenizer: Tokenizer, sample: Sample, codebooks: int | None = None) -> PackedSample:
    """Encode one sample; see `compress`.

    Raises:
        TypeError, ValueError: as `compress`.
    """
    ids = _kept(tokenizer.encode(sample), tokenizer.spec, codebooks).numpy()
    return _packed(tokenizer, ids, modality_of(tokenizer.spec).size(sample))


def compress_pieces(
    tokenizer: Tokenizer, pieces: Iterable[Tensor], path: str | os.PathLike[str], codebooks: int | None = None
) -> tuple[int, tuple[int, ...]]:
    """Do the same with a sample that comes in pieces; the file has the same bytes as that of the whole.

    Args:
        tokenizer: a `PieceTokenizer`, see `takes_pieces`.
        pieces: those of the sample, such as (C, n) of a sound.
        path: the file.
        codebooks: keep only the first so many codebooks of each step, for a lower rate.

    Returns:
        The bytes of the file and the size of the sample.

    Raises:
        TypeError, ValueError: the tokenizer takes no pieces or refuses one, or has no such codebooks.
    """
    packed = packed_pieces(tokenizer, pieces, codebooks)
    return write(packed, path), packed.size


def packed_pieces(tokenizer: Tokenizer, pieces: Iterable[Tensor], codebooks: int | None = None) -> PackedSample:
    """Encode a sample that comes in pieces; see `compress_pieces`.

    Raises:
        TypeError, ValueError: as `compress_pieces`.
    """
    modality, sizes = modality_of(tokenizer.spec), []

    def counted() -> Iterator[Tensor]:
        for piece in pieces:
            sizes.append(modality.size(piece))
            yield piece

    kind = np.min_scalar_type(tokenizer.spec.max_vocab_size - 1)
    grids = _in_pieces(tokenizer).encode_pieces(counted())
    parts = [_kept(ids, tokenizer.spec, codebooks).numpy().astype(kind) for ids in grids]
    return _packed(tokenizer, np.concatenate(parts), modality.joined_size(sizes))


def decompress(tokenizer: Tokenizer, path: str | os.PathLike[str]) -> Sample:
    """Decode a ``.tkc`` file to a sample of its true size.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no ``.tkc`` file, or one of a newer version.
        VerificationError: it is cut short or altered, another tokenizer made it, or it is larger than any sample.
    """
    return unpacked_sample(tokenizer, _read(path), path)


def unpacked_sample(tokenizer: Tokenizer, packed: PackedSample, path: str | os.PathLike[str]) -> Sample:
    """Decode what a file holds to a sample of its true size; ``path`` is how errors call the file.

    Raises:
        VerificationError: as `decompress`.
    """
    import torch

    _check(tokenizer, packed, path, whole=True)
    return decode_sized(tokenizer, [torch.from_numpy(packed.ids)], [packed.size])[0]


def decompress_pieces(tokenizer: Tokenizer, path: str | os.PathLike[str]) -> Iterator[Tensor]:
    """Decode a ``.tkc`` file in pieces, such as (C, n) of a sound; joined, they are what `decompress` gives.

    The file is read and checked by the call itself, before the first piece is asked for.

    Args:
        tokenizer: a `PieceTokenizer`, see `takes_pieces`.
        path: the file.

    Raises:
        FileNotFoundError, ValueError, VerificationError: as `decompress`.
        TypeError: the tokenizer takes no pieces.
    """
    _in_pieces(tokenizer)
    return unpacked_pieces(tokenizer, _read(path), path)


def unpacked_pieces(tokenizer: Tokenizer, packed: PackedSample, path: str | os.PathLike[str]) -> Iterator[Tensor]:
    """Decode what a file holds in pieces; ``path`` is how errors call the file.

    Raises:
        TypeError, VerificationError: as `decompress_pieces`.
    """
    import torch

    codec = _in_pieces(tokenizer)
    _check(tokenizer, packed, path, whole=False)
    length = packed.size[0] if tokenizer.spec.size_axes else None
    pieces = codec.decode_pieces(torch.split(torch.from_numpy(packed.ids), _STEPS_AT_ONCE), length)
    sides, kind = packed.size[1:], modality_of(tokenizer.spec)
    # Pieces are cut along their own axis only.
    if not sides:
        return pieces
    return (cast("Tensor", kind.crop(piece, (kind.size(piece)[0], *sides))) for piece in pieces)


def takes_pieces(tokenizer: Tokenizer) -> bool:
    """Whether samples can be compressed and decompressed piece by piece."""
    return modality_of(tokenizer.spec).streams and isinstance(tokenizer, PieceTokenizer)


def widths_of(spec: TokenSpec, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the bits of an id of each codebook of a grid of ``shape``."""
    sizes = spec.codebook_sizes
    if spec.axes[-1] != "codebook":
        return (bit_width(sizes[0]),)
    return tuple(bit_width(sizes[min(number, len(sizes) - 1)]) for number in range(shape[-1]))


def write(packed: PackedSample | CodedSample, path: str | os.PathLike[str]) -> int:
    """Write a ``.tkc`` file, whole or not at all, and return its bytes.

    Raises:
        ValueError: the ids do not fit their widths, or are too many for so few bytes.
    """
    data = to_bytes(packed)
    with atomic_write(path) as file:
        file.write(data)
    return len(data)


def to_bytes(packed: PackedSample | CodedSample) -> bytes:
    """Return the bytes of a ``.tkc`` file.

    Raises:
        ValueError: the ids do not fit their widths, or are too many for so few bytes.
    """
    widths, coded = packed.widths, isinstance(packed, CodedSample)
    shape = packed.shape if isinstance(packed, CodedSample) else packed.ids.shape
    numbers = [
        *_modality_numbers(packed.modality),
        packed.sample_rate or 0,
        packed.channels or 0,
        *(len(packed.size), *packed.size),
        *(len(shape), *shape),
        *(len(widths), *widths),
    ]
    version = CODED_VERSION if coded else VERSION
    if packed.frame_rate is not None:
        version = CODED_VERSION if coded else TIMED_VERSION
        numbers += Fraction(packed.frame_rate).limit_denominator(_MOST_PARTS).as_integer_ratio()
    elif coded:
        numbers += (0, 1)
    if isinstance(packed, CodedSample):
        numbers.append(len(packed.code))
    body = bytes.fromhex(packed.fingerprint) + b"".join(map(varint, numbers))
    head = MAGIC + bytes([version]) + body
    head += struct.pack("<I", zlib.crc32(head))
    data = head + (
        packed.code if isinstance(packed, CodedSample) else pack_ids(packed.ids.reshape(-1, len(widths)), widths)
    )
    if (count := prod(shape)) > (most := _most_ids(len(data) + _CHECKSUM_BYTES, coded)):
        raise ValueError(f"a file of {len(data):,} bytes holds {most:,} ids at most, and these are {count:,}")
    return data + hashlib.sha256(data).digest()[:_CHECKSUM_BYTES]


def from_file(path: str | os.PathLike[str]) -> PackedSample | CodedSample:
    """Read a ``.tkc`` file; one that does not begin as such a file is not read any further.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError, VerificationError: as `from_bytes`.
    """
    with Path(path).open("rb") as file:
        data = file.read(len(MAGIC))
        if data == MAGIC:
            data += file.read()
    return from_bytes(data, str(path))


def from_bytes(data: bytes, name: str = "the file") -> PackedSample | CodedSample:
    """Read the bytes of a ``.tkc`` file; ``name`` is how errors call it.

    Raises:
        ValueError: they are no ``.tkc`` file, or one of a newer version.
        VerificationError: they are cut short, altered, or go on after the end.
    """
    if not data.startswith(MAGIC):
        if MAGIC.startswith(data):
            raise VerificationError(f"{name} is cut short: it has {len(data)} bytes")
        raise ValueError(f"{name} is not a .tkc file; 'tokenize-kit compress' makes them")
    if len(data) > len(MAGIC) and data[len(MAGIC)] not in (VERSION, TIMED_VERSION, CODED_VERSION):
        known = f"{VERSION}, {TIMED_VERSION} and {CODED_VERSION}"
        raise ValueError(f"{name} is of version {data[len(MAGIC)]}, this tokenize-kit reads {known}; upgrade it")
    reader = HeaderReader(data, len(MAGIC) + 1, name)
    fingerprint = reader.take(32).hex()
    modality = _modality_name(reader)
    sample_rate, channels = reader.number(), reader.number()
    size, shape, widths = reader.numbers(_MAX_AXES), reader.numbers(_MAX_AXES), reader.numbers(_MAX_CODEBOOKS)
    version = data[len(MAGIC)]
    frames, seconds = (reader.number(), reader.number()) if version != VERSION else (0, 1)
    coded = version == CODED_VERSION
    code = reader.number() if coded else 0
    end = reader.place
    (crc,) = struct.unpack("<I", reader.take(4))
    rows, odd = divmod(prod(shape), len(widths)) if widths else (0, 1)
    if (
        crc != zlib.crc32(data[:end])
        or not modality
        or odd
        or not shape
        or max(widths) > MAX_WIDTH
        or not seconds
        or (version == TIMED_VERSION and not frames)
        or (len(widths) > 1 and shape[-1] != len(widths))
        # Axes of no length must not hide others that no file could hold.
        or prod(max(1, length) for length in shape) > _most_ids(len(data), coded)
    ):
        raise VerificationError(f"{name} is damaged: its header was altered")
    length = reader.place + (code if coded else -(-rows * sum(widths) // 8)) + _CHECKSUM_BYTES
    if len(data) < length:
        raise VerificationError(f"{name} is cut short: it has {len(data):,} of {length:,} bytes")
    if len(data) > length:
        raise VerificationError(f"{name} is damaged: {len(data) - length:,} bytes follow after its end")
    content, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if hashlib.sha256(content).digest()[:_CHECKSUM_BYTES] != checksum:
        raise VerificationError(f"{name} is damaged: its content was altered (the checksum differs)")
    frame_rate = frames / seconds if frames else None
    head = (fingerprint, modality, sample_rate or None, channels or None, size, widths)
    if coded:
        return CodedSample(*head, shape, content[reader.place :], frame_rate)
    return PackedSample(*head, unpack_ids(content[reader.place :], rows, widths).reshape(shape), frame_rate)


def _modality_numbers(name: str) -> list[int]:
    if name in _NUMBERED:
        return [_NUMBERED.index(name)]
    return [len(_NUMBERED), len(name.encode()), *name.encode()]


def _modality_name(reader: HeaderReader) -> str:
    """Return the modality that a header names; empty where it was altered."""
    number = reader.number()
    if number < len(_NUMBERED):
        return _NUMBERED[number]
    spelled = reader.numbers(_MAX_NAME) if number == len(_NUMBERED) else ()
    return bytes(min(letter, 255) for letter in spelled).decode(errors="ignore")


def _in_pieces(tokenizer: Tokenizer) -> PieceTokenizer:
    if not takes_pieces(tokenizer):
        raise TypeError(f"{type(tokenizer).__name__} does not take samples in pieces; use compress and decompress")
    assert isinstance(tokenizer, PieceTokenizer)
    return tokenizer


def _kept(ids: Tensor, spec: TokenSpec, codebooks: int | None) -> Tensor:
    """Return the grid with the codebooks that are kept."""
    if codebooks is None:
        return ids
    try:
        spec.first_codebooks(codebooks)
        return first_codebooks(ids, codebooks)
    except ValueError:
        known = f"1 to {ids.shape[-1]}" if spec.axes[-1] == "codebook" else "it has a single one"
        raise ValueError(f"--codebooks {codebooks} is not what the tokenizer has ({known})") from None


def _packed(tokenizer: Tokenizer, ids: NDArray[np.integer[Any]], size: tuple[int, ...]) -> PackedSample:
    spec = tokenizer.spec
    widths = widths_of(spec, ids.shape)
    return PackedSample(
        tokenizer.fingerprint, spec.modality, spec.sample_rate, spec.channels, size, widths, ids, spec.frame_rate
    )


def _read(path: str | os.PathLike[str]) -> PackedSample:
    found = from_file(path)
    if isinstance(found, CodedSample):
        raise VerificationError(
            f"{path} was coded by a model, and a tokenizer alone cannot read it; give the model ('decompress --model'), or ask "
            "'inspect' which one it was"
        )
    return found


def _check(tokenizer: Tokenizer, packed: PackedSample, path: str | os.PathLike[str], whole: bool) -> None:
    """Refuse what no sample of the tokenizer can be.

    Raises:
        VerificationError: another tokenizer made it, its ids are none of this one, or it is larger than any sample.
    """
    import torch

    check_maker(tokenizer, packed, path)
    spec = tokenizer.spec
    try:
        check_grid(torch.from_numpy(packed.ids), spec)
    except ValueError as error:
        raise VerificationError(f"{path} is damaged: {error}") from None
    covered = prod(length * (step or 1) for length, step in zip(packed.ids.shape, spec.step, strict=True))
    if "channel" not in spec.axes:
        covered *= spec.channels or 1
    if whole and covered > _MAX_VALUES:
        raise VerificationError(
            f"{path} is damaged: its grid {packed.ids.shape} covers more than {_MAX_VALUES:,} values"
        )


def check_maker(tokenizer: Tokenizer, packed: PackedSample | CodedSample, path: str | os.PathLike[str]) -> None:
    """Refuse what another tokenizer made; ``path`` is how errors call the file.

    Raises:
        VerificationError: it did, or the size is none of its samples.
    """
    if packed.fingerprint != tokenizer.fingerprint:
        raise VerificationError(
            f"{path} was made by another tokenizer: {packed.fingerprint[:12]}, this one is {tokenizer.fingerprint[:12]}; "
            "give the one that made it"
        )
    if tokenizer.spec.size_axes not in (0, len(packed.size)):
        raise VerificationError(f"{path} is damaged: its size {packed.size} is not that of {packed.modality}")


class HeaderReader:
    """Takes a header apart.

    Args:
        data: the whole file.
        place: where to begin.
        name: how errors call the file.
    """

    def __init__(self, data: bytes, place: int, name: str) -> None:
        self._data, self.place, self._name = data, place, name

    def take(self, count: int) -> bytes:
        """Return the next bytes.

        Raises:
            VerificationError: there are fewer.
        """
        part = self._data[self.place : self.place + count]
        self.place += count
        if len(part) < count:
            raise VerificationError(f"{self._name} is cut short inside its header, or that was altered")
        return part

    def number(self, most: int = _MAX_NUMBER) -> int:
        """Return the next varint.

        Raises:
            VerificationError: there is none, or one above ``most``.
        """
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 62:
                raise VerificationError(f"{self._name} is damaged: its header was altered")
        if value > most:
            raise VerificationError(f"{self._name} is damaged: its header was altered")
        return value

    def numbers(self, most: int) -> tuple[int, ...]:
        """Return as many varints as the first one says, ``most`` at most.

        Raises:
            VerificationError: see `number`.
        """
        return tuple(self.number() for _ in range(self.number(most)))


def _most_ids(size: int, coded: bool) -> int:
    """Return how many ids a file of so many bytes may say that it holds: one a bit, or a number that costs little.

    A model that is sure of what comes needs far less than a bit.
    """
    return _FREE_CODED_IDS + _CODED_IDS_A_BYTE * size if coded else max(8 * size, _FREE_IDS)


def varint(value: int) -> bytes:
    """Return a number, 0 or more, in 7 bits a byte, the lowest first."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _check_widths(columns: int, widths: Sequence[int]) -> None:
    if len(widths) != columns or not widths or any(not 0 <= width <= MAX_WIDTH for width in widths):
        raise ValueError(f"widths {tuple(widths)} must be one of 0 to {MAX_WIDTH} for each of {columns} columns")


def _places(widths: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each bit of a row by how much its id is shifted, and its column."""
    shifts = [place for width in widths for place in range(width - 1, -1, -1)]
    columns = np.repeat(np.arange(len(widths)), widths)
    return np.array(shifts, np.int64), cast("NDArray[np.int64]", columns)


def _row_chunks(rows: int, total: int) -> list[slice]:
    """Divide rows of ``total`` bits so that each chunk begins at a whole byte and the memory is bounded."""
    step = max(8, _CHUNK_BITS // max(1, total) // 8 * 8)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
