"""Lookup-free quantization: the signs of a few channels are the bits of the id; there is no codebook to search.

lfq: Yu et al. 2023 (MAGVIT-v2), arXiv:2310.05737; codes are -1 and +1. bsq: Zhao et al. 2024, arXiv:2406.07548; vectors are
scaled to length 1 first and codes to 1 / sqrt(bits), which bounds the error. The first channel is the highest bit.

The ``entropy`` loss is ``H(id | vector) - H(id)``, in nats, for the soft assignment ``p(code) ~ exp(2 vector . code / t)``:
the first term makes each choice clear, the second makes all codes used.

- Given a vector the bits are independent, ``p(bit = 1) = sigmoid(4 value * scale / t)`` with codes +-scale, so the first term
  is a sum over bits, exactly.
- The distribution over the batch is a mean of such products and does not factorise. With the bits in two halves, that mean is
  one matrix product of the halves' distributions, ``A^T B / N``, so 2^12 codes cost as much as 2 x 64 numbers a token, and it
  is exact. Above ``entropy_group_bits`` bits, groups are taken to be independent of each other and their entropies are
  added (BSQ does it for groups of 9): an upper bound of the entropy.

Both terms are in float32, the log of p from log-sigmoids. vector-quantize-pytorch's ``LFQ`` clips probabilities at 1e-5 in
the log; apart from that it gives the same numbers, and takes 5.1 times as long (``benchmarks/nearest_code.py``), as it holds the
distances to all codes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, mse_loss, normalize

from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer, Rows, straight_through
from tokenize_kit.tokenizers.learned.quantizers.processes import mean_over_processes


class LookupFreeQuantizer(Quantizer):
    """Signs as bits; a linear layer before and after unless the latent has one channel a bit.

    Args:
        dim: channels of the latent.
        codebook_size: number of codes, a power of two.
        entropy_temperature: t above.
        entropy_group_bits: largest number of bits over which the entropy of the batch is exact.
    """

    powers: Tensor

    def __init__(self, dim: int, *, codebook_size: int, entropy_temperature: float, entropy_group_bits: int) -> None:
        super().__init__(dim, (codebook_size,))
        self.bits = codebook_size.bit_length() - 1
        self.scale = 1.0
        self._temperature = entropy_temperature
        groups = math.ceil(self.bits / entropy_group_bits)
        self._groups = [self.bits * (i + 1) // groups - self.bits * i // groups for i in range(groups)]
        self.project_in = nn.Linear(dim, self.bits) if dim != self.bits else nn.Identity()
        self.project_out = nn.Linear(self.bits, dim) if dim != self.bits else nn.Identity()
        self.register_buffer("powers", 2 ** torch.arange(self.bits - 1, -1, -1), persistent=False)

    def quantize_rows(self, rows: Tensor, _samples: int, /) -> Rows:
        """See `Quantizer.quantize_rows`."""
        values = self.prepared(self.project_in(rows))
        bits = values.detach() > 0
        codes = self._signs(bits)
        losses = {
            "commitment": mse_loss(values, codes),
            "entropy": entropy_loss(values * (4 * self.scale / self._temperature), self._groups),
        }
        return Rows(self.project_out(straight_through(values, codes)), self._ids(bits), losses)

    def encode_rows(self, rows: Tensor) -> Tensor:
        """See `Quantizer.encode_rows`."""
        return self._ids(self.prepared(self.project_in(rows)) > 0)

    def decode_rows(self, ids: Tensor) -> Tensor:
        """See `Quantizer.decode_rows`."""
        codes: Tensor = self.project_out(self._signs((ids[:, None] & self.powers) != 0))
        return codes

    def prepared(self, values: Tensor) -> Tensor:
        """Return the values ``(N, bits)`` whose signs are taken."""
        return values

    def _signs(self, bits: Tensor) -> Tensor:
        return bits.float() * (2 * self.scale) - self.scale

    def _ids(self, bits: Tensor) -> Tensor:
        return (bits * self.powers).sum(1)


class BinarySphericalQuantizer(LookupFreeQuantizer):
    """`LookupFreeQuantizer` of vectors on the unit sphere."""

    def __init__(self, dim: int, *, codebook_size: int, entropy_temperature: float, entropy_group_bits: int) -> None:
        super().__init__(
            dim,
            codebook_size=codebook_size,
            entropy_temperature=entropy_temperature,
            entropy_group_bits=entropy_group_bits,
        )
        self.scale = self.bits**-0.5

    def prepared(self, values: Tensor) -> Tensor:
        """Return the values ``(N, bits)`` scaled to length 1."""
        return normalize(values, dim=1)


def entropy_loss(logits: Tensor, groups: list[int]) -> Tensor:
    """Return the entropy of the codes given a token, minus that over the batch (of all processes), in nats.

    Args:
        logits: float32 ``(N, bits)`` of the bits being 1.
        groups: sizes of the groups of bits; over each the entropy of the batch is exact.
    """
    return bits_entropy(logits) - sum(
        (batch_entropy(group) for group in torch.split(logits, groups, dim=1)), start=logits.new_zeros(())
    )


def bits_entropy(logits: Tensor) -> Tensor:
    """Return the mean over tokens of the entropy of independent bits, in nats, for logits ``(N, bits)``."""
    # H = log(1 + e^x) - x sigmoid(x) for a bit with logit x.
    return (-logsigmoid(-logits) - logits * torch.sigmoid(logits)).sum(1).mean()


def batch_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the mean distribution over all 2^bits codes, in nats, for logits ``(N, bits)``."""
    bits = logits.shape[1]
    high, low = torch.split(logits, [bits // 2, bits - bits // 2], dim=1)
    mean = mean_over_processes(_distribution(high).t() @ _distribution(low), len(logits))
    # Clipped for the gradient of codes that no token has any probability of.
    return -(mean * mean.clamp(min=1e-20).log()).sum()


def _distribution(logits: Tensor) -> Tensor:
    """Return the probabilities ``(N, 2^bits)`` of all combinations of independent bits with logits ``(N, bits)``."""
    # The product of the bits' distributions is a softmax: p(b) = prod sigmoid(+-x) ~ exp(x . b).
    bits = logits.shape[1]
    combinations = torch.arange(1 << bits, device=logits.device)[:, None] >> torch.arange(bits, device=logits.device)
    return (logits @ (combinations & 1).float().t()).softmax(1)
