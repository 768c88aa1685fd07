"""What several processes that train together have seen, for models that learn by counting; alone, it costs nothing."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def several() -> bool:
    """Whether more than one process trains."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def summed(counts: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes; the shapes are equal."""
    if several():
        counts = counts.clone()
        distributed.all_reduce(counts)
    return counts


def gathered(rows: Tensor) -> Tensor:
    """Return the rows (N, ...) of all processes, those of process 0 first; N may differ."""
    if not several():
        return rows
    counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=rows.device)
    counts[distributed.get_rank()] = len(rows)
    counts = summed(counts)
    ends = counts.cumsum(0)
    place = int(ends[distributed.get_rank()])
    joint = rows.new_zeros(int(ends[-1]), *rows.shape[1:])
    joint[place - len(rows) : place] = rows
    return summed(joint)
