"""Exponential moving averages of weights, which are often better to use than the weights of any one step.

The arithmetic is torch's (`get_ema_multi_avg_fn`). Its ``AveragedModel`` around it copies the whole module, buffers
included, names the averages otherwise than our checkpoints, and takes 2.2 times as long for the same bits
(``benchmarks/libraries.py --only averages``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tokenize_kit.weights import load_tensors


class WeightAverages:
    """Averages of the parameters of some networks; their buffers (codebooks, counts) are used as they are.

    The decay is that of step n: ``min(decay, (1 + n) / (10 + n))``, so that the first weights, which are random, are soon
    forgotten (TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``; Polyak & Juditsky 1992 for the averaging).

    Args:
        networks: by name; not wrapped.
        decay: how much of the average a step leaves, in (0, 1).
    """

    def __init__(self, networks: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self._parameters = {
            name: {key: value for key, value in network.named_parameters() if value.is_floating_point()}
            for name, network in networks.items()
        }
        self._averages = {
            name: {key: value.detach().clone() for key, value in parameters.items()}
            for name, parameters in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights that step ``step`` (0 is the first) has made."""
        weights, averages = self._lists()
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(averages, weights, step)  # type: ignore[no-untyped-call]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the networks have the averages as their weights for a while; afterwards they have the very bits of before."""
        weights, averages = self._lists()
        kept = [weight.clone() for weight in weights]
        # Values are copied, tensors not exchanged: what remembers a parameter by its version sees the change.
        with torch.no_grad():
            torch._foreach_copy_(weights, averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return what a checkpoint keeps: for each file the averages by the names of the parameters, on the CPU."""
        return {
            f"average_{name}": {key: value.to("cpu").contiguous() for key, value in averages.items()}
            for name, averages in self._averages.items()
        }

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]], source: Path) -> None:
        """Continue from what `tensors` returned.

        Raises:
            ValueError: a name is missing or unknown, or a shape differs.
        """
        for name, averages in self._averages.items():
            load_tensors(averages, tensors.get(f"average_{name}", {}), source)

    def _lists(self) -> tuple[list[Tensor], list[Tensor]]:
        weights = [value.detach() for values in self._parameters.values() for value in values.values()]
        return weights, [value for values in self._averages.values() for value in values.values()]
