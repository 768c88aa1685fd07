"""Which of the places before it a place depends on most: the graph of a Bayes net, learned from documents.

With one parent it is the earlier place of the highest mutual information: among the trees whose edges lead forward the one under
which the documents are most probable (Chow and Liu 1968, of trees of any direction). With more it is K2 (Cooper and Herskovits
1992): parents are added one by one, the one first that raises the probability of the documents most, averaged over all tables
under a uniform Dirichlet prior, as long as one raises it.

The joint counts of a place with all earlier ones are one matrix product, so the cost is that of places squared times values
squared times documents: 784 pixels of two colours take seconds, 16 colours a minute.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MOST = 1 << 24
"""Numbers of a matrix that is made at once."""


def learned_parents(rows: Tensor, most: int, vocab_size: int, smoothing: float) -> Tensor:
    """Return the parents of each place, int64 (L, most), -1 where there is none.

    Args:
        rows: (N, L), documents.
        most: parents of a place.
        vocab_size: number of ids, over which tables are smoothed.
        smoothing: added to each count.
    """
    graph = torch.full((rows.shape[1], most), -1, dtype=torch.int64, device=rows.device)
    if not len(rows):
        return graph
    known, values = torch.unique(rows, return_inverse=True)
    judge: Callable[[Tensor], Tensor] = _information if most == 1 else _Evidence(vocab_size, smoothing)
    for place in range(1, rows.shape[1]):
        groups = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        own = values[:, place]
        score = float(judge(_joint(groups, own, torch.zeros_like(values[:, :1]), len(known)))[0])
        for number in range(most):
            candidates = values[:, :place]
            scores = judge(_joint(groups, own, candidates, len(known)))
            scores[graph[place][graph[place] >= 0]] = -torch.inf
            best = int(scores.argmax())
            # Not for the last bit of a sum.
            if float(scores[best]) <= score + 1e-9 * max(1.0, abs(score)):
                break
            score = float(scores[best])
            graph[place, number] = best
            groups = torch.unique(groups * len(known) + values[:, best], return_inverse=True)[1]
    return graph


def _joint(groups: Tensor, own: Tensor, candidates: Tensor, size: int) -> Tensor:
    """Return how often each value of a place came with each value of each candidate, float64 (C, groups * size, size).

    Args:
        groups: int64 (N,), what the parents so far are.
        own: int64 (N,), the values of the place.
        candidates: int64 (N, C), those of the others.
        size: number of values.
    """
    count = int(groups.max()) + 1
    left = F.one_hot(groups * size + own, count * size).T.float()
    columns = max(1, MOST // (len(own) * size))
    found = []
    for part in torch.split(candidates, columns, 1):
        right = F.one_hot(part, size).flatten(1).float()
        # Whole numbers below 2 ** 24 are exact in float32.
        found.append((left @ right).view(len(left), part.shape[1], size).transpose(0, 1))
    counts = torch.cat(found).double().view(-1, count, size, size)  # (C, group, own, other)
    return counts.transpose(2, 3).flatten(1, 2)


def _information(counts: Tensor) -> Tensor:
    """Return the mutual information in nats of a place and candidates, (C,), of counts (C, rows of its table, values)."""
    total = counts.sum((1, 2), keepdim=True)
    rows, values = counts.sum(2, keepdim=True), counts.sum(1, keepdim=True)
    return (counts * (counts * total / (rows * values).clamp(min=1)).clamp(min=1e-300).log()).sum((1, 2)) / total[
        :, 0, 0
    ]


class _Evidence:
    """The logarithm of the probability of a place's tokens with a table, averaged over all tables; (C,) of counts as above."""

    def __init__(self, vocab_size: int, smoothing: float) -> None:
        self.vocab_size, self.smoothing = vocab_size, smoothing

    def __call__(self, counts: Tensor) -> Tensor:
        prior = torch.tensor(self.smoothing, dtype=counts.dtype, device=counts.device)
        whole = prior * self.vocab_size
        each = (counts + prior).lgamma() - prior.lgamma()
        rows = whole.lgamma() - (counts.sum(2) + whole).lgamma()
        return each.sum((1, 2)) + rows.sum(1)
