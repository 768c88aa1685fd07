"""The rotation trick: the gradient of the code is turned back to the vector, as the vector was turned to the code.

The code is written as ``c = (|c| / |z|) R z`` with R the rotation that turns z to the direction of c, and both factors held
constant, so the gradient of z is ``(|c| / |z|) R^T g``: the angle between gradient and vector is kept, where the
straight-through estimator keeps the gradient. Fifty et al. 2024, arXiv:2410.06424, section 4.2:
``R = 1 - 2 r r^T + 2 c' z'^T`` with unit vectors ``z'``, ``c'`` and ``r`` along ``z' + c'``. A training step of vq with it takes
2.7 times as long in vector-quantize-pytorch (``benchmarks/nearest_code.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def rotated(z: Tensor, codes: Tensor) -> Tensor:
    """Return ``codes`` ``(N, d)``, to the bit, with a gradient that reaches ``z`` by the rotation trick."""
    passed: Tensor = _Rotation.apply(z, codes)
    return passed


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, z: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(z, codes)
        return codes.detach().clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        z, codes = ctx.saved_tensors  # type: ignore[attr-defined]
        lengths = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp(min=1e-6)
        scale = torch.linalg.vector_norm(codes, dim=1, keepdim=True) / lengths
        start, goal = z / lengths, normalize(codes, dim=1)
        middle = normalize(start + goal, dim=1)
        turned = gradient - 2 * middle * (middle * gradient).sum(1, keepdim=True)
        turned += 2 * start * (goal * gradient).sum(1, keepdim=True)
        return scale * turned, None
