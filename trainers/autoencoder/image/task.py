"""A discrete autoencoder of pictures and its discriminator as a task: what pictures are compared by, and what is shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenize_kit.metrics.image import psnr_of
from tokenize_kit.tokenizers.learned.image.model import Autoencoder
from tokenize_kit.tokenizers.learned.pixels import from_pixels, to_pixels
from trainers.autoencoder import losses
from trainers.autoencoder.image.config import ImageRecipe, LossConfig
from trainers.autoencoder.image.data import PictureBatches
from trainers.autoencoder.judged import JudgedTask
from trainers.autoencoder.patches import PatchDiscriminator, discriminator_config
from trainers.autoencoder.task import Made, Plan
from trainers.exhibits import Exhibit, grid_of
from trainers.runtime import Runtime

SHOWN = 12
"""Held-out pictures in the grids to look at."""


class AutoencoderTask(JudgedTask[LossConfig]):
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
        if self.config.discriminator != "none":
            size = min(data.pictures.cut(int(data.chosen[0]), data.cutting, None).shape[1:])
            self.add_judges(PatchDiscriminator(discriminator_config(size, model.config.network.channels)))

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
            pixel, perceptual = self._pixel(made.samples, real), self.perceived(made.samples, real)
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

    def compare(self, made: Tensor, real: Tensor, step: int, logs: dict[str, Tensor]) -> Tensor:  # noqa: ARG002
        """Return the weighted loss of pixels and of features."""
        config = self.config
        logs["pixel"] = self._pixel(made, real)
        distortion = config.pixel_weight * logs["pixel"]
        if self.perceptual is not None:
            logs["perceptual"] = self.perceived(made, real)
            distortion = distortion + config.perceptual_weight * logs["perceptual"]
        return distortion
