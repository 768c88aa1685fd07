"""Stacks of blocks that mix tokens through a state: what linear attention and state spaces share.

A block is that of the Transformer with another mixer in the place of attention: each layer is beside a residual path, after a
norm, and its last projection is zero at the start. A mixer has matrices in and out, often a short convolution in every channel
before what it mixes, and a state of fixed size.

Shapes: R rows, L tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.models.coordinates import Coordinates
from trainers.autoregressive.models.fast.short_convolution import short_convolution
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.layers import FeedForward, RMSNorm
from trainers.autoregressive.models.ordinal import HeadConfig
from trainers.autoregressive.models.stateful import State, StatefulModel

NORM_EPS = 1e-5
STEPS = (0.001, 0.1)
"""From where to where the sizes of steps are drawn at the start: one is about the inverse of how many tokens are remembered."""


@dataclass(frozen=True)
class MixerConfig(HeadConfig):
    """A stack of blocks, each a mixer and a gated feed-forward layer (SwiGLU)."""

    layers: int = 8
    """Number of blocks."""
    width: int = 512
    """Size of the residual stream."""
    mlp_width: int | None = None
    """Hidden size of the feed-forward layer; None means about 8/3 of the width, as in the Transformer."""
    dropout: float = 0.0
    """Probability of dropping an activation after each layer while training."""
    coordinates: bool = False
    """Whether the place of each token in its grid comes in beside its id."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "layers", "width", "mlp_width")
        self.probability("dropout")


class Mixer(nn.Module):
    """What mixes the tokens of a block. Its last projection is ``out``."""

    out: nn.Linear

    def start(self, rows: int, like: Tensor) -> State:
        """Return the state before the first token, in float32 at least; see `StatefulModel.start`."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Return what ``x`` (R, L, D) is mixed to and the state after it; see `StatefulModel.body`."""
        raise NotImplementedError


class ShortConvolution(nn.Module):
    """A causal convolution of a few places in every channel by itself, and SiLU; its state are the tokens that it still needs.

    Args:
        channels: C.
        size: K, how many places it sees.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        # Flat, so that an optimiser takes it for what it is: numbers of single channels, no matrix to decay or orthogonalise.
        self.weight = nn.Parameter(torch.empty(size * channels).uniform_(-(size**-0.5), size**-0.5))

    def start(self, rows: int, like: Tensor) -> Tensor:
        """Return zeros (R, K - 1, C)."""
        return like.new_zeros(rows, self.size - 1, self.channels, dtype=at_least_float32(like.dtype))

    def forward(self, x: Tensor, before: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the result (R, L, C), in float32 at least, and the last K - 1 real tokens."""
        joined = torch.cat((before, x.to(before.dtype)), 1)
        found = short_convolution(joined, self.weight.to(before.dtype).view(self.size, self.channels))
        if lengths is None:
            return found, joined[:, x.shape[1] :].clone()
        places = lengths[:, None] + torch.arange(self.size - 1, device=x.device)
        return found, joined[torch.arange(len(x), device=x.device)[:, None], places]


class MixerBlock(nn.Module):
    """A mixer and a feed-forward layer, each after a norm and beside a residual path."""

    def __init__(self, config: MixerConfig, mixer: Mixer) -> None:
        super().__init__()
        feed_forward = TransformerConfig(width=config.width, heads=1, positions="learned", mlp_width=config.mlp_width)
        self.mixer_norm = RMSNorm(config.width, NORM_EPS)
        self.mixer = mixer
        self.mlp_norm = RMSNorm(config.width, NORM_EPS)
        self.mlp = FeedForward(feed_forward)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        nn.init.zeros_(mixer.out.weight)
        nn.init.zeros_(self.mlp.down.weight)

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Map ``x`` (R, L, D); see `Mixer.forward`."""
        mixed, after = self.mixer(self.mixer_norm(x), state, lengths)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.mlp(self.mlp_norm(x))), after


class MixerModel(StatefulModel):
    """A stack of blocks over ids.

    Args:
        config: the family's configuration.
        mixer: makes the mixer of a block.
    """

    def __init__(self, config: MixerConfig, mixer: Callable[[Any], Mixer]) -> None:
        super().__init__(config, config.width)
        self.coordinates = Coordinates(config.width) if config.coordinates else None
        self.blocks = nn.ModuleList(MixerBlock(config, mixer(config)) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, NORM_EPS)

    @property
    def needs(self) -> frozenset[str]:
        """See `SequenceModel.needs`."""
        return frozenset() if self.coordinates is None else frozenset({"axial"})

    def start(self, rows: int, like: Tensor) -> State:
        """Return the states of all blocks."""
        parts: list[Tensor] = []
        for block in self.blocks:
            assert isinstance(block, MixerBlock)
            parts += block.mixer.start(rows, like)
        return tuple(parts)

    def body(self, x: Tensor, inputs: Inputs, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """See `StatefulModel.body`."""
        return self._through(x, inputs, state, lengths, {})

    def layer_states(self, inputs: Inputs) -> dict[str, Tensor]:
        """See `trainers.autoregressive.models.LayeredModel`."""
        seen: dict[str, Tensor] = {}
        x: Tensor = self.embedding(inputs.ids)
        self._through(x, inputs, self.start(len(x), x), None, seen)
        return seen

    def _through(
        self, x: Tensor, inputs: Inputs, state: State, lengths: Tensor | None, seen: dict[str, Tensor]
    ) -> tuple[Tensor, State]:
        """Do what `body` does, and put into ``seen`` what comes out of each block."""
        if self.coordinates is not None:
            x = x + self.coordinates(inputs.of("axial"))
        seen["embedding"] = x
        parts = len(state) // len(self.blocks)
        after: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x, carried = block(x, state[index * parts : (index + 1) * parts], lengths)
            seen[f"layer {index + 1}"] = x
            after += carried
        result = seen["norm"] = self.norm(x)
        return result, tuple(after)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return what sums over many tokens are kept in."""
    return torch.promote_types(dtype, torch.float32)


def are_real(lengths: Tensor | None, count: int) -> Tensor | None:
    """Return which of ``count`` tokens are real, bool (R, L, 1); None if all are."""
    return None if lengths is None else (torch.arange(count, device=lengths.device) < lengths[:, None])[..., None]


class HeadDecay(nn.Module):
    """How fast the state of each head decays: step sizes softplus(x + bias) and rates, as in Mamba-2 (arXiv 2405.21060).

    Args:
        heads: H.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        step = torch.empty(heads).uniform_(*(math.log(step) for step in STEPS)).exp()
        # The inverse of softplus.
        self.bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the logarithm of the decay and the step size of ``x`` (R, L, H), both 0 where a token is not ``real``."""
        kind = at_least_float32(x.dtype)
        step = nn.functional.softplus(x.to(kind) + self.bias.to(kind))
        if real is not None:
            step = step * real
        return -self.log_rate.to(kind).exp() * step, step
