"""What every quantizer is: vectors of an encoder in, ids and the vectors that a decoder sees out.

Here are the layout (channels second outside, one row a token inside), the precision (float32 whatever autocast says) and
the checks, so that a quantizer itself is arithmetic on a matrix of tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

# With fewer rows than this, matrix products take another path in the BLAS and differ in the last bit.
_FEWEST_ROWS = 8


class Quantized(NamedTuple):
    """What a quantizer makes of a batch."""

    codes: Tensor
    """float32 ``(B, D, *S)``: what the decoder sees. Its gradient reaches the encoder (straight-through or rotated)."""
    ids: Tensor
    """int64 ``(B, *S)``, or ``(B, *S, Q)`` if the quantizer has several codebooks."""
    losses: dict[str, Tensor]
    """Scalar means without weights, to be added to the loss: some of ``commitment``, ``codebook``, ``entropy``, ``kl``;
    or ``library``, which has the weights of the options of vector-quantize-pytorch in it."""


class Rows(NamedTuple):
    """The same for tokens as rows: codes ``(N, D)``, ids ``(N,)`` or ``(N, Q)``."""

    codes: Tensor
    ids: Tensor
    losses: dict[str, Tensor]


class Quantizer(nn.Module, ABC):
    """Base of all quantizers; a kind writes the three methods on rows at the end.

    In evaluation nothing random happens, no buffer changes, and the ids of a token depend on its own vector alone. All
    state is in ``state_dict`` (so a resumed run goes on as if it had not stopped), and training draws from torch's global
    generator.

    Args:
        dim: D, the channels of the latent.
        codebook_sizes: number of codes of each codebook.
    """

    codebook_axis = False
    """Whether ids have a last axis over codebooks."""

    def __init__(self, dim: int, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.dim = dim
        self.codebook_sizes = codebook_sizes

    def forward(self, z: Tensor) -> Quantized:
        """Quantize latents ``(B, D, *S)``; in training this may move the codebook.

        Raises:
            ValueError: the latents do not have D channels.
        """
        with _float32(z):
            rows = self._rows(z)
            codes, ids, losses = self.quantize_rows(rows, len(z))
            if not self.training and len(rows) < _FEWEST_ROWS:
                # Losses are means over the tokens that are there; codes and ids must not depend on how many there are.
                padded = self.quantize_rows(_padded(rows), len(z))
                codes, ids = padded.codes[: len(rows)], padded.ids[: len(rows)]
            codes = codes.view(len(z), *z.shape[2:], self.dim).movedim(-1, 1)
            return Quantized(codes, self._ids_grid(ids, z), losses)

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Return the ids, int64 ``(B, *S)`` or ``(B, *S, Q)``, of latents ``(B, D, *S)``: those of `forward` in evaluation.

        Raises:
            ValueError: the latents do not have D channels, or are not finite (their ids would mean nothing).
        """
        with _float32(z):
            rows = self._rows(z)
            if not torch.isfinite(rows).all():
                raise ValueError("the latents to quantize contain NaN or infinity; look at the input and the weights")
            return self._ids_grid(self.encode_rows(_padded(rows))[: len(rows)], z)

    def decode(self, ids: Tensor) -> Tensor:
        """Return the codes, float32 ``(B, D, *S)``, of ids ``(B, *S)`` or ``(B, *S, n)`` with the first n codebooks.

        Raises:
            ValueError: the ids are not whole numbers, are out of range, or have too many codebooks.
        """
        self._check_ids(ids)
        with _float32(ids):
            flat = ids.flatten(0, -2 if self.codebook_axis else -1).long()
            rows = self.decode_rows(_padded(flat))[: len(flat)]
        shape = ids.shape[:-1] if self.codebook_axis else ids.shape
        return rows.view(*shape, self.dim).movedim(-1, 1)

    def anneal(self, progress: float) -> None:
        """Set what changes over a run: a pure function of ``progress``, the part of the run that is done, in [0, 1]."""

    @abstractmethod
    def quantize_rows(self, rows: Tensor, samples: int, /) -> Rows:
        """Quantize float32 ``(N, D)``; ``samples`` of the batch have N / samples rows each, one after the other."""

    @abstractmethod
    def encode_rows(self, rows: Tensor) -> Tensor:
        """Return the ids of float32 ``(N, D)``, the same as `quantize_rows` does in evaluation."""

    @abstractmethod
    def decode_rows(self, ids: Tensor) -> Tensor:
        """Return the codes ``(N, D)`` of valid int64 ids ``(N,)`` or ``(N, n)``."""

    def _rows(self, z: Tensor) -> Tensor:
        if z.ndim < 2 or z.shape[1] != self.dim:
            raise ValueError(f"latents of shape {tuple(z.shape)}: the quantizer expects (batch, {self.dim}, ...)")
        return z.float().movedim(1, -1).reshape(-1, self.dim)

    def _ids_grid(self, ids: Tensor, z: Tensor) -> Tensor:
        return ids.view(len(z), *z.shape[2:], *ids.shape[1:])

    def _check_ids(self, ids: Tensor) -> None:
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise ValueError(f"ids of type {ids.dtype}: whole numbers are expected")
        if self.codebook_axis:
            count = ids.shape[-1] if ids.ndim > 1 else 0
            if not 1 <= count <= len(self.codebook_sizes):
                raise ValueError(
                    f"ids of shape {tuple(ids.shape)}: the last axis must be 1 to {len(self.codebook_sizes)} codebooks"
                )
        if ids.numel():
            alike = len(set(self.codebook_sizes)) == 1
            columns = [ids] if alike else ids.unbind(-1)
            for size, some in zip(self.codebook_sizes, columns, strict=False):
                low, high = int(some.min()), int(some.max())
                if low < 0 or high >= size:
                    wrong = low if low < 0 else high
                    raise ValueError(f"id {wrong} is not in 0..{size - 1}, the ids of this quantizer")


def _padded(rows: Tensor) -> Tensor:
    """Add rows of zeros up to the number from which a matrix product computes every row in the same way."""
    missing = _FEWEST_ROWS - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing > 0 else rows


def _float32(tensor: Tensor) -> torch.autocast:
    """Return a context that computes in float32 whatever precision is set around it."""
    return torch.autocast(tensor.device.type, enabled=False)


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """Return ``codes`` with a gradient that goes to ``z`` as if they were equal (Bengio et al. 2013, arXiv:1308.3432)."""
    passed: Tensor = _StraightThrough.apply(z, codes)
    return passed


class _StraightThrough(torch.autograd.Function):
    # The value is that of the codes to the bit, which z + (codes - z).detach() is not.
    @staticmethod
    def forward(_ctx: object, _z: Tensor, codes: Tensor) -> Tensor:
        return codes.detach().clone()

    @staticmethod
    def backward(_ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
