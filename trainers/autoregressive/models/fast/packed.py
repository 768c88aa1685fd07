"""Matrices laid out for products of a few rows, by oneDNN: for generation on a CPU.

Torch gives a product of a few rows to a library that multiplies large matrices well and these not: at 1 to 16 rows what is here
takes a third to two thirds of the time, as it reads each matrix once, in the order in which it lies (`benchmarks/generation.py`).
Torch's own compiler calls the same functions. Where they are not, `Packed` is the plain product.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 8
"""The rows that the layout is made for; any number is computed."""


@cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Return whether there is such a product for weights of a dtype on this machine."""
    known = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not known or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class Packed:
    """A linear layer without gradients, whose matrix is laid out anew where that pays.

    Args:
        weight: (O, I). A later change of it is not seen.
        bias: (O,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self._packed: Tensor | None = None
        if weight.device.type == "cpu" and _can_pack(weight.dtype):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias`` of ``x`` (B, I)."""
        if self._packed is None:
            return F.linear(x, self.weight, self.bias)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the same plus ``residual`` (B, O)."""
        if self._packed is None:
            y = torch.addmm(residual, x, self.weight.t())
            return y if self.bias is None else y.add_(self.bias)
        sum_: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._packed, self.bias, "add")
        return sum_
