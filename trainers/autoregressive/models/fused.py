"""The pointwise parts of a Transformer as compiled loops: what `functional` does in several passes, in one.

It is an option of training, since it needs a C++ compiler (or Triton on a GPU) and some ten seconds when training starts. Each
shape has a kernel of its own, so a run that is continued computes the same bits as one that was not stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Kernels(NamedTuple):
    """Forward and backward passes, compiled."""

    rms_norm: Callable[..., tuple[Tensor, Tensor]]
    rms_norm_backward: Callable[..., tuple[Tensor, Tensor]]
    place_heads: Callable[..., tuple[Tensor, Tensor | None]]
    place_heads_backward: Callable[..., Tensor]
    swiglu: Callable[..., Tensor]
    swiglu_backward: Callable[..., Tensor]


_SHAPES = 64
"""How many shapes a process may train with; the default of 8 is few for one that trains several models."""
_in_use: Kernels | None = None


def kernels() -> Kernels | None:
    """Return the compiled passes, if training runs within `fused_pointwise`."""
    return _in_use


@contextmanager
def fused_pointwise(enabled: bool = True) -> Iterator[None]:
    """Compile the pointwise parts of every model that is trained within the block, in this process."""
    global _in_use
    if not enabled:
        yield
        return
    before = _in_use
    # Every shape is compiled for itself: which kernel runs must not depend on the shapes seen before.
    compiled: list[Any] = [torch.compile(part, dynamic=False, fullgraph=True) for part in _PARTS]
    _in_use = Kernels(*compiled)
    try:
        with torch._dynamo.config.patch(recompile_limit=_SHAPES):
            yield
    finally:
        _in_use = before


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _rms_norm(x: Tensor, gain: Tensor, eps: float, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    wide = _wide(x)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * gain).to(kind), scale


def _rms_norm_backward(grad: Tensor, x: Tensor, gain: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    unit, grad = _wide(x) * scale, _wide(grad)
    inner = grad * gain
    grad_x = (inner - unit * (inner * unit).mean(-1, keepdim=True)) * scale
    return grad_x.to(x.dtype), (grad * unit).flatten(0, -2).sum(0).to(gain.dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    low, high, cos = x[..., :half], x[..., half:], cos[..., :half]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


def _place_heads(x: Tensor, cos: Tensor | None, sin: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor | None]:
    y, scale = _wide(x), None
    if eps is not None:
        scale = torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        y = y * scale
    if cos is not None and sin is not None:
        y = _turn(y, cos, sin)
    return y.to(x.dtype), scale


def _place_heads_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, cos: Tensor | None, sin: Tensor | None
) -> Tensor:
    inner = _wide(grad)
    if cos is not None and sin is not None:
        inner = _turn(inner, cos, -sin)
    if scale is not None:
        unit = _wide(x) * scale
        inner = (inner - unit * (inner * unit).mean(-1, keepdim=True)) * scale
    return inner.to(grad.dtype)


def _swiglu(x: Tensor) -> Tensor:
    gate, up = _wide(x).chunk(2, -1)
    return (gate * torch.sigmoid(gate) * up).to(x.dtype)


def _swiglu_backward(grad: Tensor, x: Tensor) -> Tensor:
    gate, up = _wide(x).chunk(2, -1)
    grad, part = _wide(grad), torch.sigmoid(gate)
    return torch.cat((grad * up * part * (1 + gate * (1 - part)), grad * gate * part), -1).to(x.dtype)


_PARTS = (_rms_norm, _rms_norm_backward, _place_heads, _place_heads_backward, _swiglu, _swiglu_backward)
