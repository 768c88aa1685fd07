"""Diagonal linear state spaces in chunks: inside a chunk by the convolution that they are, between chunks by the state.

A channel has N complex states, s_t = p s_{t-1} + x_t, and gives y_t = 2 Re(c . s_t), which is the causal convolution with
K_j = 2 Re(c . p^j) (Gu et al. 2022, arXiv 2206.11893). Only powers up to the length of a chunk are made; the Toeplitz matrix
of the first C places of the kernel stands beside the matrices into the state and out of it. This costs C + 4 N products a
token and channel. A Fourier transform of the whole takes about three quarters of the time at 1,024 tokens, but in it each token
leaks into those before it by rounding, so that the model is not quite causal, and it knows nothing of states.

Shapes: R rows, L tokens, D channels, N complex states, n chunks of C tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 32
"""Tokens of a chunk: the fastest on a CPU at 256 tokens, and nearly so at 1,024. The powers are made anew in every step."""


def diagonal_convolution(
    x: Tensor, log_power: Tensor, mix: Tensor, state: Tensor, lengths: Tensor | None = None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Return y (R, L, D) and the state (R, D, N) after the real tokens, both as precise as the state.

    Args:
        x: (R, L, D).
        log_power: complex (D, N), the logarithm of p; its real part is below 0.
        mix: complex (D, N), c.
        state: complex (R, D, N), before the first token.
        lengths: int64 (R,), how many tokens of each row are real, those first; None means all.
        chunk: C.
    """
    with torch.autocast(state.device.type, enabled=False):
        x, log_power, mix = x.to(state.real.dtype), log_power.to(state.dtype), mix.to(state.dtype)
        if x.shape[1] == 1 and lengths is None:
            state = exponential(log_power) * state + x[:, 0, :, None]
            return 2 * (mix * state).sum(-1).real[:, None], state
        return _chunked(x, log_power, mix, state, lengths, min(chunk, x.shape[1]))


def exponential(z: Tensor) -> Tensor:
    """Return e to the power of complex ``z``; the library's takes some five times as long as its real functions."""
    size = z.real.exp()
    return torch.complex(size * z.imag.cos(), size * z.imag.sin())


def _chunked(
    x: Tensor, log_power: Tensor, mix: Tensor, state: Tensor, lengths: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    rows, length, channels = x.shape
    count = -(-length // chunk)
    if missing := count * chunk - length:
        x = F.pad(x, (0, 0, 0, missing))
    x = x.view(rows, count, chunk, channels).permute(3, 1, 0, 2).reshape(channels, count * rows, chunk)
    # Powers 0 to C, (D, N, C + 1).
    steps = torch.arange(chunk + 1, device=x.device, dtype=x.dtype)
    size, angle = (log_power.real[..., None] * steps).exp(), log_power.imag[..., None] * steps
    real, imaginary = size * angle.cos(), size * angle.sin()
    # What the states give i tokens later: 2 Re(c p^i s).
    a, b = 2 * mix.real[..., None], 2 * mix.imag[..., None]
    from_real, from_imaginary = a * real - b * imaginary, a * imaginary + b * real
    leaving = torch.cat((from_real, -from_imaginary), 1)[..., 1:]
    within = _toeplitz(from_real.sum(1)[:, :chunk])
    entering = torch.cat((real, imaginary), 1)[..., :chunk].flip(-1).mT

    added = (x @ entering).view(channels, count, rows, 2, -1).permute(1, 3, 2, 0, 4)
    states = _pass(state, torch.complex(added[:, 0], added[:, 1]), torch.complex(real[..., -1], imaginary[..., -1]))
    before = torch.view_as_real(states[:-1]).permute(2, 0, 1, 4, 3).reshape(channels, count * rows, -1)
    y = torch.baddbmm(x @ within, before, leaving)
    y = y.view(channels, count, rows, chunk).permute(2, 1, 3, 0).reshape(rows, count * chunk, channels)[:, :length]
    if lengths is None and not missing:
        return y, states[-1]
    # The state is wanted inside a chunk: its real tokens are moved to the end, after zeros.
    ends = torch.full((rows,), length, device=x.device) if lengths is None else lengths
    whole, rest = ends // chunk, ends % chunk
    row = torch.arange(rows, device=x.device)
    last = x.view(channels, count, rows, chunk)[:, whole.clamp(max=count - 1), row]
    places = torch.arange(chunk, device=x.device) - (chunk - rest)[:, None]
    last = last.gather(-1, places.clamp(min=0).expand_as(last)) * (places >= 0)
    added = (last @ entering).view(channels, rows, 2, -1).permute(2, 1, 0, 3)
    return y, exponential(log_power * rest[:, None, None]) * states[whole, row] + torch.complex(added[0], added[1])


def _toeplitz(kernel: Tensor) -> Tensor:
    """Return the matrices (D, C, C) that bring a chunk to its convolution with ``kernel`` (D, C): zero below the diagonal."""
    size = kernel.shape[-1]
    return F.pad(kernel, (size - 1, 0)).unfold(-1, size, 1).flip(1)


def _pass(state: Tensor, added: Tensor, power: Tensor) -> Tensor:
    """Return the state before each chunk and after the last, (n + 1, R, D, N), given what each adds (n, R, D, N)."""
    states = [state]
    for more in added.unbind():
        states.append(power * states[-1] + more)
    return torch.stack(states)
