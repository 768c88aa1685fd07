"""Histograms: how often each token occurred, whatever came before it; the least that a model of data can be.

One distribution serves all places of a document, or each place has its own (``by_place``), which for pictures of one size is the
marginal of each pixel. It is fitted by counting: `loss` in training mode adds the labels to the counts, so that after one epoch
they are the counts of the training documents, and after two twice that. The loss that is told then is that of tokens before they
were counted (prequential coding, Dawid 1984). Nothing is to be optimised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.autoregressive.models.family import FamilyConfig
from trainers.autoregressive.models.losses import SequenceLoss
from trainers.autoregressive.models.processes import summed
from trainers.autoregressive.models.rereading import RereadingModel, Whole, every_place


@dataclass(frozen=True)
class HistogramConfig(FamilyConfig):
    """What is counted."""

    by_place: bool = False
    """Whether each place of a document has a distribution of its own."""
    smoothing: float = 1.0
    """Added to the count of every id (Laplace's rule at 1), so that none is impossible."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.smoothing > 0:
            raise ValueError(f"smoothing {self.smoothing} must be above 0, or ids that never came would be impossible")


class Histogram(RereadingModel):
    """Smoothed counts of ids; see `trainers.autoregressive.models.SequenceModel` for the shapes of the methods."""

    configuration = HistogramConfig
    counts: Tensor

    def __init__(self, config: HistogramConfig) -> None:
        super().__init__(config)
        places = config.context if config.by_place else 1
        # Whole numbers, so that they are exact and no precision rounds them.
        self.register_buffer("counts", torch.zeros(places, config.vocab_size, dtype=torch.int64))

    def after(self, ids: Tensor, places: Tensor) -> Tensor:  # noqa: ARG002
        """See `RereadingModel.after`: log-probabilities, of the places alone."""
        # What counts are divided by is exact in float64, however many there are.
        counts = (self.counts[places] if self.config.by_place else self.counts[None]).double() + self.config.smoothing
        logs: Tensor = (counts / counts.sum(-1, keepdim=True)).log().float()
        return logs.expand(*places.shape, -1)

    def document_loss(self, whole: Whole, z_loss: float) -> SequenceLoss:  # noqa: ARG002 (its partition is 1)
        """See `RereadingModel.document_loss`."""
        config = self.config
        kept = self._kept(every_place(whole.labels))
        labels = whole.labels.clamp(0, config.vocab_size - 1)
        chosen = self.counts[kept, labels].double() + config.smoothing
        totals = self.counts.sum(-1).double() + config.smoothing * config.vocab_size
        nll = (whole.weights * (totals[kept] / chosen).log()).sum().float()
        return SequenceLoss(nll, nll, whole.weights.sum())

    def count(self, documents: Sequence[Whole]) -> None:
        """See `RereadingModel.count`; a label counts once if its weight is above 0."""
        new = torch.zeros_like(self.counts)
        for whole in documents:
            counted = whole.weights > 0
            labels = whole.labels[counted]
            kept = self._kept(every_place(whole.labels))[counted]
            new.index_put_((kept, labels), torch.ones_like(labels), accumulate=True)
        self.counts += summed(new)

    def _kept(self, places: Tensor) -> Tensor:
        return places if self.config.by_place else torch.zeros_like(places)
