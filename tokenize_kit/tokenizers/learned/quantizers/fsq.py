"""Finite scalar quantization: a few channels, each rounded to a few levels; the codebook is their product.

A channel z with L levels becomes ``round(tanh(z + s) * h - o)`` with ``h = (L - 1) / 2``; an even L is shifted by half a
step (``o = 1/2``, and ``s`` such that z = 0 stays at level L / 2), so its levels are -L/2 .. L/2 - 1, one more below than
above. The gradient goes through the rounding as if it were not there. Codes are the levels divided by ``L // 2``. There is no
codebook to learn, none to collapse, and no loss.

Mentzer et al. 2023, arXiv:2309.15505 (appendix A.1), with one difference: two levels are a sign, ``s = 0``, because the
paper's shift would put the border at z = -3.8. Three and more levels equal vector-quantize-pytorch's ``FSQ``, which is as
fast (1.0 times, ``benchmarks/nearest_code.py``), but has ids in int32 by float32 sums, exact up to 2^24 codes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer, Rows, straight_through

_MARGIN = 1e-3
"""The range is this much wider than the outermost levels, so that rounding reaches them (the paper's epsilon)."""


class FiniteScalarQuantizer(Quantizer):
    """Rounds ``len(levels)`` channels; a linear layer before and after unless the latent has just as many.

    The first channel is the lowest digit: ``id = sum(level_i * prod(levels[:i]))`` with levels counted from 0.

    Args:
        dim: channels of the latent.
        levels: levels of each channel, at least 2.
    """

    def __init__(self, dim: int, *, levels: tuple[int, ...]) -> None:
        super().__init__(dim, (math.prod(levels),))
        channels = len(levels)
        self.project_in = nn.Linear(dim, channels) if dim != channels else nn.Identity()
        self.project_out = nn.Linear(channels, dim) if dim != channels else nn.Identity()
        # float32 would do up to 2^24 codes; whole numbers always do.
        sizes = torch.tensor(levels)
        self.register_buffer("levels", sizes, persistent=False)
        self.register_buffer("_basis", torch.tensor([math.prod(levels[:i]) for i in range(channels)]), persistent=False)
        half = (sizes - 1) * (1 + _MARGIN) / 2
        offset = torch.where(sizes % 2 == 0, 0.5, 0.0)
        shift = torch.where(sizes > 2, torch.atanh(offset / half), 0.0)
        for name, value in (("_half", half), ("_offset", offset), ("_shift", shift)):
            self.register_buffer(name, value, persistent=False)

    levels: Tensor
    _basis: Tensor
    _half: Tensor
    _offset: Tensor
    _shift: Tensor

    def quantize_rows(self, rows: Tensor, _samples: int, /) -> Rows:
        """See `Quantizer.quantize_rows`."""
        bounded = self._bounded(self.project_in(rows))
        steps = straight_through(bounded, bounded.round())
        return Rows(self.project_out(steps / (self.levels // 2)), self._ids(steps), {})

    def encode_rows(self, rows: Tensor) -> Tensor:
        """See `Quantizer.encode_rows`."""
        return self._ids(self._bounded(self.project_in(rows)).round())

    def decode_rows(self, ids: Tensor) -> Tensor:
        """See `Quantizer.decode_rows`."""
        half = self.levels // 2
        steps = ids[:, None] // self._basis % self.levels - half
        codes: Tensor = self.project_out(steps.float() / half)
        return codes

    def _bounded(self, values: Tensor) -> Tensor:
        return torch.tanh(values + self._shift) * self._half - self._offset

    def _ids(self, steps: Tensor) -> Tensor:
        return ((steps.detach().long() + self.levels // 2) * self._basis).sum(1)
