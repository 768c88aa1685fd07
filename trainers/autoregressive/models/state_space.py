"""State spaces: linear recurrences with a state in every channel (S4 and Mamba).

    s4d         s_t = p s_{t-1} + x_t with complex p of the layer, y_t = 2 Re(c . s_t): a convolution as long as the context
                (diagonal S4, Gu et al. 2022, arXiv 2206.11893; zero-order hold, S4D-Lin and S4D-Inv)
    selective   S = a_t S + d_t B_t x_t^T, y_t = S^T C_t, where step d_t, B_t and C_t follow from the token (Mamba, Gu and Dao
                2023, arXiv 2312.00752); the decay a_t = exp(-rate d_t) is one number a head, as in Mamba-2 (arXiv 2405.21060)

What is seen is everything before; a step of generation costs the same at any length. Both are trained in chunks
(`fast.diagonal`, `fast.chunks`), which cost a token the same at any length too. The decay of the first Mamba, a number for each
channel and place of the state, has no form with matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.autoregressive.models.fast.chunks import linear_attention
from trainers.autoregressive.models.fast.diagonal import diagonal_convolution, exponential
from trainers.autoregressive.models.layers import RMSNorm
from trainers.autoregressive.models.mixers import (
    NORM_EPS,
    STEPS,
    HeadDecay,
    Mixer,
    MixerConfig,
    MixerModel,
    ShortConvolution,
    are_real,
    at_least_float32,
)
from trainers.autoregressive.models.stateful import State


@dataclass(frozen=True)
class StateSpaceConfig(MixerConfig):
    """A stack of blocks with a state space."""

    kind: Literal["s4d", "selective"] = "selective"
    """Whether the recurrence is the same for all tokens, or follows from each."""
    state: int = 64
    """Numbers of the state of a channel; of s4d they are half as many complex ones."""
    head_size: int = 64
    """selective: channels that share their decay; the width is a multiple of it."""
    convolution: int = 4
    """selective: how many tokens the convolution sees that everything comes through; 0 leaves it out."""
    spectrum: Literal["lin", "inv"] = "lin"
    """s4d: the frequencies at the start, evenly spaced (S4D-Lin) or as 1 / n (S4D-Inv)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "state", "head_size")
        self.at_least(0, "convolution")
        others = ("head_size", "convolution") if self.kind == "s4d" else ("spectrum",)
        for name in others:
            if (value := getattr(self, name)) != getattr(StateSpaceConfig, name):
                kind = "selective" if self.kind == "s4d" else "s4d"
                raise ValueError(f"{name} {value} is for the kind {kind}, not for {self.kind}; leave it out")
        if self.kind == "selective" and self.width % self.head_size:
            raise ValueError(f"width {self.width} is not a multiple of head_size {self.head_size}; change one of them")
        if self.kind == "s4d" and self.state % 2:
            raise ValueError(f"state {self.state} must be even for s4d, whose states are pairs of numbers")


class StateSpace(MixerModel):
    """A stack of blocks with a state space over ids."""

    configuration = StateSpaceConfig

    def __init__(self, config: StateSpaceConfig) -> None:
        super().__init__(config, DiagonalMixer if config.kind == "s4d" else SelectiveMixer)


class DiagonalMixer(Mixer):
    """A diagonal state space in every channel, and a gate."""

    def __init__(self, config: StateSpaceConfig) -> None:
        super().__init__()
        width, count = config.width, config.state // 2
        self.shape = (width, count)
        self.enter = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        # All that belongs to single channels is flat; see `ShortConvolution`.
        self.log_step = nn.Parameter(torch.empty(width).uniform_(*(math.log(step) for step in STEPS)))
        self.log_rate = nn.Parameter(torch.full((width * count,), math.log(0.5)))
        self.frequency = nn.Parameter(spectrum(config.spectrum, count).repeat(width))
        self.mix = nn.Parameter(torch.randn(width * count * 2) * 0.5**0.5)
        self.skip = nn.Parameter(torch.ones(width))

    def start(self, rows: int, like: Tensor) -> State:
        """Return zeros, complex (R, D, N)."""
        return (like.new_zeros(rows, *self.shape, dtype=at_least_float32(like.dtype).to_complex()),)

    def recurrence(self, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the logarithm of the powers and the mixture of `diagonal_convolution`, complex (D, N), of reals of a kind."""
        rate, frequency = (x.to(kind).view(self.shape) for x in (self.log_rate, self.frequency))
        poles = torch.complex(-rate.exp(), frequency)
        log_power = poles * self.log_step.to(kind).exp()[:, None]
        # Zero-order hold: the input is constant between two tokens.
        held = (exponential(log_power) - 1) / poles
        return log_power, torch.view_as_complex(self.mix.to(kind).view(*self.shape, 2)) * held

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """See `Mixer.forward`."""
        inside, gate = self.enter(x).chunk(2, -1)
        log_power, mix = self.recurrence(state[0].real.dtype)
        y, after = diagonal_convolution(inside, log_power, mix, state[0], lengths)
        mixed: Tensor = self.out((y + inside * self.skip).to(x.dtype) * F.silu(gate))
        return mixed, (after,)


class SelectiveMixer(Mixer):
    """A selective state space of several heads with B and C in common, a short convolution before it and a gate."""

    def __init__(self, config: StateSpaceConfig) -> None:
        super().__init__()
        width, self.count = config.width, config.state
        self.channels = config.head_size
        self.heads = width // self.channels
        self.sizes = (width + 2 * self.count, width, self.heads)
        self.enter = nn.Linear(width, sum(self.sizes), bias=False)
        self.convolution = ShortConvolution(self.sizes[0], config.convolution) if config.convolution else None
        self.decay = HeadDecay(self.heads)
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm = RMSNorm(width, NORM_EPS)
        self.out = nn.Linear(width, width, bias=False)

    def start(self, rows: int, like: Tensor) -> State:
        """Return zeros: the state of each head (R, H, N, channels) and that of the convolution."""
        matrix = like.new_zeros(rows, self.heads, self.count, self.channels, dtype=at_least_float32(like.dtype))
        return (matrix,) if self.convolution is None else (matrix, self.convolution.start(rows, like))

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """See `Mixer.forward`."""
        matrix, *carried = state
        joint, gate, steps = self.enter(x).split(self.sizes, -1)
        if self.convolution is not None:
            joint, carried[0] = self.convolution(joint, carried[0], lengths)
        inside, enters, leaves = joint.to(matrix.dtype).split((joint.shape[-1] - 2 * self.count, *[self.count] * 2), -1)
        inside = inside.unflatten(-1, (self.heads, -1))
        log_decay, step = self.decay(steps, are_real(lengths, x.shape[1]))
        y, matrix = linear_attention(
            leaves[:, :, None], enters[:, :, None], inside * step[..., None], matrix, log_decay
        )
        y = (y + inside * self.skip[:, None]).flatten(-2)
        mixed: Tensor = self.out(self.norm(y * F.silu(gate)).to(x.dtype))
        return mixed, (matrix, *carried)


def spectrum(kind: Literal["lin", "inv"], count: int) -> Tensor:
    """Return the first frequencies of ``count`` complex states, those of S4D-Lin or S4D-Inv."""
    number = torch.arange(count)
    if kind == "lin":
        return math.pi * number
    both = 2 * count
    return both / math.pi * (both / (2 * number + 1) - 1)
