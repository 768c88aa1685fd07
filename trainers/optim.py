"""Optimisers, their parameter groups and the learning rate over the run.

AdamW is torch's fused one; Muon is for the matrices and convolutions inside the blocks, with AdamW for the rest (Jordan et
al. 2024). A schedule is a pure function of the step, so a continued run needs no state for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from trainers.config import OptimizerConfig
from trainers.muon import Muon


def build_optimizers(
    model: nn.Module, config: OptimizerConfig, tables: Iterable[nn.Parameter] = ()
) -> list[torch.optim.Optimizer]:
    """Return the optimisers of a model: one, or for Muon two (the matrices first).

    Args:
        model: whose trainable parameters are split into groups; a tied parameter is in one of them.
        config: which optimiser and its options.
        tables: parameters with a row for each token or place (embeddings, head), which Muon leaves to AdamW; a sequence
            model's ``tables()``.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    known = {id(parameter) for parameter in tables}
    decay = [parameter for parameter in parameters if parameter.ndim >= 2]
    plain = [parameter for parameter in parameters if parameter.ndim < 2]
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        matrices = [parameter for parameter in decay if id(parameter) not in known]
        chosen = {id(parameter) for parameter in matrices}
        decay = [parameter for parameter in decay if id(parameter) not in chosen]
        if matrices:
            optimizers.append(
                Muon(
                    matrices,
                    lr=config.muon_learning_rate or config.learning_rate,
                    weight_decay=config.weight_decay,
                    momentum=config.momentum,
                )
            )
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if groups := [group for group in groups if group["params"]]:
        optimizers.append(
            torch.optim.AdamW(
                groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set the learning rate of every group to ``factor`` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def learning_rate_factor(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate of step ``step`` (0 is the first of ``total_steps``) as a part of the peak.

    The rise reaches 1 at the last step of the warm-up; the fall reaches ``final_fraction`` at the last step.

    Raises:
        ValueError: the step is not one of the run.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} is not one of the {total_steps} steps of the run")
    warmup = min(config.warmup_steps, total_steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        return cosine_decay(step - warmup, total_steps - warmup, config.final_fraction)
    falling = min(total_steps - warmup, math.ceil(total_steps * config.decay_fraction))
    return stable_decay(step - warmup, total_steps - warmup, falling, config.final_fraction)


def cosine_decay(step: int, total: int, final: float) -> float:
    """Return half a cosine from 1 at step 0 to ``final`` at step ``total - 1`` (Loshchilov and Hutter 2017)."""
    progress = step / max(1, total - 1)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def stable_decay(step: int, total: int, falling: int, final: float) -> float:
    """Return 1, and over the last ``falling`` of ``total`` steps a straight line to ``final`` (Hu et al. 2024)."""
    into = step - (total - falling) + 1
    return 1.0 if into <= 0 else 1 - (1 - final) * into / falling
