"""The places whose labels count: what lies behind the last attention is computed for them alone.

A condition, padding and structure have no loss, so of their places nothing is needed after the last keys and values: not the last
feed-forward layer, not the last norm, and not the logits. In `text -> image` beside `image -> text` they are two fifths of all.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = 16
"""How many numbers of places there are for rows of one shape, so that few of them are compiled."""


def counted_places(weights: Tensor | None) -> Tensor | None:
    """Return which places are enough for a loss, int64 (N,) into the flat (B * T,), ascending; None where it is nearly all.

    Some that do not count are among them, so that N is a multiple of a sixteenth of all.

    Args:
        weights: float (B, T), how much each place counts; None means that all do. On a GPU, where to count them would be to wait
            for it, all places are taken.
    """
    if weights is None or weights.device.type != "cpu":
        return None
    idle = weights.reshape(-1) == 0
    total = idle.numel()
    step = -(-total // SHAPES)
    number = max(1, -(-(total - int(idle.sum())) // step)) * step
    if number >= total:
        return None
    return torch.argsort(idle, stable=True)[:number].sort().values
