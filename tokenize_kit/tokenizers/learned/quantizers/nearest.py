"""The nearest code of each vector: exact, in float32, as fast as the matrix product it needs.

|x - c|^2 orders the codes as |c|^2 / 2 - x.c does, which is one matrix product with a bias. The rest is finding the lowest
of many numbers in a row, and that is what naive code spends its time on: all distances of a batch do not fit into a cache,
and torch's argmin looks at one number at a time on a CPU. So this goes through the vectors in pieces whose distances stay
in the cache, and takes the argmin of NumPy, which compares 16 numbers at a time. Ties go to the lowest id. The same search
by vector-quantize-pytorch takes 2.8 to 33 times as long for the same ids (``benchmarks/nearest_code.py``), by torch.cdist
and argmin 6.6 times (``benchmarks/libraries.py --only search``).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

_DISTANCES = 1 << 19
"""Distances that are held at a time (2 MiB), from timings of 256 to 16,384 codes."""
_FEWEST_ROWS = 8
"""Pieces are not shorter: a matrix product of very few rows takes another path and differs in the last bit."""


@torch.no_grad()
def nearest_code(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the ids, int64 ``(N,)``, of the codes nearest to vectors in Euclidean distance.

    Args:
        vectors: float32 ``(N, d)``.
        codes: float32 ``(K, d)``.
    """
    return _search(vectors, codes, codes.square().sum(1) / -2)


@torch.no_grad()
def nearest_angle(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the ids, int64 ``(N,)``, of the codes with the smallest angle to vectors.

    Args:
        vectors: float32 ``(N, d)``, of any length.
        codes: float32 ``(K, d)``, of length 1.
    """
    return _search(vectors, codes, None)


@torch.no_grad()
def highest(table: Tensor) -> Tensor:
    """Return the place of the largest number in each row of ``(N, K)``, int64 ``(N,)``; the first one of equals."""
    table = table.detach()
    if table.device.type != "cpu":
        return table.argmax(1)
    return torch.from_numpy(table.numpy().argmax(1))


def _search(vectors: Tensor, codes: Tensor, bias: Tensor | None) -> Tensor:
    """Return for each vector the lowest id with the largest ``vector . code + bias``."""
    vectors, codes = vectors.detach(), codes.detach()
    assert vectors.dtype == codes.dtype == torch.float32
    assert codes.ndim == vectors.ndim == 2
    assert codes.shape[1] == vectors.shape[1]
    columns = codes.t().contiguous()
    ids = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    size = max(_FEWEST_ROWS, _DISTANCES // len(codes))
    # One piece of memory for all: fresh pages cost as much as the arithmetic.
    memory = vectors.new_empty(min(len(vectors), size + _FEWEST_ROWS), len(codes))
    for start, stop in _pieces(len(vectors), size):
        likeness = memory[: stop - start]
        if bias is None:
            torch.mm(vectors[start:stop], columns, out=likeness)
        else:
            torch.addmm(bias, vectors[start:stop], columns, out=likeness)
        ids[start:stop] = highest(likeness)
    return ids


def _pieces(count: int, size: int) -> list[tuple[int, int]]:
    """Divide ``count`` rows into pieces of ``size`` rows; the last takes on what would be too short a piece."""
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] < _FEWEST_ROWS:
        starts.pop()
    return list(pairwise([*starts, count]))
