"""The loss from hidden states and the head's matrix, a few hundred tokens at a time.

The logits of a whole batch are the largest tensor of a small model, and on a CPU allocating them costs more than computing them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainers.autoregressive.models.fast.fused import Fusion
from trainers.autoregressive.models.fast.pointwise import autocast_dtype
from trainers.autoregressive.models.losses import SequenceLoss

CHUNK_ELEMENTS = 2**21
"""Logits held at a time: 8 MB in float32, which the processor's cache and malloc both like."""


def linear_token_loss(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
    fusion: Fusion | None = None,
) -> SequenceLoss:
    """Return `token_loss` of the logits ``hidden @ head.T`` (soft-capped), in chunks of tokens.

    The gradient is computed in the forward pass, chunk by chunk, as Liger and ``F.linear_cross_entropy`` do.

    Args:
        hidden: (..., D).
        head: (V, D).
        labels: int64 (...), what each place is to predict; any value where the weight is 0.
        weights: float (...); None means 1 everywhere.
        z_loss: factor of the squared log-partition.
        soft_cap: logits become ``soft_cap * tanh(logits / soft_cap)``.
        chunk_elements: how many logits are held at a time.
        fusion: compiles what is between the matrix products.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    weights = torch.ones_like(labels, dtype=torch.float32) if weights is None else weights.float()
    if (kind := autocast_dtype(hidden.device.type)) is not None:
        flat = flat.to(kind)
    rows = max(1, chunk_elements // head.shape[0])
    total, nll = _LinearLoss.apply(
        flat, head, labels.reshape(-1), weights.reshape(-1), z_loss, soft_cap, rows, torch.is_grad_enabled(), fusion
    )
    return SequenceLoss(total, nll, weights.sum())


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        labels: Tensor,
        weights: Tensor,
        z_loss: float,
        soft_cap: float | None,
        rows: int,
        training: bool,
        fusion: Fusion | None,
    ) -> tuple[Tensor, Tensor]:
        want_hidden = training and ctx.needs_input_grad[0]
        want_head = training and ctx.needs_input_grad[1]
        # The head's gradient is summed over chunks, so it is held in float32 whatever the products are in.
        grad_head = torch.zeros(head.shape, dtype=torch.float32, device=head.device) if want_head else None
        ctx.kind, head = head.dtype, head.to(hidden.dtype)
        of_logits = fusion(_rows_loss) if fusion is not None and (want_hidden or want_head) else _rows_loss
        grad_hidden = torch.empty_like(hidden) if want_hidden else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        nll_sum = torch.zeros_like(total)
        labels = labels.clamp(0, head.shape[0] - 1)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, hidden.shape[0], rows):
                part = slice(start, start + rows)
                state, label, weight = hidden[part], labels[part, None], weights[part, None]
                sums, grad = of_logits(state @ head.T, label, weight, z_loss, soft_cap, want_hidden or want_head)
                total += sums[0]
                nll_sum += sums[1]
                if grad is None:
                    continue
                if grad_hidden is not None:
                    torch.mm(grad, head, out=grad_hidden[part])
                if grad_head is not None:
                    if head.dtype == torch.float32:
                        grad_head.addmm_(grad.T, state)
                    else:
                        grad_head += grad.T @ state
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.mark_non_differentiable(nll_sum)
        return total, nll_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * grad.to(grad_hidden.dtype),
            None if grad_head is None else (grad_head * grad).to(ctx.kind),
            *(None,) * 7,
        )


def _rows_loss(
    logits: Tensor, label: Tensor, weight: Tensor, z_loss: float, soft_cap: float | None, want_grad: bool
) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """Return the sums of the loss and of the negative log-likelihood of N tokens, and the gradient of the logits (N, V).

    Args:
        logits: (N, V), before the cap.
        label: int64 (N, 1).
        weight: float32 (N, 1).
        z_loss: factor of the squared log-partition.
        soft_cap: see `linear_token_loss`.
        want_grad: None is returned in place of the gradient otherwise.
    """
    kind, slope = logits.dtype, None
    logits = logits.float()
    if soft_cap is not None:
        squashed = torch.tanh(logits / soft_cap)
        slope = 1 - squashed.square()
        logits = squashed * soft_cap
    peak = logits.amax(-1, keepdim=True)
    chosen = logits.gather(1, label) - peak
    compiling = torch.compiler.is_compiling()
    # The compiler makes pure operations one pass; without it passes in place are the fastest.
    mass = torch.exp(logits - peak) if compiling else logits.sub_(peak).exp_()
    partition = mass.sum(-1, keepdim=True)
    nll = partition.log() - chosen
    log_partition = partition.log() + peak
    sums = ((weight * (nll + z_loss * log_partition.square())).sum(), (weight * nll).sum())
    if not want_grad:
        return sums, None
    factor = weight * (1 + 2 * z_loss * log_partition) / partition
    if compiling:
        places = torch.arange(logits.shape[1], device=label.device)
        grad = mass * factor - torch.where(places == label, weight, 0.0)
    else:
        grad = mass.mul_(factor).scatter_add_(1, label, -weight)
    return sums, (grad if slope is None else grad * slope).to(kind)
