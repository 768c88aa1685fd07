"""The nearest code of each vector: exact, in float32, as fast as the matrix product it needs.

|x - c|^2 orders the codes as |c|^2 / 2 - x.c does, which is one matrix product with a bias. The rest is finding the lowest
of many numbers in a row, and that is what naive code spends its time on: all distances of a batch do not fit into a cache,
and an argmin looks at one number at a time. So this goes through the vectors in pieces whose distances stay in the cache,
and for large codebooks takes the minimum of each group of codes first, which vectorises, and looks into one group only.
Ties go to the lowest id.
"""

from __future__ import annotations

import torch
from torch import Tensor

_DISTANCES = 1 << 19
"""Distances that are held at a time (2 MiB), from timings of 256 to 16,384 codes."""
_FEWEST_ROWS = 8
"""Pieces are not shorter: a matrix product of very few rows takes another path and differs in the last bit."""
_GROUPS = 128
"""Groups of codes; a power of two of at least 64, so that the minimum over them vectorises."""
_GROUPED_FROM = 1024
"""Codebooks of this size on are searched by groups."""


@torch.no_grad()
def nearest_code(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the ids, int64 ``(N,)``, of the codes nearest to vectors in Euclidean distance.

    Args:
        vectors: float32 ``(N, d)``.
        codes: float32 ``(K, d)``.
    """
    return _search(vectors, codes, codes.square().sum(1) / 2)


@torch.no_grad()
def nearest_angle(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the ids, int64 ``(N,)``, of the codes with the smallest angle to vectors.

    Args:
        vectors: float32 ``(N, d)``, of any length.
        codes: float32 ``(K, d)``, of length 1.
    """
    return _search(vectors, codes, codes.new_zeros(len(codes)))


def _search(vectors: Tensor, codes: Tensor, bias: Tensor) -> Tensor:
    """Return for each vector the lowest id with the smallest ``bias - vector . code``."""
    assert vectors.dtype == codes.dtype == torch.float32
    assert codes.ndim == vectors.ndim == 2
    assert codes.shape[1] == vectors.shape[1]
    grouped = len(codes) >= _GROUPED_FROM
    if grouped:
        codes, bias = _interleaved(codes, bias)
    columns = codes.t().contiguous()
    ids = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    size = max(_FEWEST_ROWS, _DISTANCES // len(codes))
    # One piece of memory for all: fresh pages cost as much as the arithmetic.
    memory = vectors.new_empty(min(len(vectors), size + _FEWEST_ROWS), len(codes))
    for start, stop in _pieces(len(vectors), size):
        distances = torch.addmm(bias, vectors[start:stop], columns, alpha=-1, out=memory[: stop - start])
        ids[start:stop] = _lowest_by_groups(distances) if grouped else distances.argmin(1)
    return ids


def _pieces(count: int, size: int) -> list[tuple[int, int]]:
    """Divide ``count`` rows into pieces of ``size`` rows; the last takes on what would be too short a piece."""
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] < _FEWEST_ROWS:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def _interleaved(codes: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Order the codes so that code ``group * members + member`` is at place ``member * _GROUPS + group``."""
    members = -(-len(codes) // _GROUPS)
    missing = members * _GROUPS - len(codes)
    if missing:
        codes = torch.nn.functional.pad(codes, (0, 0, 0, missing))
        bias = torch.nn.functional.pad(bias, (0, missing), value=torch.inf)
    return (
        codes.view(_GROUPS, members, -1).transpose(0, 1).reshape(len(codes), -1),
        bias.view(_GROUPS, members).t().reshape(-1),
    )


def _lowest_by_groups(distances: Tensor) -> Tensor:
    # The first group with the minimum, and the first member of it, are the lowest id, as groups are runs of ids.
    rows, count = distances.shape
    members = count // _GROUPS
    table = distances.view(rows, members, _GROUPS)
    group = table.amin(1).argmin(1)
    inside = table.gather(2, group.view(rows, 1, 1).expand(rows, members, 1)).squeeze(2)
    return group * members + inside.argmin(1)
