"""What makes a distribution over the next id of a hidden state: a number for each id, or a mixture along those that are ordered.

A head is called for logits, and computes the loss of labels without holding the logits of all places.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainers.autoregressive.models.fast.loss import linear_token_loss
from trainers.autoregressive.models.losses import SequenceLoss
from trainers.autoregressive.models.mixture import MixtureHead
from trainers.autoregressive.models.ordinal import HeadConfig

LOGIT_STD = 0.3
"""What the first logits have, so that the loss starts 0.045 above ln(vocab_size)."""


class SoftmaxHead(nn.Linear):
    """A matrix (V, D) that makes logits.

    Args:
        width: D, of hidden states whose mean square is about 1.
        vocab_size: V.
    """

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__(width, vocab_size, bias=False)
        nn.init.normal_(self.weight, std=LOGIT_STD * width**-0.5)

    def loss(
        self, hidden: Tensor, labels: Tensor, weights: Tensor | None = None, *, z_loss: float = 0.0
    ) -> SequenceLoss:
        """Return `token_loss` of the logits of hidden states (..., D); see `MixtureHead.loss`."""
        return linear_token_loss(hidden, self.weight, labels, weights, z_loss=z_loss)


def head_of(config: HeadConfig, width: int) -> SoftmaxHead | MixtureHead:
    """Return the head that a configuration says, freshly initialised, for hidden states (..., ``width``)."""
    if config.head == "logistics":
        return MixtureHead(width, config.vocab_size, config.ordinal, config.mixtures)
    return SoftmaxHead(width, config.vocab_size)


def tables_of(head: SoftmaxHead | MixtureHead) -> list[nn.Parameter]:
    """Return the parameters of a head that have a row for each id; those of a mixture have none."""
    return [*head.parameters()] if isinstance(head, SoftmaxHead) else []
