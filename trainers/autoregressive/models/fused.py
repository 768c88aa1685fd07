"""Whole blocks of a Transformer as compiled loops: all that lies between two matrix products in one pass.

It is an option of training, since it needs a C++ compiler (or Triton on a GPU) and some ten seconds when training starts. Each
shape has a kernel of its own, so a run that is continued computes the same bits as one that was not stopped.

The formulas below are what `functional` and `losses` hand to the compiler. They are pure, so that it can join them with their
neighbours; run as they are, each operation would be a pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_SHAPES = 64
"""How many shapes a process may train with; the default of 8 is few for one that trains several models."""
_in_use: dict[Any, Any] | None = None


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Return ``function`` compiled, if training runs within `fused_pointwise`, and else as it is.

    Args:
        function: of a module, so that it is compiled once; it may be called by another that is being compiled.
    """
    if torch.compiler.is_compiling() or _in_use is None:
        return function
    if function not in _in_use:
        # Every shape is compiled for itself: which kernel runs must not depend on the shapes seen before.
        _in_use[function] = torch.compile(function, dynamic=False, fullgraph=True)
    found: Callable[P, R] = _in_use[function]
    return found


@contextmanager
def fused_pointwise(enabled: bool = True) -> Iterator[None]:
    """Compile what lies between the matrix products of every model that is trained within the block, in this process."""
    global _in_use
    if not enabled:
        yield
        return
    before, _in_use = _in_use, {}
    try:
        with torch._dynamo.config.patch(recompile_limit=_SHAPES):
            yield
    finally:
        _in_use = before


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def rms_norm(x: Tensor, gain: Tensor, eps: float, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return `functional.rms_norm`, and one over the root mean square (..., 1)."""
    wide = _wide(x)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * gain).to(kind), scale


def rms_norm_backward(grad: Tensor, x: Tensor, gain: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and ``gain``."""
    unit, grad = _wide(x) * scale, _wide(grad)
    inner = grad * gain
    grad_x = (inner - unit * (inner * unit).mean(-1, keepdim=True)) * scale
    return grad_x.to(x.dtype), (grad * unit).flatten(0, -2).sum(0).to(gain.dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    low, high, cos = x[..., :half], x[..., half:], cos[..., :half]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


def place_heads(x: Tensor, cos: Tensor | None, sin: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor | None]:
    """Return `functional.place_heads`, and one over the root mean square (..., 1) if there is a norm."""
    y, scale = _wide(x), None
    if eps is not None:
        scale = torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        y = y * scale
    if cos is not None and sin is not None:
        y = _turn(y, cos, sin)
    return y.to(x.dtype), scale


def place_heads_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, cos: Tensor | None, sin: Tensor | None
) -> Tensor:
    """Return the gradient of ``x``."""
    inner = _wide(grad)
    if cos is not None and sin is not None:
        inner = _turn(inner, cos, -sin)
    if scale is not None:
        unit = _wide(x) * scale
        inner = (inner - unit * (inner * unit).mean(-1, keepdim=True)) * scale
    return inner.to(grad.dtype)


def swiglu(x: Tensor) -> Tensor:
    """Return `functional.swiglu`."""
    gate, up = _wide(x).chunk(2, -1)
    return (gate * torch.sigmoid(gate) * up).to(x.dtype)


def swiglu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of ``x``."""
    gate, up = _wide(x).chunk(2, -1)
    grad, part = _wide(grad), torch.sigmoid(gate)
    # Joined by `stack`, the loop over both halves is a fifth faster than by `cat`.
    halves = torch.stack((grad * up * part * (1 + gate * (1 - part)), grad * gate * part), -2)
    return halves.flatten(-2).to(x.dtype)
