"""Discretised mixtures of logistics over ids that are ordered (Salimans et al. 2017, PixelCNN++, arXiv 1701.05517).

An id of n ordered ones stands for an interval of width 1 on a line, id i for (i - 1/2, i + 1/2), the first and the last for all
that is beyond them too. Its probability is what K logistic distributions, mixed, put there: 3 K numbers say it, however many
ids there are, and neighbours share what is learned. Other ids (special tokens, the text beside a picture) have a number each,
and each range of ordered ids has one as a whole; the softmax over these numbers, times the mixture inside a range, is one
distribution over the vocabulary.

    <pad> <bos> .. <begin:image>   0 1 2 3 .. 255        numbers of the softmax: 1 + 5, and 3 K of the mixture
    one number each                one, and a mixture

With a the lower and b the upper end of an interval, in units of the scale from the mean, its mass is
sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)). Its logarithm is a sum of three terms none of which cancels, so
neither it nor its gradient needs the thresholds and approximations that are usual, far outside either. Positions are counted in
ids, so that ends of intervals are exact in float32 up to 16 bits and more; in bfloat16 they would not be, so all of it is
float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.autoregressive.models.fast.loss import linear_token_loss
from trainers.autoregressive.models.losses import SequenceLoss
from trainers.autoregressive.models.ordinal import Ranges

LEAST_LOG_SCALE = -3.0
"""Of a logistic: at its centre an id has all but 1e-4 of the mass then."""
LOGIT_STD = 0.3


class OrdinalLayout(nn.Module):
    """Which of the numbers of a distribution say what; without parameters.

    The numbers are those of the softmax (a range each, then the other ids in their order), then for each range the weights, means
    and scales of its K logistics.

    Args:
        vocab_size: V.
        ordinal: ranges of ordered ids, R of them.
        mixtures: K.
    """

    column: Tensor

    def __init__(self, vocab_size: int, ordinal: Ranges, mixtures: int) -> None:
        super().__init__()
        self.ordinal, self.mixtures = ordinal, mixtures
        column = [-1] * vocab_size
        for number, (low, high) in enumerate(ordinal):
            column[low:high] = [number] * (high - low)
        other = len(ordinal)
        for index, value in enumerate(column):
            if value < 0:
                column[index], other = other, other + 1
        self.classes = other
        """Numbers of the softmax."""
        self.size = other + 3 * mixtures * len(ordinal)
        """Numbers in all."""
        self.register_buffer("column", torch.tensor(column), persistent=False)

    def start(self) -> Tensor:
        """Return numbers (size,) by which each id is about equally probable.

        A range has its share of the ids, and its logistics stand side by side. The ends of a range have all that is beyond them,
        which is missing beside them: over ids of equal frequency the loss is 0.02 (of 256 ids) to 0.04 (of 65,536) above
        ln(vocab_size) with 10 logistics, 0.3 with a single one. A head adds the half of the variance of its first logits, 0.045.
        """
        numbers = torch.zeros(self.size)
        steps = torch.arange(self.mixtures) * 2 + 1
        for number, (low, high) in enumerate(self.ordinal):
            numbers[number] = math.log(high - low)
            _, means, scales = self.of_range(numbers, number).unbind(-2)
            means.copy_(steps / self.mixtures - 1)
            scales.fill_(math.log((high - low) / 4 / self.mixtures))
        return numbers

    def of_range(self, numbers: Tensor, number: int) -> Tensor:
        """Return those of the mixture of a range, (..., 3, K), of all numbers (..., size)."""
        first = self.classes + 3 * self.mixtures * number
        part = numbers[..., first : first + 3 * self.mixtures]
        return part.view(*part.shape[:-1], 3, self.mixtures)

    def logits(self, numbers: Tensor) -> Tensor:
        """Return the logits (..., V) of distributions (..., size), float32."""
        numbers = numbers.float()
        result = numbers[..., : self.classes][..., self.column]
        parts, last = [], 0
        for number, (low, high) in enumerate(self.ordinal):
            count = high - low
            bins = torch.arange(count, device=numbers.device)
            inside = log_mass(self.of_range(numbers, number)[..., None, :, :], bins, count)
            parts += [result[..., last:low], result[..., low:high] + inside]
            last = high
        return torch.cat([*parts, result[..., last:]], -1)

    def places_inside(self, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return for each range the indices (N,) of those of the flat labels that are in it, and their places in the range."""
        found = []
        for low, high in self.ordinal:
            at = ((labels >= low) & (labels < high)).nonzero()[:, 0]
            found.append((at, labels[at] - low))
        return found


class MixtureHead(nn.Module):
    """From hidden states to distributions over ids of which some are ordered.

    Args:
        width: of the hidden states, D; their mean square is about 1.
        vocab_size: V.
        ordinal: ranges of ordered ids.
        mixtures: logistics of each.
    """

    def __init__(self, width: int, vocab_size: int, ordinal: Ranges, mixtures: int) -> None:
        super().__init__()
        self.layout = OrdinalLayout(vocab_size, ordinal, mixtures)
        self.weight = nn.Parameter(torch.randn(self.layout.size, width) * (LOGIT_STD * width**-0.5))
        self.bias = nn.Parameter(self.layout.start())

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of hidden states (..., D), float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.layout.logits(F.linear(hidden.float(), self.weight.float(), self.bias.float()))

    def loss(
        self, hidden: Tensor, labels: Tensor, weights: Tensor | None = None, *, z_loss: float = 0.0
    ) -> SequenceLoss:
        """Return `token_loss` of the logits without computing them: of the ordered ids only the labels are looked at.

        Args:
            hidden: (..., D).
            labels: int64 (...), any value where the weight is 0.
            weights: float (...); None means 1 everywhere.
            z_loss: factor of the squared log-partition.
        """
        layout = self.layout
        flat = hidden.reshape(-1, hidden.shape[-1])
        ids = labels.reshape(-1).clamp(0, len(layout.column) - 1)
        each = torch.ones_like(ids, dtype=torch.float32) if weights is None else weights.reshape(-1).float()
        with torch.autocast(hidden.device.type, enabled=False):
            flat, table, bias = flat.float(), self.weight.float(), self.bias.float()
            # The bias is that of an input that is always 1.
            widened = torch.cat((flat, flat.new_ones(len(flat), 1)), 1)
            of_classes = torch.cat((table, bias[:, None]), 1)[: layout.classes]
            loss = linear_token_loss(widened, of_classes, layout.column[ids], each, z_loss=z_loss)
            rows, shift = _slices(layout, table), _slices(layout, bias)
            total, nll = loss.total, loss.nll
            for number, (at, place) in enumerate(layout.places_inside(ids)):
                low, high = layout.ordinal[number]
                numbers = F.linear(flat[at], rows[number], shift[number]).view(-1, 3, layout.mixtures)
                cost = -(each[at] * log_mass(numbers, place, high - low)).sum()
                total, nll = total + cost, nll + cost.detach()
        return SequenceLoss(total, nll, loss.weight)


def log_mass(numbers: Tensor, places: Tensor, count: int) -> Tensor:
    """Return the log-probability of an id under a mixture of logistics over ``count`` ordered ids.

    Args:
        numbers: (..., 3, K): weights before the softmax; means, -1 at the first id's lower end and 1 at the last one's upper end;
            logarithms of scales in ids.
        places: int64 (...), from 0 to ``count`` - 1.
        count: of ids, at least 2.
    """
    weights, means, scales = numbers.unbind(-2)
    # Smooth where it is bounded: at a bound that is cut off, a scale would have no gradient to come back by.
    log_scale = LEAST_LOG_SCALE + F.softplus(scales - LEAST_LOG_SCALE)
    narrow = torch.exp(-log_scale)
    centre = places[..., None].to(means.dtype) - ((count - 1) / 2 + means * (count / 2))
    lower, upper = (centre - 0.5) * narrow, (centre + 0.5) * narrow
    below = F.logsigmoid(upper)  # of all that is below the upper end
    above = F.logsigmoid(-lower)
    both = below + above + torch.log(-torch.expm1(-narrow))
    first, last = (places == 0)[..., None], (places == count - 1)[..., None]
    mass = torch.where(first, below, torch.where(last, above, both))
    return torch.logsumexp(weights.log_softmax(-1) + mass, -1)


def _slices(layout: OrdinalLayout, table: Tensor) -> Sequence[Tensor]:
    """Return the rows of a table (size, ...) that are of the mixture of each range."""
    return torch.split(table[layout.classes :], 3 * layout.mixtures)
