"""SimVQ: a fixed random codebook behind one learned linear layer, so that every code moves when any is used.

Zhu et al. 2024, arXiv:2411.02038: the codes are ``W c_k + b`` with c_k drawn once from N(0, 1 / d). An update of W turns and
stretches the whole codebook, so no code is left behind and large codebooks stay in use, without averages, k-means or
replacement. Losses as in `quantizers.vq` with ``codebook`` reaching W and b. The bias is that of the
authors' code; without it this equals vector-quantize-pytorch's ``SimVQ``, whose training step takes 2.1 times as long
(``benchmarks/nearest_code.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss

from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer, Rows, straight_through
from tokenize_kit.tokenizers.learned.quantizers.nearest import nearest_code
from tokenize_kit.tokenizers.learned.quantizers.rotation import rotated


class SimVectorQuantizer(Quantizer):
    """Nearest code of a linearly transformed fixed codebook.

    Args:
        dim: channels of the latent, and of the codes.
        codebook_size: number of codes.
        codebook_dim: dimensions of the fixed codebook; None: those of the latent.
        rotation_trick: how the gradient reaches the encoder; see `rotated`.
    """

    frozen: Tensor

    def __init__(self, dim: int, *, codebook_size: int, codebook_dim: int | None, rotation_trick: bool) -> None:
        super().__init__(dim, (codebook_size,))
        self.pass_gradient = rotated if rotation_trick else straight_through
        frozen_dim = codebook_dim or dim
        self.register_buffer("frozen", torch.randn(codebook_size, frozen_dim) * frozen_dim**-0.5)
        self.transform = nn.Linear(frozen_dim, dim)

    def quantize_rows(self, rows: Tensor, _samples: int, /) -> Rows:
        """See `Quantizer.quantize_rows`."""
        table = self.transform(self.frozen)
        ids = nearest_code(rows.detach(), table.detach())
        codes = embedding(ids, table)
        losses = {"commitment": mse_loss(rows, codes.detach()), "codebook": mse_loss(codes, rows.detach())}
        return Rows(self.pass_gradient(rows, codes), ids, losses)

    def encode_rows(self, rows: Tensor) -> Tensor:
        """See `Quantizer.encode_rows`."""
        return nearest_code(rows, self.transform(self.frozen))

    def decode_rows(self, ids: Tensor) -> Tensor:
        """See `Quantizer.decode_rows`."""
        return embedding(ids, self.transform(self.frozen))
