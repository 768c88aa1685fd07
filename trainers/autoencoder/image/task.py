"""A discrete autoencoder of pictures and its discriminator as a `trainers.task.Task`.

Two phases a step: the autoencoder against pixels, features and the discriminator's present opinion; then, once it has set
in, the discriminator against the pictures that the autoencoder made in this very step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from tokenize_kit.metrics.image import psnr_of
from tokenize_kit.tokenizers.learned.image.model import Autoencoder, Reconstruction, from_pixels, to_pixels
from trainers.autoencoder.base import Plan, QuantizedTask
from trainers.autoencoder.image import losses
from trainers.autoencoder.image.config import Recipe
from trainers.autoencoder.image.data import PictureBatch, PictureBatches, grid_of
from trainers.autoencoder.image.discriminator import PatchDiscriminator, Verdict, discriminator_config
from trainers.optim import build_optimizers
from trainers.runtime import Runtime
from trainers.task import PhaseLoss

SHOWN = 12
"""Held-out pictures in the grids to look at."""


class AutoencoderTask(QuantizedTask):
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
        self, model: Autoencoder, recipe: Recipe, data: PictureBatches, held_out: Sequence[Tensor], plan: Plan
    ) -> None:
        super().__init__(model, model.quantizer, recipe.loss, recipe.optimizer, plan)
        self.model, self.data, self.held_out = model, data, held_out
        self.config = recipe.loss
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

    def batch(self, index: int) -> PictureBatch:
        """Return this process's micro-batch ``index``."""
        return self.data.batch(index)

    def weight(self, batch: PictureBatch) -> int:
        """Return the number of pictures."""
        return len(batch.pictures)

    def loss(self, phase: str, batch: PictureBatch, step: int) -> PhaseLoss:
        """Return the summed loss of a phase on a batch."""
        return self._autoencoder(batch, step) if phase == "autoencoder" else self._discriminator(batch)

    def stepped(self, phase: str, step: int) -> None:  # noqa: ARG002
        """Move the averages of the logits after a step of the discriminator."""
        if phase == "discriminator" and "averages" in self.networks:
            cast("losses.LogitAverages", self.networks["averages"]).update()

    def quantizer_weights(self, step: int) -> dict[str, float]:
        """Return the weight of each loss that a quantizer may have, at a step."""
        config = self.config
        boost = losses.annealed(step, config.entropy_boost, round(config.entropy_boost_part * self.plan.steps))
        return super().quantizer_weights(step) | {"entropy": config.entropy_weight * boost, "kl": config.kl_weight}

    def validate(self, runtime: Runtime) -> dict[str, float]:
        """Return the metrics of the present weights on the held-out pictures: loss, PSNR (dB), codebook usage, perplexity.

        Raises:
            ValueError: the codebook has collapsed and the run shall stop then.
        """
        if not len(self.held_out):
            return {}
        counts = self.empty_counts()
        distortion = psnr = 0.0
        mine = self.held_out[runtime.rank :: runtime.world]
        for start in range(0, len(mine), self.data.batch_size):
            real = to_pixels(torch.stack(list(mine[start : start + self.data.batch_size])).to(runtime.device))
            made = self._reconstruct(real)
            pixel, perceptual = self._pixel(made.pixels, real), self._perceptual(made.pixels, real)
            distortion += float(self.config.pixel_weight * pixel + self.config.perceptual_weight * perceptual)
            errors = (from_pixels(made.pixels).float() - from_pixels(real).float()).square().flatten(1).mean(1)
            # A picture that comes back exactly counts as one with an error of half a level in one value.
            psnr += sum(psnr_of(max(error, 0.25 / real[0].numel())) for error in errors.tolist())
            self.count_ids(made.ids, counts)
        sums = [value / len(self.held_out) for value in runtime.sums([distortion, psnr])]
        return {"loss": sums[0], "psnr": sums[1], **self.codebook_metrics(counts, runtime)}

    def pictures(self) -> dict[str, Tensor]:
        """Return held-out pictures above their reconstructions."""
        if not len(self.held_out):
            return {}
        chosen = torch.stack(list(self.held_out[:SHOWN]))
        device = next(self.model.parameters()).device
        made = from_pixels(self._reconstruct(to_pixels(chosen.to(device))).pixels).cpu()
        half = -(-len(chosen) // 2)
        rows = [
            list(part) for start in (0, half) for part in (chosen[start : start + half], made[start : start + half])
        ]
        return {"reconstructions": grid_of([row for row in rows if row])}

    def _reconstruct(self, pixels: Tensor) -> Reconstruction:
        return Reconstruction(*self.networks["autoencoder"](pixels))

    def _pixel(self, made: Tensor, real: Tensor) -> Tensor:
        return (losses.l1 if self.config.pixel == "l1" else losses.l2)(made, real)

    def _perceptual(self, made: Tensor, real: Tensor) -> Tensor:
        if self.perceptual is None:
            return made.new_zeros(())
        distance: Tensor = self.perceptual.to(made.device)(made, real)
        return distance.sum()

    def _autoencoder(self, batch: PictureBatch, step: int) -> PhaseLoss:
        config, real = self.config, to_pixels(batch.pictures)
        made = self._reconstruct(real)
        pixel = self._pixel(made.pixels, real)
        logs = {"pixel": pixel}
        distortion = config.pixel_weight * pixel
        if self.perceptual is not None:
            logs["perceptual"] = self._perceptual(made.pixels, real)
            distortion = distortion + config.perceptual_weight * logs["perceptual"]
        total = distortion
        weights = self.quantizer_weights(step)
        for name, value in made.losses.items():
            logs[name] = value * len(real)
            total = total + weights[name] * logs[name]
        if self.judged(step):
            batch.made = made.pixels.detach()
            total = total + self._generator(made.pixels, real, distortion, step, logs)
        logs = {"loss": total, **logs}
        logs["batch_perplexity"] = self.batch_perplexity(made.ids) * len(real)
        return PhaseLoss(total, {name: value.detach() for name, value in logs.items()})

    def _generator(self, made: Tensor, real: Tensor, distortion: Tensor, step: int, logs: dict[str, Tensor]) -> Tensor:
        """Return the weighted loss against the discriminator; its terms go into ``logs``."""
        config = self.config
        verdict = self._judge(made)
        hinge = config.discriminator == "hinge"
        logs["generator"] = (losses.hinge_generator if hinge else losses.non_saturating_generator)(verdict.logits)
        total = logs["generator"] * config.discriminator_weight
        if config.adaptive_weight:
            weight = losses.adaptive_weight(distortion, logs["generator"], self.model.decoder.last_weight, len(made))
            logs["adaptive_weight"] = weight * len(made)
            total = total * weight
        if config.feature_matching_weight:
            with torch.no_grad():
                goal = self._judge(real).features
            logs["feature_matching"] = losses.feature_matching(verdict.features, goal)
            total = total + config.feature_matching_weight * logs["feature_matching"]
        return total * self.generator_ramp(step)

    def _discriminator(self, batch: PictureBatch) -> PhaseLoss:
        assert batch.made is not None, "the autoencoder's phase comes first"
        real_pixels = to_pixels(batch.pictures)
        verdict = self._judge(torch.cat([real_pixels, batch.made]))
        real, fake = verdict.logits.float().chunk(2)
        hinge = self.config.discriminator == "hinge"
        total = (losses.hinge_discriminator if hinge else losses.non_saturating_discriminator)(real, fake)
        logs = {
            "discriminator": total.detach(),
            "real_logit": real.detach().mean() * len(real),
            "fake_logit": fake.detach().mean() * len(fake),
        }
        if "averages" in self.networks:
            averages = cast("losses.LogitAverages", self.networks["averages"])
            pull = losses.lecam(real, fake, averages.real, averages.fake)
            averages.observe(real, fake)
            total = total + self.config.lecam_weight * pull
            logs["lecam"] = pull.detach()
        return PhaseLoss(total, logs)

    def _judge(self, pixels: Tensor) -> Verdict:
        return Verdict(*self.networks["discriminator"](pixels))
