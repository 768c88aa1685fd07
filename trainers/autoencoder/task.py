"""What all tasks have in common that train an encoder, a quantizer and a decoder, with or without a discriminator.

Two phases a step: the autoencoder against its samples and the discriminator's present opinion; then, once it has set in, the
discriminator against the samples that the autoencoder made in this very step. Here are the phases, the schedules, the use of
the codebooks, the warnings and the best weights; what is compared with what is the subclass's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer
from tokenize_kit.weights import write_sealed
from trainers.autoencoder import losses
from trainers.autoencoder.config import LossTerms, Recipe
from trainers.autoencoder.data import NumberedBatches, SampleBatch
from trainers.checkpoints import module_tensors
from trainers.config import OptimizerConfig
from trainers.exhibits import Exhibit
from trainers.optim import learning_rate_factor, set_learning_rate
from trainers.runtime import Runtime
from trainers.task import PhaseLoss, Task

BEST_FILE = "best.safetensors"
"""The weights of the best validation so far, in the folder of the run."""

L = TypeVar("L", bound=LossTerms)


@dataclass(frozen=True)
class Plan:
    """What a task of this kind must know of its run."""

    steps: int
    """Of the whole run."""
    out: Path
    """Where the best weights go."""
    usage_floor: float = 0.0
    """Warn when a validation uses a smaller part of a codebook."""
    stop_on_collapse: bool = False
    """End the run then."""


class Made(NamedTuple):
    """What an autoencoder makes of samples."""

    samples: Tensor
    """(B, C, ...), about in [-1, 1], float32."""
    ids: Tensor
    """int64 (B, ...), or with a last axis of codebooks."""
    losses: dict[str, Tensor]
    """The quantizer's own losses: unweighted means, float32 scalars."""


class QuantizedTask(Task, Generic[L]):
    """Base of the tasks that train a tokenizer of an encoder, a quantizer and a decoder.

    Args:
        model: freshly built, all three.
        quantizer: the one in it.
        recipe: losses and optimiser; the discriminator's schedule is that of the optimiser too.
        held_out: samples to validate on, as they are stored.
        data: training batches of this process.
        plan: see there.
    """

    unit = "samples"
    averaged: tuple[str, ...] | None = ("autoencoder",)
    judged_too_well = (
        "the discriminator tells everything apart and teaches nothing: lower --loss.discriminator-learning-rate"
    )
    """What is said when the discriminator has won."""

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer,
        recipe: Recipe[Any, L],
        data: NumberedBatches,
        held_out: Sequence[Tensor],
        plan: Plan,
    ) -> None:
        self.data, self.held_out, self.plan = data, held_out, plan
        self.networks: dict[str, nn.Module] = {"autoencoder": model}
        self.optimizers: dict[str, list[torch.optim.Optimizer]] = {}
        self.config: L = recipe.loss
        self._model, self._quantizer, self._optimizer = model, quantizer, recipe.optimizer
        self._start = round(self.config.discriminator_start * plan.steps)

    @abstractmethod
    def prepared(self, samples: Tensor) -> Tensor:
        """Turn samples as they are stored into what the model takes, float32 in [-1, 1]."""

    @abstractmethod
    def reconstruct(self, real: Tensor) -> Made:
        """Return what the model makes of samples, through the network that the loop may have wrapped."""

    @abstractmethod
    def compare(self, made: Tensor, real: Tensor, step: int, logs: dict[str, Tensor]) -> Tensor:
        """Return the weighted loss of made samples beside the real ones, summed over the batch; its terms go into ``logs``."""

    def oppose(
        self,
        made: Tensor,  # noqa: ARG002
        real: Tensor,  # noqa: ARG002
        compared: Tensor,  # noqa: ARG002
        step: int,  # noqa: ARG002
        logs: dict[str, Tensor],  # noqa: ARG002
    ) -> Tensor | None:
        """Return the weighted loss against the discriminator at a step in which it takes part; its terms go into ``logs``.

        ``compared`` is what `compare` returned. None where that has this loss in it already.
        """
        return None

    @abstractmethod
    def discriminate(self, real: Tensor, made: Tensor) -> PhaseLoss:
        """Return the discriminator's loss on real and made samples."""

    @abstractmethod
    def measure(self, mine: Sequence[Tensor], counts: Sequence[Tensor], runtime: Runtime) -> dict[str, float]:
        """Return the metrics over the held-out samples of all processes, the score first.

        Args:
            mine: those of this process.
            counts: of each codebook, to which their ids are added (`count_ids`).
            runtime: joins the processes.
        """

    @abstractmethod
    def shown(self) -> dict[str, Exhibit]:
        """Return held-out samples beside their reconstructions; there is at least one."""

    def batch(self, index: int) -> SampleBatch:
        """Return this process's micro-batch ``index``."""
        return self.data.batch(index)

    def weight(self, batch: SampleBatch) -> int:
        """Return the number of samples."""
        return len(batch.samples)

    def loss(self, phase: str, batch: SampleBatch, step: int) -> PhaseLoss:
        """Return the summed loss of a phase on a batch."""
        if phase == "autoencoder":
            return self._reconstruction(batch, step)
        assert batch.made is not None, "the autoencoder's phase comes first"
        return self.discriminate(self.prepared(batch.samples), batch.made)

    def _reconstruction(self, batch: SampleBatch, step: int) -> PhaseLoss:
        real = self.prepared(batch.samples)
        made = self.reconstruct(real)
        logs: dict[str, Tensor] = {}
        compared = self.compare(made.samples, real, step, logs)
        total = compared
        weights = self.quantizer_weights(step)
        for name, value in made.losses.items():
            logs[name] = value * len(real)
            total = total + weights[name] * logs[name]
        if self.judged(step):
            batch.made = made.samples.detach()
            opposed = self.oppose(made.samples, real, compared, step, logs)
            total = total if opposed is None else total + opposed
        if made.ids.numel():
            logs["batch_perplexity"] = self.batch_perplexity(made.ids) * len(real)
        else:
            # Several processes wait for a gradient of every parameter.
            weights_of_codes = (weight.sum() for weight in self._quantizer.parameters())
            total = total + 0.0 * sum(weights_of_codes, start=total.new_zeros(()))
        return PhaseLoss(total, {"loss": total.detach(), **{name: value.detach() for name, value in logs.items()}})

    def validate(self, runtime: Runtime) -> dict[str, float]:
        """Return the metrics of the present weights on the held-out samples, with codebook usage and perplexity.

        Raises:
            ValueError: a codebook has collapsed and the run shall stop then.
        """
        if not len(self.held_out):
            return {}
        counts = self.empty_counts()
        metrics = self.measure(self.held_out[runtime.rank :: runtime.world], counts, runtime)
        return metrics | self.codebook_metrics(counts, runtime)

    def exhibits(self) -> dict[str, Exhibit]:
        """Return held-out samples beside their reconstructions."""
        return self.shown() if len(self.held_out) else {}

    def add_discriminator(self, network: nn.Module, beta1: float = 0.5) -> None:
        """Train against a discriminator, whose optimiser has at most this ``beta1``.

        The run then ends with its last weights, as a generator's losses are no judge of them.
        """
        self.keep = "last"
        self.advice = "a smaller --loss.discriminator-weight"
        self.networks["discriminator"] = network
        self.optimizers["discriminator"] = [
            discriminator_optimizer(network, self.config.discriminator_learning_rate, self._optimizer, beta1)
        ]

    def judged(self, step: int) -> bool:
        """Return whether the discriminator takes part in a step."""
        return "discriminator" in self.networks and step >= self._start

    def active(self, phase: str, step: int) -> bool:
        """Return whether a phase takes part: the discriminator does from its start on."""
        return phase == "autoencoder" or self.judged(step)

    def generator_ramp(self, step: int) -> float:
        """Return the factor of the generator loss at a step, which rises from the discriminator's start on."""
        return losses.ramp(step, self._start, round(self.config.discriminator_ramp * self.plan.steps))

    def set_learning_rates(self, step: int) -> float:
        """Set the learning rates of step ``step`` and the quantizer's progress; return the autoencoder's rate."""
        self._quantizer.anneal(step / max(1, self.plan.steps - 1))
        factor = learning_rate_factor(step, self.plan.steps, self._optimizer)
        for optimizers in self.optimizers.values():
            set_learning_rate(optimizers, factor)
        return float(self.optimizers["autoencoder"][-1].param_groups[0]["lr"])

    def quantizer_weights(self, step: int) -> dict[str, float]:  # noqa: ARG002
        """Return the weight of each loss that a quantizer may have, at a step."""
        terms = self.config
        return {
            "commitment": terms.commitment_weight,
            "codebook": terms.codebook_weight,
            "entropy": terms.entropy_weight,
            # The library's loss has the weights of its own options in it.
            "library": 1.0,
        }

    def describe(self, sums: Mapping[str, float], weight: float) -> dict[str, float]:
        """Return the mean of each term a sample."""
        return {name: value / max(1, weight) for name, value in sums.items()}

    def warnings(self, line: Mapping[str, float]) -> list[str]:
        """Warn of a discriminator that has won, and of a codebook that is hardly used."""
        found = []
        if self.has_won(line):
            found.append(self.judged_too_well)
        if line.get("validation/usage", 1.0) < self.plan.usage_floor:
            found.append(_COLLAPSE)
        return found

    def has_won(self, line: Mapping[str, float]) -> bool:
        """Return whether the discriminator tells everything apart, by a line of the log."""
        return line.get("real_logit", 0) > 0 and line.get("real_logit", 0) - line.get("fake_logit", 0) > 10

    def save_best(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the weights beside the run."""
        best = {"step": step, "metrics": dict(metrics)}
        write_sealed(self.plan.out / BEST_FILE, module_tensors(self._model), best)

    def count_ids(self, ids: Tensor, counts: Sequence[Tensor]) -> None:
        """Add the ids of a batch to the counts of each codebook."""
        for column, count in zip(self._columns(ids.cpu()), counts, strict=True):
            count += torch.bincount(column, minlength=len(count))

    def empty_counts(self) -> list[Tensor]:
        """Return zeros for each code of each codebook."""
        return [torch.zeros(size) for size in self._quantizer.codebook_sizes]

    def codebook_metrics(self, counts: Sequence[Tensor], runtime: Runtime) -> dict[str, float]:
        """Return the use of the codebooks over all processes: ``usage``, the least used one's part of codes that were seen,
        and ``perplexity``, the mean over codebooks.

        Raises:
            ValueError: a codebook has collapsed and the run shall stop then.
        """
        joined = torch.tensor(runtime.sums(torch.cat(list(counts)).tolist()))
        shares = torch.split(joined, [len(count) for count in counts])
        usage = min(float((share > 0).float().mean()) for share in shares)
        if self.plan.stop_on_collapse and usage < self.plan.usage_floor:
            raise ValueError(f"{_COLLAPSE} (usage {usage:.3f}, --usage-floor {self.plan.usage_floor})")
        return {"usage": usage, "perplexity": sum(map(perplexity, shares)) / len(shares)}

    def batch_perplexity(self, ids: Tensor) -> Tensor:
        """Return the mean over codebooks of the perplexity of the ids of one batch."""
        sizes = self._quantizer.codebook_sizes
        found = [
            perplexity(torch.bincount(column, minlength=size))
            for column, size in zip(self._columns(ids), sizes, strict=True)
        ]
        return torch.tensor(sum(found) / len(found), device=ids.device)

    def _columns(self, ids: Tensor) -> Tensor:
        """Return the ids of each codebook, (Q, N)."""
        return ids.reshape(-1, ids.shape[-1] if self._quantizer.codebook_axis else 1).T


_COLLAPSE = (
    "the codebook is hardly used: for vq and rvq raise --quantizer.dead-code-threshold or lower --quantizer.codebook-dim, for "
    "lfq, bsq and gumbel raise --loss.entropy-weight, or take fewer codes"
)


def discriminator_optimizer(
    network: nn.Module, learning_rate: float, optimizer: OptimizerConfig, beta1: float
) -> torch.optim.Optimizer:
    """Return AdamW without weight decay and with little momentum, as discriminators are trained with."""
    built = torch.optim.AdamW(
        network.parameters(),
        lr=learning_rate,
        betas=(min(beta1, optimizer.beta1), optimizer.beta2),
        weight_decay=0.0,
        fused=True,
    )
    for group in built.param_groups:
        group["peak_lr"] = group["lr"]
    return built


def perplexity(counts: Tensor) -> float:
    """Return e to the entropy of counts (K,): how many codes would be as varied if all were used alike."""
    shares = counts[counts > 0].double() / counts.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))
