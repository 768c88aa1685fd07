"""A discrete autoencoder of pictures and its discriminator as a task: what pictures are compared by, and what is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from tokenize_kit.metrics.image import psnr_of
from tokenize_kit.tokenizers.learned.image.model import Autoencoder
from tokenize_kit.tokenizers.learned.pixels import from_pixels, to_pixels
from trainers.autoencoder import losses
from trainers.autoencoder.image.config import ImageRecipe, LossConfig
from trainers.autoencoder.image.data import PictureBatches
from trainers.autoencoder.image.discriminator import PatchDiscriminator, Verdict, discriminator_config
from trainers.autoencoder.task import Made, Plan, QuantizedTask
from trainers.exhibits import Exhibit, grid_of
from trainers.optim import build_optimizers
from trainers.runtime import Runtime
from trainers.task import PhaseLoss

SHOWN = 12
"""Held-out pictures in the grids to look at."""


class AutoencoderTask(QuantizedTask[LossConfig]):
    """Trains an autoencoder.

    Args:
        model: freshly built.
        recipe: losses and optimiser.
        data: training batches of this process.
        held_out: pictures to validate on, uint8 (C, H, W) of one size.
        plan: what it must know of its run.
    """

    judged_too_well = (
        "the discriminator tells all pictures apart and teaches nothing: lower "
        "--loss.discriminator-learning-rate, or raise --loss.lecam-weight"
    )

    def __init__(
        self, model: Autoencoder, recipe: ImageRecipe, data: PictureBatches, held_out: Sequence[Tensor], plan: Plan
    ) -> None:
        super().__init__(model, model.quantizer, recipe, data, held_out, plan)
        self.model = model
        self.optimizers["autoencoder"] = build_optimizers(model, recipe.optimizer, model.quantizer.parameters())
        self.perceptual: nn.Module | None = None
        if self.config.perceptual_weight:
            from tokenize_kit.metrics.perceptual import Perceptual

            self.perceptual = Perceptual(self.config.perceptual_path)
        if self.config.discriminator != "none":
            size = min(data.pictures.cut(int(data.chosen[0]), data.cutting, None).shape[1:])
            self.add_discriminator(PatchDiscriminator(discriminator_config(size, model.config.network.channels)))
            if self.config.lecam_weight:
                self.networks["averages"] = losses.LogitAverages()

    def stepped(self, phase: str, step: int) -> None:  # noqa: ARG002
        """Move the averages of the logits after a step of the discriminator."""
        if phase == "discriminator" and "averages" in self.networks:
            cast("losses.LogitAverages", self.networks["averages"]).update()

    def quantizer_weights(self, step: int) -> dict[str, float]:
        """Return the weight of each loss that a quantizer may have, at a step."""
        config = self.config
        boost = losses.annealed(step, config.entropy_boost, round(config.entropy_boost_part * self.plan.steps))
        return super().quantizer_weights(step) | {"entropy": config.entropy_weight * boost, "kl": config.kl_weight}

    def prepared(self, samples: Tensor) -> Tensor:
        """Turn uint8 pictures into float32 in [-1, 1]."""
        return to_pixels(samples)

    def reconstruct(self, real: Tensor) -> Made:
        """Return what the autoencoder makes of pictures (B, C, H, W)."""
        return Made(*self.networks["autoencoder"](real))

    def measure(self, mine: Sequence[Tensor], counts: Sequence[Tensor], runtime: Runtime) -> dict[str, float]:
        """Return the loss without the discriminator's part, and PSNR (dB)."""
        distortion = psnr = 0.0
        for start in range(0, len(mine), self.data.batch_size):
            real = to_pixels(torch.stack(list(mine[start : start + self.data.batch_size])).to(runtime.device))
            made = self.reconstruct(real)
            pixel, perceptual = self._pixel(made.samples, real), self._perceptual(made.samples, real)
            distortion += float(self.config.pixel_weight * pixel + self.config.perceptual_weight * perceptual)
            errors = (from_pixels(made.samples).float() - from_pixels(real).float()).square().flatten(1).mean(1)
            # A picture that comes back exactly counts as one with an error of half a level in one value.
            psnr += sum(psnr_of(max(error, 0.25 / real[0].numel())) for error in errors.tolist())
            self.count_ids(made.ids, counts)
        sums = [value / len(self.held_out) for value in runtime.sums([distortion, psnr])]
        return {"loss": sums[0], "psnr": sums[1]}

    def shown(self) -> dict[str, Exhibit]:
        """Return held-out pictures above their reconstructions."""
        chosen = torch.stack(list(self.held_out[:SHOWN]))
        device = next(self.model.parameters()).device
        made = from_pixels(self.reconstruct(to_pixels(chosen.to(device))).samples).cpu()
        half = -(-len(chosen) // 2)
        rows = [
            list(part) for start in (0, half) for part in (chosen[start : start + half], made[start : start + half])
        ]
        return {"reconstructions": Exhibit("image", grid_of([row for row in rows if row]))}

    def _pixel(self, made: Tensor, real: Tensor) -> Tensor:
        return (losses.l1 if self.config.pixel == "l1" else losses.l2)(made, real)

    def _perceptual(self, made: Tensor, real: Tensor) -> Tensor:
        if self.perceptual is None:
            return made.new_zeros(())
        distance: Tensor = self.perceptual.to(made.device)(made, real)
        return distance.sum()

    def compare(self, made: Tensor, real: Tensor, step: int, logs: dict[str, Tensor]) -> Tensor:  # noqa: ARG002
        """Return the weighted loss of pixels and of features."""
        config = self.config
        logs["pixel"] = self._pixel(made, real)
        distortion = config.pixel_weight * logs["pixel"]
        if self.perceptual is not None:
            logs["perceptual"] = self._perceptual(made, real)
            distortion = distortion + config.perceptual_weight * logs["perceptual"]
        return distortion

    def oppose(self, made: Tensor, real: Tensor, compared: Tensor, step: int, logs: dict[str, Tensor]) -> Tensor:
        """Return the weighted loss against the discriminator."""
        config = self.config
        verdict = self._judge(made)
        hinge = config.discriminator == "hinge"
        logs["generator"] = (losses.hinge_generator if hinge else losses.non_saturating_generator)(verdict.logits)
        total = logs["generator"] * config.discriminator_weight
        if config.adaptive_weight:
            weight = losses.adaptive_weight(compared, logs["generator"], self.model.decoder.last_weight, len(made))
            logs["adaptive_weight"] = weight * len(made)
            total = total * weight
        if config.feature_matching_weight:
            with torch.no_grad():
                goal = self._judge(real).features
            logs["feature_matching"] = losses.feature_matching(verdict.features, goal)
            total = total + config.feature_matching_weight * logs["feature_matching"]
        return total * self.generator_ramp(step)

    def discriminate(self, real: Tensor, made: Tensor) -> PhaseLoss:
        """Return the discriminator's loss on real and made pictures."""
        verdict = self._judge(torch.cat([real, made]))
        true, fake = verdict.logits.float().chunk(2)
        hinge = self.config.discriminator == "hinge"
        total = (losses.hinge_discriminator if hinge else losses.non_saturating_discriminator)(true, fake)
        logs = {
            "discriminator": total.detach(),
            "real_logit": true.detach().mean() * len(true),
            "fake_logit": fake.detach().mean() * len(fake),
        }
        if "averages" in self.networks:
            averages = cast("losses.LogitAverages", self.networks["averages"])
            pull = losses.lecam(true, fake, averages.real, averages.fake)
            averages.observe(true, fake)
            total = total + self.config.lecam_weight * pull
            logs["lecam"] = pull.detach()
        return PhaseLoss(total, logs)

    def _judge(self, pixels: Tensor) -> Verdict:
        return Verdict(*self.networks["discriminator"](pixels))
