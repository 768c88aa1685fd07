"""A discretised mixture of logistics for single dimensions, whatever came before: a smooth histogram of ids that are ordered.

It is the distribution of `mixture` (Salimans et al. 2017, PixelCNN++, arXiv 1701.05517) with its numbers as parameters, one set
for all places of a document or one for each, beside `histogram` as the mixture head is beside the softmax: 3 K numbers instead
of one an id, which thus can be learned from a few values of each dimension. It learns by gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from trainers.autoregressive.models.family import FamilyConfig
from trainers.autoregressive.models.losses import SequenceLoss
from trainers.autoregressive.models.mixture import OrdinalLayout, log_mass
from trainers.autoregressive.models.ordinal import MIXTURES, Ranges, checked_ranges
from trainers.autoregressive.models.rereading import RereadingModel, Whole, every_place


@dataclass(frozen=True)
class LogisticsConfig(FamilyConfig):
    """How many logistics are mixed, and for which places."""

    of_the_data: ClassVar[Mapping[str, str]] = {"ordinal": "follows from the data"}
    by_place: bool = False
    """Whether each place of a document has a mixture of its own."""
    mixtures: int = MIXTURES
    """Logistics of a mixture."""
    ordinal: Ranges = ()
    """The ids that are ordered, from the first to before the last; training sets them by the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ordinal", checked_ranges(self.mixtures, self.ordinal, self.vocab_size))


class Logistics(RereadingModel):
    """Mixtures of logistics as parameters; see `trainers.autoregressive.models.SequenceModel` for the shapes of the methods."""

    configuration = LogisticsConfig

    def __init__(self, config: LogisticsConfig) -> None:
        super().__init__(config)
        self.layout = OrdinalLayout(config.vocab_size, config.ordinal, config.mixtures)
        places = config.context if config.by_place else 1
        self.numbers = nn.Parameter(self.layout.start().repeat(places, 1))

    def after(self, ids: Tensor, places: Tensor) -> Tensor:  # noqa: ARG002
        """See `RereadingModel.after`: of the places alone."""
        rows = self.layout.logits(self.numbers[places] if self.config.by_place else self.numbers[None])
        return rows.expand(*places.shape, -1)

    def document_loss(self, whole: Whole, z_loss: float) -> SequenceLoss:
        """See `RereadingModel.document_loss`: of the ordered ids only the labels are looked at."""
        layout, table = self.layout, self.numbers.float()
        places = every_place(whole.labels)
        kept = (places if self.config.by_place else torch.zeros_like(places)).reshape(-1)
        labels = whole.labels.reshape(-1).clamp(0, self.config.vocab_size - 1)
        weights = whole.weights.reshape(-1)
        classes = table[:, : layout.classes]
        partition = classes.logsumexp(-1)
        nll = partition[kept] - classes[kept, layout.column[labels]]
        for number, (at, place) in enumerate(layout.places_inside(labels)):
            low, high = layout.ordinal[number]
            numbers = layout.of_range(table, number)[kept[at]]
            nll = nll.index_add(0, at, -log_mass(numbers, place, high - low))
        each = nll + z_loss * partition.square()[kept] if z_loss else nll
        return SequenceLoss((weights * each).sum(), (weights * nll.detach()).sum(), weights.sum())

    def tables(self) -> list[nn.Parameter]:
        """See `SequenceModel.tables`."""
        return [self.numbers]
