"""Attention at the lowest resolution: over the places of a frame, and over the steps at a place, as far as a window reaches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.layers import Linear
from tokenize_kit.tokenizers.learned.streaming import Layer, State
from tokenize_kit.tokenizers.learned.video.config import attention_heads
from tokenize_kit.tokenizers.learned.video.networks.blocks import make_norm


class FrameAttention(Layer):
    """Self-attention over all places of each frame of (B, T, H, W, C), added to it; starts as the identity.

    Without gradients each frame is computed by a call of its own, as in `CausalConvolution`.
    """

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.heads = attention_heads(channels)
        self.norm = make_norm(channels, norm)
        self.qkv, self.out = Linear(channels, 3 * channels), _zero(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a video of the same shape."""
        size = x.shape[1] if torch.is_grad_enabled() else 1
        return torch.cat([self._frames(part) for part in torch.split(x, max(1, size), 1)], 1)

    def _frames(self, x: Tensor) -> Tensor:
        frames, places, channels = x.shape[0] * x.shape[1], x.shape[2] * x.shape[3], x.shape[4]
        joint = self.qkv(self.norm(x).reshape(frames, places, channels))
        query, key, value = joint.view(frames, places, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        added: Tensor = self.out(mixed.reshape(x.shape))
        return x + added


class TimeAttention(Layer):
    """Self-attention over the steps at each place of (B, T, H, W, C), added to it; starts as the identity.

    A step sees itself and the ``window`` - 1 steps before it, so the memory of a stream has a bound. Where a step is, it learns
    from a bias for each head and distance. Without gradients each step is computed by a call of its own.

    Args:
        channels: C.
        norm: ``rms`` or ``group``.
        window: steps that a step sees.
    """

    axis = 1

    def __init__(self, channels: int, norm: str, window: int) -> None:
        super().__init__()
        self.heads, self.window = attention_heads(channels), window
        self.norm = make_norm(channels, norm)
        self.qkv, self.out = Linear(channels, 3 * channels), _zero(channels)
        self.bias = nn.Parameter(torch.zeros(self.heads, window))

    def blind(self) -> None:
        """Look at no other step: add nothing."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return a video of the same shape."""
        if not torch.is_grad_enabled():
            return self.push(x, None, True)[0]
        steps = x.shape[1]
        query, key, value = self._parts(x)
        distance = torch.arange(steps, device=x.device)[:, None] - torch.arange(steps, device=x.device)
        seen = (distance >= 0) & (distance < self.window)
        bias = self.bias[:, distance.clamp(0, self.window - 1)].masked_fill(~seen, -torch.inf)
        return self._added(x, query, key, value, bias)

    def push(self, x: Tensor, state: State, _last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`. The state is the keys and values of the steps that later ones see."""
        made = []
        for step in torch.split(x, 1, 1) if x.shape[1] else ():
            query, key, value = self._parts(step)
            if state is not None:
                key, value = (torch.cat(both, -2) for both in zip(state, (key, value), strict=True))
            count = key.shape[-2]
            bias = self.bias[:, :count].flip(-1)[:, None]
            made.append(self._added(step, query, key, value, bias))
            state = tuple(part[..., max(0, count + 1 - self.window) :, :] for part in (key, value))
        return (torch.cat(made, 1) if made else x), state

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (B * H * W, heads, T, C / heads)."""
        joint = self.qkv(self.norm(x)).view(*x.shape[:-1], 3, self.heads, x.shape[-1] // self.heads)
        query, key, value = joint.permute(4, 0, 2, 3, 5, 1, 6).flatten(1, 3)
        return query, key, value

    def _added(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype))
        batch, steps, height, width, channels = x.shape
        mixed = mixed.view(batch, height, width, self.heads, steps, channels // self.heads)
        mixed = mixed.permute(0, 4, 1, 2, 3, 5).reshape(x.shape)
        added: Tensor = self.out(mixed)
        return x + added


def _zero(channels: int) -> Linear:
    """Return a linear layer that gives zeros."""
    layer = Linear(channels, channels)
    nn.init.zeros_(layer.weight)
    return layer
