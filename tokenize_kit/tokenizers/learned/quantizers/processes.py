"""Sums and draws that are those of the joint batch when several processes train together; alone, they cost nothing.

The joint batch is that of process 0, then that of process 1, and so on.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def several() -> bool:
    """Whether more than one process trains."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def summed(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over the processes."""
    if several():
        for tensor in tensors:
            distributed.all_reduce(tensor)


def _rows_before_and_total(count: int, device: torch.device) -> tuple[int, int]:
    if not several():
        return 0, count
    counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=device)
    counts[distributed.get_rank()] = count
    summed(counts)
    return int(counts[: distributed.get_rank()].sum()), int(counts.sum())


def drawn_rows(rows: Tensor, count: int) -> Tensor:
    """Return rows of the joint batch drawn at random, the same in every process; none if it is empty.

    Args:
        rows: float ``(N, d)``, what this process has; N may differ.
        count: how many; at most that many different rows are returned, fewer if the joint batch has not as many.
    """
    before, total = _rows_before_and_total(len(rows), rows.device)
    # Only the draws of process 0 count, so they are those that one process with the joint batch would make.
    places = shared(torch.randperm(total, device=rows.device)[:count])
    mine = (places >= before) & (places < before + len(rows))
    drawn = rows.new_zeros(len(places), rows.shape[1])
    drawn[mine] = rows[places[mine] - before]
    summed(drawn)
    return drawn


def shared(draw: Tensor) -> Tensor:
    """Return process 0's tensor in every process; the shapes are equal."""
    if several():
        distributed.broadcast(draw, src=0)
    return draw


def mean_over_processes(total: Tensor, count: int) -> Tensor:
    """Return a sum over the rows of this process as the mean over the joint batch.

    The gradient is that of this process's own mean, so that averaging gradients over the processes (by their number of
    rows, as distributed training does) gives the gradient of the joint batch.
    """
    mean = total / count
    if not several():
        return mean
    everywhere = total.detach().clone()
    counts = torch.tensor(float(count), device=total.device)
    summed(everywhere, counts)
    return mean + (everywhere / counts - mean).detach()
