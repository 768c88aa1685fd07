"""What pictures and clips are trained for alike: LPIPS, and patch discriminators with both sides' losses and averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer
from trainers.autoencoder import losses
from trainers.autoencoder.config import JudgedLossConfig, Recipe
from trainers.autoencoder.data import NumberedBatches
from trainers.autoencoder.patches import Verdict
from trainers.autoencoder.task import Plan, QuantizedTask
from trainers.optim import build_optimizers
from trainers.task import PhaseLoss

J = TypeVar("J", bound=JudgedLossConfig)


class JudgedTask(QuantizedTask[J]):
    """Base of the tasks whose discriminators are `trainers.autoencoder.patches.PatchDiscriminator`, one or several.

    Args: see `QuantizedTask`.
    """

    averages: Sequence[losses.LogitAverages] = ()
    """The moving averages of the logits of each discriminator, for LeCam."""

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer,
        recipe: Recipe[Any, J],
        data: NumberedBatches,
        held_out: Sequence[Tensor],
        plan: Plan,
    ) -> None:
        super().__init__(model, quantizer, recipe, data, held_out, plan)
        self.optimizers["autoencoder"] = build_optimizers(model, recipe.optimizer, self.tables(model, quantizer))
        self.perceptual: nn.Module | None = None
        if self.config.perceptual_weight:
            from tokenize_kit.metrics.perceptual import Perceptual

            self.perceptual = Perceptual(self.config.perceptual_path)

    def tables(self, model: nn.Module, quantizer: Quantizer) -> list[nn.Parameter]:  # noqa: ARG002
        """Return what Muon leaves to AdamW."""
        return list(quantizer.parameters())

    def perceived(self, made: Tensor, real: Tensor) -> Tensor:
        """Return LPIPS of pictures (B, C, H, W), summed over them; 0 where it is not wanted."""
        if self.perceptual is None:
            return made.new_zeros(())
        distance: Tensor = self.perceptual.to(made.device)(made, real)
        return distance.sum()

    def add_judges(self, network: nn.Module, count: int = 1) -> None:
        """Train against a network that returns the verdicts of ``count`` discriminators, or a single verdict."""
        self.add_discriminator(network)
        if self.config.lecam_weight:
            self.averages = [losses.LogitAverages() for _ in range(count)]
            self.networks["averages"] = self.averages[0] if count == 1 else nn.ModuleList(self.averages)

    def stepped(self, phase: str, step: int) -> None:  # noqa: ARG002
        """Move the averages of the logits after a step of the discriminator."""
        if phase == "discriminator":
            for average in self.averages:
                average.update()

    def quantizer_weights(self, step: int) -> dict[str, float]:
        """Return the weight of each loss that a quantizer may have, at a step."""
        config = self.config
        boost = losses.annealed(step, config.entropy_boost, round(config.entropy_boost_part * self.plan.steps))
        return super().quantizer_weights(step) | {"entropy": config.entropy_weight * boost, "kl": config.kl_weight}

    def oppose(self, made: Tensor, real: Tensor, compared: Tensor, step: int, logs: dict[str, Tensor]) -> Tensor:
        """Return the weighted loss against the discriminators: for each term the sum of theirs."""
        config = self.config
        verdicts = self._judge(made)
        generator = losses.hinge_generator if config.discriminator == "hinge" else losses.non_saturating_generator
        logs["generator"] = _sum([generator(verdict.logits) for verdict in verdicts])
        total = logs["generator"] * config.discriminator_weight
        if config.adaptive_weight:
            last = cast("Any", self._model).decoder.last_weight
            weight = losses.adaptive_weight(compared, logs["generator"], last, len(made))
            logs["adaptive_weight"] = weight * len(made)
            total = total * weight
        if config.feature_matching_weight:
            with torch.no_grad():
                goals = self._judge(real)
            pairs = zip(verdicts, goals, strict=True)
            logs["feature_matching"] = _sum([losses.feature_matching(a.features, b.features) for a, b in pairs])
            total = total + config.feature_matching_weight * logs["feature_matching"]
        return total * self.generator_ramp(step)

    def discriminate(self, real: Tensor, made: Tensor) -> PhaseLoss:
        """Return the discriminators' loss on real and made samples; the logits that are logged are the means of theirs."""
        hinge = self.config.discriminator == "hinge"
        loss = losses.hinge_discriminator if hinge else losses.non_saturating_discriminator
        sides = [verdict.logits.float().chunk(2) for verdict in self._judge(torch.cat([real, made]))]
        total = _sum([loss(true, fake) for true, fake in sides])
        logs = {
            "discriminator": total.detach(),
            "real_logit": _sum([true.detach().mean() * len(true) for true, _ in sides]) / len(sides),
            "fake_logit": _sum([fake.detach().mean() * len(fake) for _, fake in sides]) / len(sides),
        }
        if self.averages:
            pulls = []
            for average, (true, fake) in zip(self.averages, sides, strict=True):
                pulls.append(losses.lecam(true, fake, average.real, average.fake))
                average.observe(true, fake)
            total = total + self.config.lecam_weight * _sum(pulls)
            logs["lecam"] = _sum(pulls).detach()
        return PhaseLoss(total, logs)

    def _judge(self, samples: Tensor) -> Sequence[Verdict]:
        verdicts: Verdict | Sequence[Verdict] = self.networks["discriminator"](samples)
        return [verdicts] if isinstance(verdicts, Verdict) else verdicts


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of some terms; of a single one the term itself."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
