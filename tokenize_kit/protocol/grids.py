"""Helpers with which tokenizers, and those who call them, keep the promises about grids and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenize_kit.protocol.modality import modality_of
from tokenize_kit.protocol.spec import TokenSpec
from tokenize_kit.protocol.tokenizer import SizedTokenizer, Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.protocol.spec import Sample


def first_codebooks(grid: Tensor, count: int) -> Tensor:
    """Return a grid ``(..., codebooks)`` with its first ``count`` codebooks.

    Raises:
        ValueError: it has fewer.
    """
    if grid.shape[-1] < count:
        raise ValueError(f"a grid has {grid.shape[-1]} codebooks, fewer than --codebooks {count}; use {grid.shape[-1]}")
    return grid[..., :count]


def decode_sized(tokenizer: Tokenizer, grids: Sequence[Tensor], sizes: Sequence[tuple[int, ...]]) -> list[Sample]:
    """Decode grids to samples of their true sizes, whether the tokenizer knows of sizes (`SizedTokenizer`) or not.

    Args:
        tokenizer: any; what covers more than the sample and is no `SizedTokenizer` is cut here.
        grids: of mixed sizes.
        sizes: as `Modality.size` gave them; not looked at where grids cover no more than the sample (`TokenSpec.size_axes` 0).

    Raises:
        ValueError: as `Tokenizer.decode`, or a size that a grid does not cover.
    """
    if not tokenizer.spec.size_axes:
        return tokenizer.decode_batch(grids)
    if isinstance(tokenizer, SizedTokenizer):
        return tokenizer.decode_sized(grids, sizes)
    kind = modality_of(tokenizer.spec)
    return [kind.crop(sample, size) for sample, size in zip(tokenizer.decode_batch(grids), sizes, strict=True)]


def decode_like(tokenizer: Tokenizer, grids: Sequence[Tensor], samples: Sequence[Sample]) -> list[Sample]:
    """Decode the grids of ``samples`` back to samples of the same sizes; see `decode_sized`."""
    kind = modality_of(tokenizer.spec)
    return decode_sized(tokenizer, grids, [kind.size(sample) for sample in samples])


def check_grid(ids: Tensor, spec: TokenSpec) -> Tensor:
    """Return `check_ids` of a grid that is not empty, where samples of that kind cannot be.

    Raises:
        TypeError, ValueError: as `check_ids`, or it is empty.
    """
    import torch

    if isinstance(ids, torch.Tensor) and ids.numel() == 0 and not (kind := modality_of(spec)).may_be_empty:
        raise ValueError(f"an id grid of shape {tuple(ids.shape)} is empty; {kind.least}")
    return check_ids(ids, spec)


def check_ids(ids: Tensor, spec: TokenSpec) -> Tensor:
    """Return an id grid as int64 on the CPU after checking it against ``spec``; every ``decode`` calls it or `check_grid` first.

    Raises:
        TypeError: the grid is not an integer tensor.
        ValueError: it has the wrong number of axes, or an id outside the vocabulary; the message names the first.
    """
    import torch

    if not isinstance(ids, torch.Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        kind = ids.dtype if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise TypeError(f"an id grid is an integer tensor, got {kind}")
    if ids.ndim != len(spec.axes):
        raise ValueError(f"an id grid of shape {tuple(ids.shape)} has {ids.ndim} axes, expected {spec.axes}")
    ids = ids.to("cpu", torch.int64)
    if isinstance(spec.vocab_size, tuple):
        # A codebook tokenizer decodes from its first n codebooks, so fewer than all are fine.
        if ids.shape[-1] > len(spec.vocab_size):
            raise ValueError(f"the id grid has {ids.shape[-1]} codebooks, the tokenizer has {len(spec.vocab_size)}")
        limit = torch.tensor(spec.vocab_size[: ids.shape[-1]])
    else:
        limit = torch.tensor(spec.vocab_size)
    wrong = (ids < 0) | (ids >= limit)
    if wrong.any():
        first = int(ids[wrong][0])
        raise ValueError(f"id {first} is outside the vocabulary of {spec.vocab_size}; the ids are of another tokenizer")
    return ids
