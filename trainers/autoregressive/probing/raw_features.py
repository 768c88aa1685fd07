"""What a probe can tell without a model: features of ids, and of the values that they stand for, one row a sample.

``ids``: how large a part of the ids of a sample each id is, which is the mean of one-hot vectors over its places, as states are
averaged. ``ids by place``: the one-hot vectors of all places beside one another, where all grids have one shape. ``values``: what
the tokenizer makes of the ids, such as pixels, where all samples have one size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array

from tokenize_kit.sequences.packing import Ints

if TYPE_CHECKING:
    from trainers.autoregressive.probing.samples import Probed

MOST_COLUMNS = 1 << 20
"""A probe with more columns times classes than this takes too long."""


def raw_features(probed: Probed, chosen: Ints) -> dict[str, Any]:
    """Return features of samples by name, each (N, columns), dense or sparse, in the order of ``chosen``.

    Args:
        probed: the samples.
        chosen: (N,), which ones.
    """
    grids = [probed.grid(one) for one in chosen.tolist()]
    table = probed.documents.segments[probed.segment]
    # Codebooks that do not share a range of ids have columns of their own.
    shapes = table.shape[probed.beginning[chosen]]
    flat = [
        grid.reshape(-1) + table.segment.offset(np.arange(grid.size), np.full(grid.size, shape))
        for grid, shape in zip(grids, shapes.tolist(), strict=True)
    ]
    known, columns = np.unique(np.concatenate([*flat, np.zeros(0, np.int64)]), return_inverse=True)
    sizes = np.array([len(ids) for ids in flat])
    starts = np.concatenate(([0], np.cumsum(sizes)))
    parts = np.repeat(1 / np.maximum(sizes, 1), sizes).astype(np.float32)
    # Copied, as adding up what comes twice sorts the columns in place.
    found: dict[str, Any] = {"ids": csr_array((parts, columns, starts), shape=(len(flat), len(known)), copy=True)}
    found["ids"].sum_duplicates()
    one_shape = len({grid.shape for grid in grids}) == 1
    width = int(sizes[0]) * len(known)
    if one_shape and sizes[0] > 1 and width * len(probed.classes) <= MOST_COLUMNS:
        at = columns + np.tile(np.arange(sizes[0]) * len(known), len(flat))
        ones = np.ones(len(at), np.float32)
        found["ids by place"] = csr_array((ones, at, starts), shape=(len(flat), width))
    values = _values(probed, grids) if one_shape else None
    if values is not None and values.shape[1] * len(probed.classes) <= MOST_COLUMNS:
        found["values"] = values
    return found


def _values(probed: Probed, grids: list[Any]) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """Return what all grids stand for as numbers, (N, values); None if they are no numbers or not of one size."""
    rows = []
    for grid in grids:
        sample = probed.tokenizer.decode(torch.from_numpy(grid.astype(np.int64)))
        if not isinstance(sample, torch.Tensor):
            return None
        rows.append(sample.reshape(-1).float().numpy())
    return np.stack(rows) if len({len(row) for row in rows}) == 1 else None
