"""Vector quantization: each vector becomes the nearest code of a learned codebook.

van den Oord et al. 2017 (arXiv:1711.00937). With z the vector, c the nearest code and sg the stopped gradient:

    commitment  mean (z - sg c)^2   pulls the encoder to the codes
    codebook    mean (sg z - c)^2   pulls the codes to the vectors, where they are learned by gradient

A lookup in few dimensions, and of normalised vectors, keeps large codebooks in use: ViT-VQGAN (Yu et al. 2021,
arXiv:2110.04627), LlamaGen (Sun et al. 2024, arXiv:2406.06525; 16,384 codes of 8 dimensions by gradient). The losses are taken
where the lookup is, on normalised vectors if it normalises. The arithmetic of moving averages equals that of
vector-quantize-pytorch's ``VectorQuantize``, which the tests compare with; its training step takes 2.5 times as long
(``benchmarks/nearest_code.py``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss

from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer, Rows, straight_through
from tokenize_kit.tokenizers.learned.quantizers.codebook import Codebook
from tokenize_kit.tokenizers.learned.quantizers.rotation import rotated


class Lookup(NamedTuple):
    """What one lookup makes of vectors ``(N, D)``."""

    vectors: Tensor
    """``(N, d)``: what was looked up, with the gradient of the vectors."""
    codes: Tensor
    """``(N, d)``: the codes that were found, with the gradient of the codebook."""
    ids: Tensor
    """int64 ``(N,)``."""


class VectorQuantizer(Quantizer):
    """A codebook, between two linear layers if it has dimensions of its own.

    Args:
        dim: channels of the latent.
        codebook_size: number of codes.
        codebook_dim: dimensions of the lookup; None: those of the latent, without linear layers.
        rotation_trick: how the gradient reaches the encoder; see `rotated`.
        codebook: the options of `Codebook`.
    """

    def __init__(
        self, dim: int, *, codebook_size: int, codebook_dim: int | None, rotation_trick: bool, **codebook: Any
    ) -> None:
        super().__init__(dim, (codebook_size,))
        self.pass_gradient = rotated if rotation_trick else straight_through
        lookup_dim = codebook_dim or dim
        self.project_in = nn.Linear(dim, lookup_dim) if codebook_dim else nn.Identity()
        self.project_out = nn.Linear(lookup_dim, dim) if codebook_dim else nn.Identity()
        self.codebook = Codebook(codebook_size, lookup_dim, **codebook)

    def quantize_rows(self, rows: Tensor, _samples: int, /) -> Rows:
        """See `Quantizer.quantize_rows`."""
        found = self.look_up(rows)
        codes = self.project_out(self.pass_gradient(found.vectors, found.codes))
        return Rows(codes, found.ids, self.losses(found))

    def encode_rows(self, rows: Tensor) -> Tensor:
        """See `Quantizer.encode_rows`."""
        return self.codebook.search(self.codebook.prepared(self.project_in(rows)))

    def decode_rows(self, ids: Tensor) -> Tensor:
        """See `Quantizer.decode_rows`."""
        codes: Tensor = self.project_out(embedding(ids, self.codebook.table()))
        return codes

    def look_up(self, rows: Tensor, counted: Tensor | None = None) -> Lookup:
        """Find the codes of rows ``(N, D)``; in training the codebook learns from those that are ``counted``, bool ``(N,)``."""
        vectors = self.codebook.prepared(self.project_in(rows))
        seen = vectors.detach() if counted is None else vectors.detach()[counted]
        if self.training:
            self.codebook.before_search(seen)
        ids = self.codebook.search(vectors.detach())
        codes = embedding(ids, self.codebook.table())
        if self.training:
            self.codebook.after_search(seen, ids if counted is None else ids[counted])
        return Lookup(vectors, codes, ids)

    def losses(self, found: Lookup, used: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``commitment``, and ``codebook`` if codes are learned by gradient.

        Args:
            found: the result of `look_up`.
            used: float ``(N, 1)``, 1 for rows that count and 0 for others; the means are over all rows.
        """
        losses = {"commitment": _mean_square(found.vectors, found.codes.detach(), used)}
        if self.codebook.learned:
            losses["codebook"] = _mean_square(found.codes, found.vectors.detach(), used)
        return losses


def _mean_square(one: Tensor, other: Tensor, used: Tensor | None) -> Tensor:
    return mse_loss(one, other) if used is None else ((one - other).square() * used).mean()
