"""EnCodec's loss balancer (Défossez et al. 2022, section 3.4): a weight is a loss's part of the gradient, whatever its scale.

With several losses on what a decoder makes, a weight says little: it is in the unit of its loss, whose gradient grows or falls
as the training goes on. Here the gradient of each loss with respect to the made sounds is divided by the moving average of its
own norm and then weighted, so its part is that of its weight among those of the losses that are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from trainers.autoencoder.losses import sum_over_processes


def balanced_scales(norms: Mapping[str, Tensor], weights: Mapping[str, float], size: float = 1.0) -> dict[str, Tensor]:
    """Return for each loss what its gradient is multiplied by: ``size * weight / (sum of weights) / norm``.

    A loss whose norm is 0 has no gradient to be scaled up, so its factor is 0.

    Args:
        norms: () mean norm of the gradient of each loss that takes part.
        weights: of at least these losses.
        size: of the gradient if all losses pulled the same way.
    """
    total = sum(weights[name] for name in norms)
    return {
        name: torch.where(norm > 0, size * weights[name] / max(total, 1e-12) / norm.clamp(min=1e-30), 0.0)
        for name, norm in norms.items()
    }


class Balanced(NamedTuple):
    """What a `Balancer` makes of some losses."""

    total: Tensor
    """() Its value is the sum of the scaled losses, its gradient with respect to the made sounds the balanced one."""
    scales: dict[str, Tensor]
    """() for each loss, to be logged: what it was multiplied by."""


class Balancer(nn.Module):
    """Balances losses by their gradients with respect to made sounds; as buffers its averages are in the checkpoint.

    The norm is that of one sound's gradient, a mean over the sounds of all processes, so each process has the same factors,
    those of the joint batch. A loss that sets in late starts its own average, and one that is missing in a step leaves its
    average as it is; weights count among the losses that are there. All processes give the same losses.

    The averages move once a step, over all of its batches (`update`). A batch is scaled by the averages of the steps before
    together with its own norms, as in EnCodec: a gradient that suddenly grows is not scaled by what it was before. So with
    accumulation the batches of a step have factors of their own; they differ in the part of the newest value, which is
    ``1 - decay`` later on and all of it in the first step.

    The total is made of the gradients that were measured, so no loss, nor a discriminator behind it, is gone through twice,
    and the losses' graphs can go. What does not act through the made sounds, such as a commitment loss, is added to it:

        networks["balancer"] = Balancer({"mel": 2.0, "waveform": 0.1, "generator": 4.0, "features": 4.0})

        def loss(self, phase, batch, step):
            ...
            terms = {"mel": mel_distance(made.samples, real, rate), "waveform": l1(made.samples, real)}
            if self.active("discriminator", step):
                terms["generator"] = ...
            total, scales = balancer(terms, made.samples, {"generator": ramp})
            return PhaseLoss(total + self.config.commitment_weight * commitment, logs)

        def stepped(self, phase, step):
            if phase == "autoencoder":
                balancer.update()

    Args:
        weights: of every loss that may come, by name (EnCodec: mel 2, waveform 0.1, adversarial 4, features 4).
        size: of the gradient of one sound if all losses pulled the same way (EnCodec: 1).
        decay: how much of an average a step leaves (EnCodec: 0.999).

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, weights: Mapping[str, float], size: float = 1.0, decay: float = 0.999) -> None:
        super().__init__()
        if not weights or not all(0 < weight < math.inf for weight in weights.values()):
            raise ValueError(f"balancer weights {dict(weights)} must be positive; leave out what does not count")
        if not (size > 0 and 0 <= decay < 1):
            raise ValueError(f"balancer size {size} must be positive and decay {decay} in [0, 1)")
        self.weights, self.size, self.decay = dict(weights), size, decay
        for name in self.weights:
            # Sum of norms and number of steps, both fading: their quotient is the average, unbiased from the first step on.
            self.register_buffer(f"norm_{name}", torch.zeros(2))
        self._seen: dict[str, Tensor] = {}  # within a step: for each loss the sum of norms and the number of sounds

    def forward(
        self, losses: Mapping[str, Tensor], made: Tensor, factors: Mapping[str, float] | None = None
    ) -> Balanced:
        """Return the balanced total of losses.

        Args:
            losses: () sums over the batch, with their graphs, by name.
            made: (B, C, N) what they were computed from, with its graph.
            factors: multiply the weights of some losses in this step: for one that sets in little by little.

        Raises:
            ValueError: a loss has no weight, or there is none.
        """
        unknown = [name for name in losses if name not in self.weights]
        if not losses:
            raise ValueError("the balancer got no loss")
        if unknown:
            raise ValueError(f"the balancer has weights for {', '.join(self.weights)}, not for {', '.join(unknown)}")
        names = [name for name in self.weights if name in losses]
        gradients = {name: torch.autograd.grad(losses[name], made, retain_graph=True)[0].float() for name in names}
        with torch.no_grad():
            sums = [gradients[name].flatten(1).norm(dim=1).sum() for name in names]
            joined = sum_over_processes(torch.stack([*sums, sums[0].new_tensor(float(len(made)))]))
            norms = {}
            for name, total in zip(names, joined[:-1], strict=True):
                seen = torch.stack([total, joined[-1]])
                self._seen[name] = self._seen[name] + seen if name in self._seen else seen
                summed, count = self._moved(name, seen)
                norms[name] = summed / count
            weights = {name: weight * (factors or {}).get(name, 1.0) for name, weight in self.weights.items()}
            scales = balanced_scales(norms, weights, self.size)
            pull = torch.stack([scales[name] * gradients[name] for name in names]).sum(0)
            value = torch.stack([scales[name] * losses[name].detach().float() for name in names]).sum()
        # The difference is 0; its gradient is the pull.
        return Balanced(value + ((made.float() - made.detach().float()) * pull).sum(), scales)

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages at the end of a step; every process calls it at the same place.

        Raises:
            RuntimeError: nothing was balanced.
        """
        if not self._seen:
            raise RuntimeError("Balancer.update without a balanced loss before it")
        for name, seen in self._seen.items():
            self._average(name).copy_(self._moved(name, seen))
        self._seen = {}

    def _average(self, name: str) -> Tensor:
        return cast("Tensor", getattr(self, f"norm_{name}"))

    def _moved(self, name: str, seen: Tensor) -> Tensor:
        """Return the two numbers of an average with one more value, the mean of what was ``seen``."""
        return self.decay * self._average(name) + torch.stack([seen[0] / seen[1], torch.ones_like(seen[1])])
