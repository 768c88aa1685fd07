"""Causal linear attention with decays and the delta rule, in chunks: inside a chunk by matrices, between chunks by the state.

A head keeps a matrix S (E, F), which every token first lets decay, then writes to and reads from:

    S = a_t S + k_t u_t^T        u_t = v_t                       without ``beta``
    o_t = S^T q_t                u_t = b_t (v_t - a_t S^T k_t)   with it: what stands at k_t already is taken off (delta rule)

For C tokens at once the u of the delta rule solve (1 + A) U = b (V - g K S) with A[t, i] = b_t (g_t / g_i) k_t.k_i below the
diagonal, g the product of decays since the chunk began (Yang et al. 2024, arXiv 2406.06484 and 2412.06464). Without it this is
the blocked form of Mamba-2 (Dao and Gu 2024, arXiv 2405.21060). What is in a loop is one step for each chunk.

Shapes: R rows, L tokens, H heads, E channels of keys, F of values, n chunks of C tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 32
"""Tokens of a chunk: the fastest of the powers of two on a CPU at 1,024 tokens, for heads with 64 channels."""


def linear_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    state: Tensor,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Return what is read (R, L, H, F) and the state (R, H, E, F) after the last token, both in the dtype of the state.

    Args:
        queries: (R, L, H, E), or (R, L, 1, E) for the same in all heads.
        keys: as ``queries``. With ``beta`` of length 1, or the rule is not stable.
        values: (R, L, H, F).
        state: before the first token.
        log_decay: (R, L, H), the logarithm of a_t, at most 0; None means no decay.
        beta: (R, L, H), how much of what is read at a key is replaced, from 0 to 1 (2 at most); None means no delta rule.
        chunk: C.
    """
    with torch.autocast(state.device.type, enabled=False):
        queries, keys, values = (x.to(state.dtype) for x in (queries, keys, values))
        log_decay, beta = (None if x is None else x.to(state.dtype)[..., None] for x in (log_decay, beta))
        if queries.shape[1] == 1:
            return _step(queries, keys, values, state, log_decay, beta)
        return _chunked(queries, keys, values, state, log_decay, beta, min(chunk, queries.shape[1]))


def _step(
    queries: Tensor, keys: Tensor, values: Tensor, state: Tensor, log_decay: Tensor | None, beta: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Do what `linear_attention` does for a single token."""
    query, key, value = queries[:, 0, :, None], keys[:, 0, :, None], values[:, 0, :, None]
    if log_decay is not None:
        state = state * log_decay[:, 0, :, None].exp()
    if beta is not None:
        value = (value - key @ state) * beta[:, 0, :, None]
    state = state + key.mT * value
    return (query @ state).transpose(1, 2), state


def _chunked(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    state: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    length = queries.shape[1]
    q, k, v = (_cut(x, chunk) for x in (queries, keys, values))
    scores, writing, reading, left = q @ k.mT, k, q, None
    within = None
    if log_decay is not None:
        since = _cut(log_decay, chunk).cumsum(-2)
        # Nothing above the diagonal is raised to a power: it could overflow.
        above = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
        within = (since - since.mT).masked_fill(above, -torch.inf).exp()
        scores = scores * within
        grown = since.exp()
        writing, reading, left = k * (since[..., -1:, :] - since).exp(), q * grown, grown[..., -1:, :].unbind()
    else:
        scores = scores.tril()
    if beta is None:
        updates = v
        states, state = _pass(state, (writing.mT @ v).unbind(), left)
    else:
        b = _cut(beta, chunk)
        products = (k @ k.mT) * b
        solved = _inverse(products if within is None else products * within)
        new, old = solved @ (v * b), solved @ (k * (b if log_decay is None else b * grown))
        states, updates, state = _pass_delta(state, writing.mT.unbind(), new.unbind(), old.unbind(), left)
    read = reading @ states + scores @ updates
    read = read.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :length]
    return read, state


def _cut(x: Tensor, chunk: int) -> Tensor:
    """Return (R, L, H, X) as chunks (n, R, H, C, X); zeros fill the last, which neither decay nor write."""
    count = -(-x.shape[1] // chunk)
    if missing := count * chunk - x.shape[1]:
        x = F.pad(x, (0, 0, 0, 0, 0, missing))
    return x.reshape(len(x), count, chunk, *x.shape[2:]).permute(1, 0, 3, 2, 4).contiguous()


def _inverse(below: Tensor) -> Tensor:
    """Return the inverse of 1 + what is below the diagonal of (..., C, C)."""
    unit = torch.eye(below.shape[-1], dtype=below.dtype, device=below.device).expand_as(below)
    inverse: Tensor = torch.linalg.solve_triangular(below, unit, upper=False, unitriangular=True)
    return inverse


def _pass(state: Tensor, added: tuple[Tensor, ...], left: tuple[Tensor, ...] | None) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk (n, R, H, E, F) and after the last."""
    before = []
    for place, more in enumerate(added):
        before.append(state)
        state = state + more if left is None else torch.addcmul(more, state, left[place])
    return torch.stack(before), state


def _pass_delta(
    state: Tensor,
    writing: tuple[Tensor, ...],
    new: tuple[Tensor, ...],
    old: tuple[Tensor, ...],
    left: tuple[Tensor, ...] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the state before each chunk (n, R, H, E, F), the updates (n, R, H, C, F), and the state after the last."""
    before, updates = [], []
    for place, keys in enumerate(writing):
        before.append(state)
        update = new[place] - old[place] @ state
        updates.append(update)
        state = (state if left is None else state * left[place]) + keys @ update
    return torch.stack(before), torch.stack(updates), state
