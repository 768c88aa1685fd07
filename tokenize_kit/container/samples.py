"""One sample to a ``.tkc`` file and back, whole or in pieces, with any tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.container.format import CodedSample, PackedSample, from_file, widths_of, write
from tokenize_kit.errors import VerificationError
from tokenize_kit.protocol import PieceTokenizer, TokenSpec, check_grid, decode_sized, first_codebooks, modality_of

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.protocol import Sample, Tokenizer

_STEPS_AT_ONCE = 1 << 10
_MAX_VALUES = 1 << 29
"""The most values of a sample that is decoded as a whole; no longer one can be read to be encoded."""


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
