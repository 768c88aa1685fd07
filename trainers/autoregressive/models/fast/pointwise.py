"""Pointwise parts of a Transformer as single autograd functions: RMSNorm, rotation and the gated SiLU.

Written out in ordinary tensor operations each of these makes four to eight passes over the activations and as many
temporaries for the backward pass, which at the sizes that are trained on a CPU costs as much as the matrix products
(``F.rms_norm`` there is several times as slow as LayerNorm). Here each saves only its input and writes its gradient in place.
The tests compare each with the plain formula. Where a block is compiled, the compiler gets the formulas of `fused` instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainers.autoregressive.models.fast import fused


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Return ``x / sqrt(mean(x^2) + eps) * gain`` over the last axis, computed in float32 (Zhang and Sennrich 2019).

    Under autocast the result has the autocast dtype, since a matrix product follows.

    Args:
        x: (..., D).
        gain: (D,).
        eps: added to the mean square.
    """
    kind = autocast_dtype(x.device.type) or x.dtype
    if torch.is_grad_enabled():
        out: Tensor = _RMSNorm.apply(x, gain, eps, kind)
        return out
    return _unit(_wide(x), eps)[0].mul_(gain).to(kind)


def place_heads(x: Tensor, cos: Tensor | None, sin: Tensor | None, eps: float | None) -> Tensor:
    """Normalise and rotate queries and keys, in float32.

    The norm is RMSNorm without a gain; the rotation turns the pairs (x[i], x[i + E/2]) by the given angles (Su et al. 2021,
    in the layout of Llama).

    Args:
        x: (B, T, H, E).
        cos: float32, (T, 1, E) or (B, T, 1, E): the cosines, twice; None leaves out the rotation.
        sin: float32, (T, 1, E/2) or (B, T, 1, E/2).
        eps: added to the mean square; None leaves out the norm.
    """
    if torch.is_grad_enabled():
        out: Tensor = _PlaceHeads.apply(x, cos, sin, eps)
        return out
    return _place_heads(x, cos, sin, eps)[0]


def swiglu(x: Tensor) -> Tensor:
    """Return ``silu(gate) * up`` where ``x`` (..., 2F) holds the gate and then the rest (Shazeer 2020)."""
    if torch.is_grad_enabled():
        out: Tensor = _SwiGLU.apply(x)
        return out
    gate, up = x.chunk(2, -1)
    return torch.nn.functional.silu(gate).mul_(up)


def autocast_dtype(device: str) -> torch.dtype | None:
    """Return the dtype of matrix products under the autocast that is in force on this kind of device, or None."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _unit(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return ``x`` over its root mean square, and one over that (..., 1)."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = scale.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
    return x * scale, scale


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, kind: torch.dtype) -> Tensor:
        if torch.compiler.is_compiling():
            out, scale = fused.rms_norm(x, gain, eps, kind)
            ctx.save_for_backward(x, gain, scale)
            return out
        y, scale = _unit(_wide(x), eps)
        ctx.save_for_backward(x, gain, scale)
        return y.mul_(gain).to(kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, scale = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return *fused.rms_norm_backward(grad, x, gain, scale), None, None
        size = x.shape[-1]
        unit = x * scale
        product = grad * unit
        flat = product.reshape(-1, size)
        along = torch.mv(flat, gain.to(flat.dtype)).view(*x.shape[:-1], 1)
        grad_gain = flat.sum(0).to(gain.dtype)
        inner = torch.mul(grad, gain, out=product) if grad.dtype == product.dtype else grad * gain
        inner = inner.to(unit.dtype).addcmul_(unit, along, value=-1 / size).mul_(scale)
        return inner.to(x.dtype), grad_gain, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    half = x.shape[-1] // 2
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], sin, value=-sign)
    y[..., half:].addcmul_(x[..., :half], sin, value=sign)
    return y


def _place_heads(
    x: Tensor, cos: Tensor | None, sin: Tensor | None, eps: float | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the result, and what the backward pass needs: the normalised input and its scale."""
    unit, scale = (_wide(x), None) if eps is None else _unit(_wide(x), eps)
    y = unit if cos is None or sin is None else _turn(unit, cos, sin, 1)
    return y.to(x.dtype), None if eps is None else unit, scale


class _PlaceHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor | None, sin: Tensor | None, eps: float | None) -> Tensor:
        if torch.compiler.is_compiling():
            y, scale = fused.place_heads(x, cos, sin, eps)
            ctx.save_for_backward(x, scale, cos, sin)
            return y
        y, unit, scale = _place_heads(x, cos, sin, eps)
        ctx.save_for_backward(unit, scale, cos, sin)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, scale, cos, sin = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return fused.place_heads_backward(grad, unit, scale, cos, sin), None, None, None
        inner = _wide(grad) if cos is None else _turn(_wide(grad), cos, sin, -1)
        if unit is not None:
            along = torch.linalg.vecdot(inner, unit)[..., None]
            inner = torch.addcmul(inner, unit, along, value=-1 / unit.shape[-1]).mul_(scale)
        return inner.to(grad.dtype), None, None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            ctx.save_for_backward(x)
            return fused.swiglu(x)
        gate, up = x.chunk(2, -1)
        active = torch.nn.functional.silu(gate)
        ctx.save_for_backward(x, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, *kept = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return fused.swiglu_backward(grad, x)
        gate, up = x.chunk(2, -1)
        result = torch.empty_like(x)
        grad_gate, grad_up = result.chunk(2, -1)
        torch.mul(kept[0], grad, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return result
