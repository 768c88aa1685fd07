"""Whole blocks of a Transformer as compiled loops: all that lies between two matrix products in one pass.

It is an option of training, since it needs a C++ compiler (or Triton on a GPU) and some ten seconds when training starts. Each
shape has a kernel of its own, so a run that is continued computes the same bits as one that was not stopped.

The formulas below are what `pointwise` and `loss` hand to the compiler. They are pure, so that it can join them with their
neighbours; run as they are, each operation would be a pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_SHAPES = 64
"""How many shapes a process may train with; the default of 8 is few for one that trains several models."""


class Fusion:
    """Compiles functions for a model, each once."""

    def __init__(self) -> None:
        self._compiled: dict[Any, Any] = {}

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return ``function`` compiled; as it is where it is called by another that is being compiled.

        Args:
            function: of a module, so that it is compiled once.
        """
        if torch.compiler.is_compiling():
            return function
        if function not in self._compiled:
            # Every shape is compiled for itself: which kernel runs must not depend on the shapes seen before.
            self._compiled[function] = torch.compile(function, dynamic=False, fullgraph=True)
        found: Callable[P, R] = self._compiled[function]
        return found


def fused(function: Callable[P, R], fusion: Fusion | None) -> Callable[P, R]:
    """Return what computes ``function`` while a model is trained: compiled if there is a ``fusion``."""
    return function if fusion is None or not torch.is_grad_enabled() else fusion(function)


@runtime_checkable
class Fusable(Protocol):
    """A model that can compile what lies between its matrix products."""

    def fuse(self, fusion: Fusion | None) -> None:
        """Compile with ``fusion`` from now on, or no longer."""
        ...


@contextmanager
def fused_training(model: object, enabled: bool = True) -> Iterator[None]:
    """Compile what lies between the matrix products of ``model`` while it is trained within the block.

    Raises:
        ValueError: the model has nothing to compile.
    """
    if not enabled:
        yield
        return
    if not isinstance(model, Fusable):
        raise ValueError(f"a {type(model).__name__} has no parts that can be compiled; leave --compile out")
    model.fuse(Fusion())
    try:
        with torch._dynamo.config.patch(recompile_limit=_SHAPES):
            yield
    finally:
        model.fuse(None)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def rms_norm(x: Tensor, gain: Tensor, eps: float, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return `pointwise.rms_norm`, and one over the root mean square (..., 1)."""
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
    """Return `pointwise.place_heads`, and one over the root mean square (..., 1) if there is a norm."""
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
    """Return `pointwise.swiglu`."""
    gate, up = _wide(x).chunk(2, -1)
    return (gate * torch.sigmoid(gate) * up).to(x.dtype)


def swiglu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of ``x``."""
    gate, up = _wide(x).chunk(2, -1)
    grad, part = _wide(grad), torch.sigmoid(gate)
    # Joined by `stack`, the loop over both halves is a fifth faster than by `cat`.
    halves = torch.stack((grad * up * part * (1 + gate * (1 - part)), grad * gate * part), -2)
    return halves.flatten(-2).to(x.dtype)
