"""The loss of predicted tokens: cross entropy and z-loss, masked alike, as sums that can be added up over unequal batches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SequenceLoss(NamedTuple):
    """Sums over the places of a batch; divide by ``weight`` summed over all batches of a step to get the mean.

    ``total`` is what to differentiate, ``nll`` and ``weight`` are detached.
    """

    total: Tensor
    """Sum of weight * (nll + z_loss * log-partition squared), float32 scalar with a gradient."""
    nll: Tensor
    """Sum of weight * negative log-likelihood in nats, float32 scalar."""
    weight: Tensor
    """Sum of the weights, float32 scalar."""


def token_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, z_loss: float = 0.0) -> SequenceLoss:
    """Return the summed cross entropy and z-loss (de Brebisson and Vincent 2016; PaLM) of logits.

    Args:
        logits: (..., V).
        labels: int64 (...), what each place is to predict; any value where the weight is 0.
        weights: float (...); None means 1 everywhere.
        z_loss: factor of the squared log-partition.
    """
    logits = logits.float()
    weights = torch.ones_like(labels, dtype=torch.float32) if weights is None else weights.float()
    log_partition = torch.logsumexp(logits, -1)
    chosen = logits.gather(-1, labels.clamp(0, logits.shape[-1] - 1)[..., None])[..., 0]
    nll = log_partition - chosen
    each = nll + z_loss * log_partition.square() if z_loss else nll
    return SequenceLoss((weights * each).sum(), (weights * nll.detach()).sum(), weights.sum())
