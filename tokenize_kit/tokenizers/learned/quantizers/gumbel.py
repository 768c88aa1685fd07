"""Categorical latents by Gumbel-softmax: the discrete VAE of DALL-E.

A linear layer gives logits over the codes. In training the decoder sees the mixture of the codes with weights
``softmax((logits + gumbel noise) / temperature)``, nearly one code when the temperature is low; it falls along a cosine over
the run. With ``straight_through`` it sees the largest alone, with the gradient of the mixture. Evaluation takes the code with
the largest logit. The ``kl`` loss is that to the uniform distribution, ``sum q log(q K)`` with ``q = softmax(logits)``, a mean
over tokens in nats; it keeps the choice open at first (DALL-E raises its weight from 0 to 6.6). The ``entropy`` loss is minus the
entropy of the mean of ``q`` over the batch (wav2vec 2.0's diversity, Baevski et al. 2020, arXiv:2006.11477): without it a short
training leaves all but a few codes unused.

Jang et al. 2016, arXiv:1611.01144; Ramesh et al. 2021, arXiv:2102.12092, appendix A; as in taming-transformers'
``GumbelQuantize``, whose ``kl`` has the same scale. torch's ``gumbel_softmax`` takes 2.6 times as long on a CPU, because of
its exponential noise (``benchmarks/libraries.py --only gumbel``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer, Rows, straight_through
from tokenize_kit.tokenizers.learned.quantizers.nearest import highest
from tokenize_kit.tokenizers.learned.quantizers.processes import mean_over_processes


class GumbelQuantizer(Quantizer):
    """Chooses a code by logits.

    Args:
        dim: channels of the latent, and of the codes.
        codebook_size: number of codes.
        gumbel_temperature_start: temperature until `anneal` is called, and at progress 0.
        gumbel_temperature_end: temperature at progress 1.
        straight_through: whether the decoder sees a single code in training.
    """

    def __init__(
        self,
        dim: int,
        *,
        codebook_size: int,
        gumbel_temperature_start: float,
        gumbel_temperature_end: float,
        straight_through: bool,
    ) -> None:
        super().__init__(dim, (codebook_size,))
        self.project = nn.Linear(dim, codebook_size)
        self.codes = nn.Parameter(torch.randn(codebook_size, dim))
        self.temperature = gumbel_temperature_start
        self._temperatures = (gumbel_temperature_start, gumbel_temperature_end)
        self._hard = straight_through

    def anneal(self, progress: float) -> None:
        """Set the temperature: from start to end along half a cosine."""
        start, end = self._temperatures
        self.temperature = end + (start - end) * (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2

    def quantize_rows(self, rows: Tensor, _samples: int, /) -> Rows:
        """See `Quantizer.quantize_rows`."""
        logits = self.project(rows)
        log_shares = logits.log_softmax(1)
        shares = log_shares.exp()
        kl = (shares * log_shares).sum(1).mean() + math.log(self.codebook_sizes[0])
        mean = mean_over_processes(shares.sum(0), len(shares))
        losses = {"kl": kl, "entropy": (mean * mean.clamp(min=1e-10).log()).sum()}
        if not self.training:
            ids = highest(logits)
            return Rows(embedding(ids, self.codes), ids, losses)
        weights = ((logits + _gumbel_like(logits)) / self.temperature).softmax(1)
        ids = highest(weights)
        if self._hard:
            weights = straight_through(weights, torch.zeros_like(weights).scatter_(1, ids[:, None], 1.0))
        return Rows(weights @ self.codes, ids, losses)

    def encode_rows(self, rows: Tensor) -> Tensor:
        """See `Quantizer.encode_rows`."""
        return highest(self.project(rows))

    def decode_rows(self, ids: Tensor) -> Tensor:
        """See `Quantizer.decode_rows`."""
        return embedding(ids, self.codes)


def _gumbel_like(logits: Tensor) -> Tensor:
    # Uniform numbers cost a sixth of exponential ones on a CPU. The lowest is 2^-24 / 2, so the logarithm is finite.
    uniform = torch.rand_like(logits).add_(2**-25)
    return uniform.log_().neg_().clamp_(min=2**-25).log_().neg_()
