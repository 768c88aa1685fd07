"""What a model makes of whole samples, layer by layer: states averaged over its places (iGPT, Chen et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.sequences.packing import Ints
from tokenize_kit.sequences.segment import NOWHERE
from trainers.autoregressive.batches import single_rows
from trainers.autoregressive.models import LayeredModel, SequenceModel, device_of
from trainers.autoregressive.models.inputs import Inputs

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from trainers.autoregressive.probing.samples import Probed

Floats = NDArray[np.float32]


class SampleReader:
    """Reads samples for a model.

    Args:
        model: the model.
        probed: whose samples are read.
    """

    def __init__(self, model: SequenceModel, probed: Probed) -> None:
        self._needs, self._ahead = model.needs, int(model.causal)
        self._probed = probed
        self._device = device_of(model)

    def read(self, chosen: Ints) -> tuple[Inputs, Tensor]:
        """Return samples, one a row, and how much each place counts in their mean, float (B, T).

        Those places count that have an id of the part that is probed; each row has a sum of 1.
        """
        probed = self._probed
        rows = probed.beginning[chosen]
        batch, places = single_rows(probed.documents, rows, probed.context, self._ahead, self._needs)
        # A special token, such as <begin:image>, stands at no coordinates.
        own = (places.segments == probed.segment) & (places.coordinates != NOWHERE).any(-1)
        counted = torch.from_numpy(own / np.maximum(own.sum(1, keepdims=True), 1)).float()
        return batch.to(self._device).inputs, counted.to(self._device)

    def batches(self, chosen: Ints, batch_size: int) -> Iterator[Ints]:
        """Yield samples in batches of about one length; the batches follow from ``chosen`` and their size alone."""
        order = chosen[np.argsort(self._probed.sizes[chosen], kind="stable")]
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]


def averaged(states: Tensor, counted: Tensor) -> Tensor:
    """Return the mean (B, D) of states (B, T, D) over the places that count, see `SampleReader.read`."""
    return torch.einsum("btd,bt->bd", states.float(), counted)


def states_of(
    model: SequenceModel, reader: SampleReader, chosen: Ints, batch_size: int, progress: Progress | None = None
) -> dict[str, Floats]:
    """Return for each layer by its name the averaged states of samples, float32 (N, D), in the order of ``chosen``.

    Args:
        model: in evaluation mode, one that is a `LayeredModel`.
        reader: of the samples.
        chosen: (N,), which ones, ascending.
        batch_size: samples that are read at once.
        progress: is told how many are read.
    """
    assert isinstance(model, LayeredModel)
    found: dict[str, Any] = {}
    done = 0
    with torch.inference_mode():
        for some in reader.batches(chosen, batch_size):
            inputs, counted = reader.read(some)
            for name, states in model.layer_states(inputs).items():
                means = averaged(states, counted).cpu().numpy()
                if name not in found:
                    found[name] = np.zeros((len(chosen), means.shape[1]), np.float32)
                found[name][np.searchsorted(chosen, some)] = means
            done += len(some)
            if progress is not None:
                progress.update(done)
    return found
