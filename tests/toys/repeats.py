"""A task that asks a sequence model to remember: four tokens that are drawn, four times over."""

from __future__ import annotations

import torch

from trainers.autoregressive.models import SequenceModel
from trainers.autoregressive.models.inputs import Inputs

VOCAB, TOKENS = 8, 16


def loss_after_learning(model: SequenceModel, steps: int = 30) -> float:
    """Train with AdamW; return the last loss in nats of the 12 tokens that are repeated (ln 8 is 2.08)."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    weights = torch.ones(32, TOKENS - 1)
    weights[:, :3] = 0
    value = 0.0
    for _ in range(steps):
        ids = torch.randint(0, VOCAB, (32, 4)).repeat(1, 4)
        loss = model.loss(Inputs(ids[:, :-1]), ids[:, 1:], weights)
        optimizer.zero_grad()
        torch.autograd.backward(loss.total / loss.weight)
        optimizer.step()
        value = float(loss.nll / loss.weight)
    return value
