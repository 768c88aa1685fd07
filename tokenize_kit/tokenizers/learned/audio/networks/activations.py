"""Activations of the waveform codecs of the field, in the form in which they are quick on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.streaming import Layer


class Elu(Layer):
    """The exponential linear unit.

    torch's own takes half of the time of an EnCodec on a CPU, because its exp(x) - 1 is exact near 0. Where no gradient is
    wanted, a quick exp is enough: it is as near to the true value as 1 + x can be in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence of the same shape."""
        if torch.is_grad_enabled() or x.dtype != torch.float32:
            return F.elu(x)
        below = x.clamp(max=0).exp_().sub_(1)
        return torch.maximum(x, below, out=below)


class Snake(Layer):
    """x + sin(a x)^2 / a with a learned a for each channel (Ziyin et al. 2020, arXiv 2006.08195), as in DAC."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence of the same shape."""
        alpha = self.alpha.to(x.dtype)
        return torch.addcmul(x, torch.sin(x * alpha).square(), 1 / (alpha + 1e-9))
