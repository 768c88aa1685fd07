"""Residual vector quantization: each codebook quantizes what the ones before left over; the codes are summed.

SoundStream (Zeghidour et al. 2021, arXiv:2107.03312), EnCodec, DAC (Kumar et al. 2023, arXiv:2306.06546: 9 codebooks of
1,024 x 8, normalised, each with its own linear layers). The first n ids are the same however many are asked for, and decode
on their own; ``quantizer_dropout`` trains for that.

Two gradients must not be mixed up. The commitment loss of each codebook goes to the encoder directly: what a codebook is
given is ``z - sg(sum of the codes before)``. Through the sum of the codes, the gradient must reach the encoder once, not once
a codebook: without linear layers it passes the sum as a whole, and with them it goes the way that the values go.
vector-quantize-pytorch detaches both, so its gradient is Q times too large; EnCodec's authors fixed the same in theirs. Its
training step takes 2.8 times as long (``benchmarks/nearest_code.py``).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer, Rows
from tokenize_kit.tokenizers.learned.quantizers.vq import VectorQuantizer


class ResidualVectorQuantizer(Quantizer):
    """Q codebooks in turn.

    Args:
        dim: channels of the latent.
        codebooks: Q.
        codebook_size: number of codes of each.
        codebook_dim: dimensions of each lookup; None: those of the latent, without linear layers.
        quantizer_dropout: part of the training samples that use a random number, 1 to Q, of the first codebooks.
        layer: further options of `VectorQuantizer`.
    """

    codebook_axis = True

    def __init__(
        self,
        dim: int,
        *,
        codebooks: int,
        codebook_size: int,
        codebook_dim: int | None,
        quantizer_dropout: float,
        **layer: Any,
    ) -> None:
        super().__init__(dim, (codebook_size,) * codebooks)
        self.layers = nn.ModuleList(
            VectorQuantizer(dim, codebook_size=codebook_size, codebook_dim=codebook_dim, **layer)
            for _ in range(codebooks)
        )
        self._projected = codebook_dim is not None
        self._dropout = quantizer_dropout

    def quantize_rows(self, rows: Tensor, samples: int, /) -> Rows:
        """See `Quantizer.quantize_rows`."""
        depths = self._depths(samples, len(rows), rows.device) if self.training and self._dropout else None
        residual = path = rows
        total = torch.zeros_like(rows)
        ids, losses = [], dict[str, Tensor]()
        for place, layer in enumerate(self._layers()):
            counted = None if depths is None else depths > place
            used = None if counted is None else counted[:, None].float()
            found = layer.look_up(residual, counted)
            for name, loss in layer.losses(found, used).items():
                losses[name] = losses.get(name, 0) + loss / len(self.layers)
            out = found.codes
            if self._projected:
                out = layer.project_out(layer.pass_gradient(layer.codebook.prepared(layer.project_in(path)), out))
            if used is not None:
                out = out * used
            total = total + out
            residual = residual - out.detach()
            if self._projected:
                path = path - out
            ids.append(found.ids)
        codes = total if self._projected else self._layers()[0].pass_gradient(rows, total)
        return Rows(codes, torch.stack(ids, 1), losses)

    def encode_rows(self, rows: Tensor) -> Tensor:
        """See `Quantizer.encode_rows`."""
        residual, ids = rows, []
        for layer in self._layers():
            ids.append(layer.encode_rows(residual))
            residual = residual - layer.decode_rows(ids[-1])
        return torch.stack(ids, 1)

    def decode_rows(self, ids: Tensor) -> Tensor:
        """See `Quantizer.decode_rows`."""
        total = torch.zeros(len(ids), self.dim, device=ids.device)
        for layer, column in zip(self._layers(), ids.unbind(1), strict=False):
            total = total + layer.decode_rows(column)
        return total

    def _layers(self) -> list[VectorQuantizer]:
        return cast("list[VectorQuantizer]", list(self.layers))

    def _depths(self, samples: int, rows: int, device: torch.device) -> Tensor:
        """Draw how many codebooks each sample uses, and return it for each row, int64 ``(N,)``."""
        depths = torch.randint(1, len(self.layers) + 1, (samples,), device=device)
        whole = torch.rand(samples, device=device) >= self._dropout
        return depths.masked_fill(whole, len(self.layers)).repeat_interleave(rows // samples)
