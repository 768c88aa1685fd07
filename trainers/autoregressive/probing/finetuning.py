"""Fine-tuning on labels: the last states of a model, averaged over a sample, go through one matrix, and all weights are trained.

The matrix begins as the linear probe of these states, so that what the model knows is not torn down by a fresh head (LP-FT, Kumar
et al. 2022, arXiv 2202.10054): at step 0 the accuracy is that of the probe.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tokenize_kit.sequences.packing import Ints
from trainers.autoregressive.models import LayeredModel, SequenceModel, device_of
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.probing.hidden_states import SampleReader, averaged
from trainers.config import OptimizerConfig
from trainers.optim import build_optimizers, learning_rate_factor, set_learning_rate

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress

CLIP = 1.0
"""Gradients with a larger norm are scaled down to it."""


class LinearHead(NamedTuple):
    """A matrix from averaged states to classes."""

    weight: NDArray[np.float64]
    """(classes, D)."""
    bias: NDArray[np.float64]
    """(classes,)."""


class Classifier(nn.Module):
    """A copy of a sequence model with a linear head over the averages of its last states.

    Args:
        model: one that is a `LayeredModel`; it is copied.
        head: what the head begins as.
    """

    def __init__(self, model: SequenceModel, head: LinearHead) -> None:
        super().__init__()
        self.model = deepcopy(cast("nn.Module", model))
        self.head = nn.Linear(head.weight.shape[1], head.weight.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(head.weight))
            self.head.bias.copy_(torch.from_numpy(head.bias))
        self.to(device_of(model))

    def forward(self, inputs: Inputs, counted: Tensor) -> Tensor:
        """Return logits (B, classes).

        Args:
            inputs: samples, one a row.
            counted: float (B, T), see `SampleReader.read`.
        """
        states = cast("LayeredModel", self.model).layer_states(inputs)
        result: Tensor = self.head(averaged(list(states.values())[-1], counted))
        return result


def finetune(
    model: SequenceModel,
    head: LinearHead,
    reader: SampleReader,
    samples: Ints,
    labels: Ints,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    progress: Progress | None = None,
) -> Classifier:
    """Return a classifier that was trained on labelled samples; the model stays as it is.

    Args:
        model: what to begin with.
        head: the same for the head.
        reader: of the samples.
        samples: (N,), which ones.
        labels: (N,), the class of each.
        steps: of AdamW, each on a batch; the rate rises over a tenth of them and falls along a cosine.
        batch_size: samples of a batch; each comes once before any comes again.
        learning_rate: the highest.
        seed: decides the batches and dropout.
        progress: is told of the steps.
    """
    config = OptimizerConfig(learning_rate=learning_rate, schedule="cosine", warmup_steps=max(1, steps // 10))
    size = min(batch_size, len(samples))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        classifier = Classifier(model, head).train()
        optimizers = build_optimizers(classifier, config, model.tables())
        line = _line(len(samples), steps * size, seed)
        for step in range(steps):
            some = line[step * size : (step + 1) * size]
            logits = classifier(*reader.read(samples[some]))
            loss = F.cross_entropy(logits, torch.from_numpy(labels[some]).to(logits.device))
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(classifier.parameters(), CLIP)
            set_learning_rate(optimizers, learning_rate_factor(step, steps, config))
            for optimizer in optimizers:
                optimizer.step()
            if progress is not None:
                progress.update(step + 1, loss=float(loss.detach()))
    return classifier.eval()


def predicted(classifier: Classifier, reader: SampleReader, chosen: Ints, batch_size: int) -> Ints:
    """Return the most probable class of each sample, (N,), in the order of ``chosen``, which is ascending."""
    found = np.zeros(len(chosen), np.int64)
    with torch.inference_mode():
        for some in reader.batches(chosen, batch_size):
            found[np.searchsorted(chosen, some)] = classifier(*reader.read(some)).argmax(-1).cpu().numpy()
    return found


def _line(count: int, length: int, seed: int) -> Ints:
    """Return ``length`` numbers below ``count``, each epoch in an order of its own."""
    generator = np.random.default_rng([seed, 2])
    epochs = -(-length // count)
    return np.concatenate([generator.permutation(count) for _ in range(epochs)])[:length]
