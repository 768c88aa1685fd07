"""MADE: an autoencoder whose connections are cut so that each output sees only the inputs before it in an order (Germain et al.
2015, arXiv 1502.03509).

It is for documents of one length, such as small pictures: all conditionals of a document come out of one pass over it, and each
place has weights of its own. A hidden unit has a degree and sees the inputs up to that number of the order; an output sees units
of lower degrees.

With several ``orders`` of the places the same weights serve each of them, through other cuts. A step of training draws one. The
model is then the mixture of all: the probability of a document is the average of what the orders give it (of probabilities, not
of logits), `MADE.document_log_probabilities`, which in evaluation mode is also what `MADE.loss` sums. Such a mixture is no
product of steps along the document, so `logits` and generation are those of order 0, the order of the document itself. All of
it is what it would be without the mixture where there is one order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.autoregressive.models.family import FamilyConfig
from trainers.autoregressive.models.fast.loss import linear_token_loss
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.losses import SequenceLoss
from trainers.autoregressive.models.rereading import FixedLengthModel, Whole, every_place

LOGIT_STD = 0.3
"""What the first logits have, so that the loss starts 0.045 above ln(vocab_size) at most."""


@dataclass(frozen=True)
class MADEConfig(FamilyConfig):
    """A masked autoencoder; it has about width * (context * (channels + features) + layers * width) parameters."""

    layers: int = 2
    """Hidden layers."""
    width: int = 512
    """Units of each; with fewer than there are places some do not see the one just before them."""
    channels: int = 4
    """Numbers by which a token enters; 1 is enough for two colours."""
    features: int = 16
    """Numbers by which a place says what is there, from which a table that all places share makes logits."""
    orders: int = 1
    """Orders of the places that are averaged; the first is that of the document, the others are drawn once and for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "layers", "width", "channels", "features", "orders")


class MADE(FixedLengthModel):
    """A masked autoencoder over ids; see `trainers.autoregressive.models.SequenceModel` for the shapes of the methods.

    In the shapes below R documents have C + 1 tokens at most, C the context; H is the width, E the channels, F the features.
    """

    configuration = MADEConfig
    ranks: Tensor
    degrees: Tensor

    def __init__(self, config: MADEConfig) -> None:
        super().__init__(config)
        context, width = config.context, config.width
        self.embedding = nn.Embedding(config.vocab_size, config.channels)
        self.enter = nn.Parameter(_normal(width, context + 1, config.channels, inputs=(context + 1) * config.channels))
        self.between = nn.ParameterList(_normal(width, width, inputs=width) for _ in range(config.layers - 1))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(config.layers))
        self.leave = nn.Parameter(_normal(context, config.features, width, inputs=width))
        self.shift = nn.Parameter(torch.zeros(context, config.features))
        self.unembedding = nn.Linear(config.features, config.vocab_size, bias=False)
        nn.init.normal_(self.unembedding.weight, std=LOGIT_STD * config.features**-0.5)
        self.register_buffer("ranks", torch.from_numpy(_ranks(context, config.orders)), persistent=False)
        degrees = np.arange(width) * context // width
        self.register_buffer("degrees", torch.from_numpy(degrees), persistent=False)

    def after(self, ids: Tensor, places: Tensor) -> Tensor:
        """See `RereadingModel.after`: by the order of the document."""
        asked, index = torch.unique(places, return_inverse=True)
        features = self._features(self._units(ids, ids.shape[1], 0), 0, asked)
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        return F.linear(features[rows, index], self.unembedding.weight)

    def document_loss(self, whole: Whole, z_loss: float) -> SequenceLoss:
        """See `RereadingModel.document_loss`: in training mode by one order, drawn from torch's global generator; else by all.

        Of several orders a label's weight is a factor of its log-probability in each.

        Raises:
            ValueError: the documents are not of one length.
        """
        end, orders = self.settled_length(whole.weights), self.config.orders
        if orders > 1 and not self.training:
            nll = -self._mixed(whole, end).sum()
            return SequenceLoss(nll, nll.detach(), whole.weights.sum())
        order = int(torch.randint(orders, ())) if orders > 1 else 0
        asked = torch.arange(whole.labels.shape[1], device=whole.labels.device)
        features = self._features(self._units(whole.ids, end + 1, order), order, asked)
        return linear_token_loss(features, self.unembedding.weight, whole.labels, whole.weights, z_loss=z_loss)

    @property
    def joint(self) -> bool:
        """See `trainers.autoregressive.models.JointModel`: with several orders."""
        return bool(self.config.orders > 1)

    def document_log_probabilities(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """Return the log-probability of documents in nats, float32 (B,): of the average over the orders.

        Args:
            inputs: B rows of one document each.
            labels: int64 (B, T), the tokens that count; below 0 where none does.

        Raises:
            ValueError: the documents are not of one length, or longer than the context.
        """
        self.check_length(inputs)
        weights = (labels >= 0).float()
        return self._mixed(Whole.of(inputs.ids, labels, weights), self.settled_length(weights))

    def tables(self) -> list[nn.Parameter]:
        """See `SequenceModel.tables`."""
        return [*self.token_tables(), self.shift]

    def token_tables(self) -> list[nn.Parameter]:
        """See `SequenceModel.token_tables`."""
        return [*self.embedding.parameters(), *self.unembedding.parameters()]

    def _mixed(self, whole: Whole, end: int) -> Tensor:
        """Return the logarithm of the average over the orders of the probabilities of documents, (R,)."""
        labels = whole.labels.clamp(min=0)
        asked = every_place(labels)[0]
        each = []
        for order in range(self.config.orders):
            features = self._features(self._units(whole.ids, end + 1, order), order, asked)
            logits = F.linear(features, self.unembedding.weight).float()
            chosen = logits.gather(-1, labels[..., None])[..., 0] - logits.logsumexp(-1)
            each.append((whole.weights * chosen).sum(1))
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    def _units(self, ids: Tensor, known: int, order: int) -> Tensor:
        """Return the last hidden layer (R, H) of documents, ids (R, L), of whose tokens the first ``known`` are to be seen."""
        ids = ids[:, :known]
        seen = self.ranks[order, None, : ids.shape[1]] <= self.degrees[:, None]
        weight = self.enter[:, : ids.shape[1]] * seen[..., None]
        x = F.linear(self.embedding(ids).flatten(1), weight.flatten(1), self.biases[0])
        below = self.degrees[None] <= self.degrees[:, None]
        for weight, bias in zip(self.between, self.biases[1:], strict=True):
            x = x + F.linear(F.gelu(x), weight * below, bias)
        result: Tensor = F.gelu(x)
        return result

    def _features(self, units: Tensor, order: int, places: Tensor) -> Tensor:
        """Return what units (R, H) say of the tokens after ``places`` (P,), (R, P, F)."""
        seen = self.degrees < self.ranks[order, places + 1, None]
        weight = self.leave[places] * seen[:, None]
        found: Tensor = F.linear(units, weight.flatten(0, 1), self.shift[places].flatten())
        return found.view(len(units), len(places), self.config.features)


def _ranks(context: int, orders: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return which of the inputs each of the ``context`` + 1 places is in each order, int64; the first place is always given."""
    drawn = [np.random.default_rng(number).permutation(context) + 1 for number in range(1, orders)]
    rest = np.stack([np.arange(1, context + 1), *drawn])
    return np.concatenate((np.zeros((orders, 1), np.int64), rest), 1)


def _normal(*shape: int, inputs: int) -> Tensor:
    return torch.randn(shape) / math.sqrt(inputs)
