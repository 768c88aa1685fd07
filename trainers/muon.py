"""Muon for matrices and convolutions: momentum whose every step is made orthogonal (Jordan et al. 2024).

The update is that of ``torch.optim.Muon``, which takes matrices alone. Here a convolution is the matrix of its output
channels by everything else, as the authors flatten it, and matrices of one shape are made orthogonal together, in fewer and
larger products. The products are in bfloat16 as in torch's where the device has it, to which the tests hold them; elsewhere in
float32, since emulated they take ten times as long and more (``benchmarks/libraries.py --only muon``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainers.processor import has_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose repetition drives all singular values near 1 (Jordan's)."""
ITERATIONS = 5
EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, decoupled weight decay, and updates as large as AdamW's (Moonlight, arXiv 2502.16982).

    Args:
        parameters: of two or more axes; the first is that of the outputs.
        lr: learning rate, on the scale of AdamW's.
        weight_decay: decoupled.
        momentum: memory of the mean gradient.

    Raises:
        ValueError: a parameter is no matrix.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    raise ValueError(f"Muon takes matrices, not a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step with the gradients that are there."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for parameter in moved:
                memory = self._memory(parameter).lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(memory, group["momentum"]).flatten(1)
                by_shape.setdefault(cast("tuple[int, int]", tuple(update.shape)), []).append((parameter, update))
            if moved:
                torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            for shape, pairs in by_shape.items():
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for (parameter, _), turned in zip(pairs, orthogonal([update for _, update in pairs]), strict=True):
                    parameter.add_(turned.view(parameter.shape), alpha=-size)
        return loss

    def _memory(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        memory: Tensor = state["momentum_buffer"]
        return memory


def orthogonal(matrices: list[Tensor]) -> Tensor:
    """Return matrices (N of shape (R, C)) with their singular values near 1, float32 (N, R, C): Newton-Schulz."""
    stack = torch.stack(matrices)
    stack = stack.bfloat16() if has_bfloat16(stack.device.type) else stack.float()
    flipped = stack.shape[1] > stack.shape[2]
    if flipped:
        stack = stack.mT
    stack = stack / stack.flatten(1).norm(dim=1).clamp(min=EPS)[:, None, None]
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = stack @ stack.mT
        stack = torch.baddbmm(stack, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), stack, beta=a)
    return (stack.mT if flipped else stack).float()
