"""A discrete autoencoder and its discriminator as a `trainers.task.Task`.

Two phases a step: the autoencoder against pixels, features and the discriminator's present opinion; then, once it has set
in, the discriminator against the pictures that the autoencoder made in this very step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from tokenize_kit.autoencoder.model import Autoencoder, Reconstruction, from_pixels, to_pixels
from tokenize_kit.files import atomic_write
from tokenize_kit.metrics.image import psnr_of
from trainers.autoencoder import losses
from trainers.autoencoder.config import LossConfig, Recipe
from trainers.autoencoder.data import PictureBatch, PictureBatches, grid_of
from trainers.autoencoder.discriminator import PatchDiscriminator, Verdict, discriminator_config
from trainers.checkpoints import module_tensors
from trainers.config import OptimizerConfig
from trainers.optim import build_optimizers, learning_rate_factor, set_learning_rate
from trainers.runtime import Runtime
from trainers.task import PhaseLoss, Task

BEST_FILE = "best.safetensors"
"""The weights of the best validation so far, in the folder of the run."""
SHOWN = 12
"""Held-out pictures in the grids to look at."""


class AutoencoderTask(Task):
    """Trains an autoencoder.

    Args:
        model: freshly built.
        recipe: losses and optimiser.
        data: training batches of this process.
        held_out: pictures to validate on, uint8 (C, H, W) of one size.
        steps: of the whole run.
        out: where the best weights go.
        usage_floor: warn when a validation uses a smaller part of a codebook.
        stop_on_collapse: end the run then.
    """

    unit = "samples"
    averaged: tuple[str, ...] | None = ("autoencoder",)
    advice = "a smaller --loss.discriminator-weight"

    def __init__(
        self,
        model: Autoencoder,
        recipe: Recipe,
        data: PictureBatches,
        held_out: Sequence[Tensor],
        steps: int,
        out: Path,
        *,
        usage_floor: float = 0.0,
        stop_on_collapse: bool = False,
    ) -> None:
        self.model, self.data, self.held_out, self.steps, self.out = model, data, held_out, steps, out
        self.config = recipe.loss
        self._floor, self._stop = usage_floor, stop_on_collapse
        self._optimizer = recipe.optimizer
        self.networks: dict[str, nn.Module] = {"autoencoder": model}
        self.optimizers = {"autoencoder": build_optimizers(model, recipe.optimizer, model.quantizer.parameters())}
        self.perceptual: nn.Module | None = None
        if self.config.perceptual_weight:
            from tokenize_kit.metrics.perceptual import Perceptual

            self.perceptual = Perceptual(self.config.perceptual_path)
        if self.config.discriminator != "none":
            self.keep = "last"
            size = min(data.pictures.cut(int(data.chosen[0]), data.cutting, None).shape[1:])
            discriminator = PatchDiscriminator(discriminator_config(size, model.config.network.channels))
            self.networks["discriminator"] = discriminator
            self.optimizers["discriminator"] = [_discriminator_optimizer(discriminator, self.config, recipe.optimizer)]
            if self.config.lecam_weight:
                self.networks["averages"] = losses.LogitAverages()
        self._start = round(self.config.discriminator_start * steps)

    def batch(self, index: int) -> PictureBatch:
        """Return this process's micro-batch ``index``."""
        return self.data.batch(index)

    def weight(self, batch: PictureBatch) -> int:
        """Return the number of pictures."""
        return len(batch.pictures)

    def active(self, phase: str, step: int) -> bool:
        """Return whether a phase takes part: the discriminator does from its start on."""
        return phase == "autoencoder" or step >= self._start

    def loss(self, phase: str, batch: PictureBatch, step: int) -> PhaseLoss:
        """Return the summed loss of a phase on a batch."""
        return self._autoencoder(batch, step) if phase == "autoencoder" else self._discriminator(batch)

    def stepped(self, phase: str, step: int) -> None:  # noqa: ARG002
        """Move the averages of the logits after a step of the discriminator."""
        if phase == "discriminator" and "averages" in self.networks:
            cast("losses.LogitAverages", self.networks["averages"]).update()

    def set_learning_rates(self, step: int) -> float:
        """Set the learning rates of step ``step`` and the quantizer's progress; return the autoencoder's rate."""
        self.model.quantizer.anneal(step / max(1, self.steps - 1))
        factor = learning_rate_factor(step, self.steps, self._optimizer)
        for optimizers in self.optimizers.values():
            set_learning_rate(optimizers, factor)
        return float(self.optimizers["autoencoder"][-1].param_groups[0]["lr"])

    def describe(self, sums: Mapping[str, float], weight: int) -> dict[str, float]:
        """Return the mean of each term a picture."""
        return {name: value / max(1, weight) for name, value in sums.items()}

    def warnings(self, line: Mapping[str, float]) -> list[str]:
        """Warn of a discriminator that has won, and of a codebook that is hardly used."""
        found = []
        if line.get("real_logit", 0) > 0 and line.get("real_logit", 0) - line.get("fake_logit", 0) > 10:
            found.append(
                "the discriminator tells all pictures apart and teaches nothing: lower "
                "--loss.discriminator-learning-rate, or raise --loss.lecam-weight"
            )
        if line.get("validation/usage", 1.0) < self._floor:
            found.append(_COLLAPSE)
        return found

    def validate(self, runtime: Runtime) -> dict[str, float]:
        """Return the metrics of the present weights on the held-out pictures: loss, PSNR (dB), codebook usage, perplexity.

        Raises:
            ValueError: the codebook has collapsed and the run shall stop then.
        """
        if not len(self.held_out):
            return {}
        counts = [torch.zeros(size) for size in self.model.quantizer.codebook_sizes]
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
            ids = made.ids.cpu().flatten(0, 2) if made.ids.ndim == 4 else made.ids.cpu().reshape(-1, 1)
            for codebook, count in enumerate(counts):
                count += torch.bincount(ids[:, codebook], minlength=len(count))
        total = len(self.held_out)
        sums = runtime.sums([distortion, psnr, *torch.cat(counts).tolist()])
        metrics = {"loss": sums[0] / total, "psnr": sums[1] / total}
        shares = torch.split(torch.tensor(sums[2:]), [len(count) for count in counts])
        metrics["usage"] = min(float((share > 0).float().mean()) for share in shares)
        metrics["perplexity"] = sum(_perplexity(share) for share in shares) / len(shares)
        if self._stop and metrics["usage"] < self._floor:
            raise ValueError(f"{_COLLAPSE} (usage {metrics['usage']:.3f}, --usage-floor {self._floor})")
        return metrics

    def save_best(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the weights beside the run."""
        # One entry, because safetensors puts several in any order, and a run shall give the same bytes each time.
        metadata = {"training": json.dumps({"step": step, "metrics": dict(metrics)})}
        with atomic_write(self.out / BEST_FILE) as file:
            file.write(save(module_tensors(self.model), metadata))

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
        for name, value in made.losses.items():
            logs[name] = value * len(real)
            total = total + self._quantizer_weight(name, step) * logs[name]
        if "discriminator" in self.networks and self.active("discriminator", step):
            batch.made = made.pixels.detach()
            total = total + self._generator(made.pixels, real, distortion, step, logs)
        logs = {"loss": total, **logs}
        logs["batch_perplexity"] = _batch_perplexity(made.ids, self.model.quantizer.codebook_sizes) * len(real)
        return PhaseLoss(total, {name: value.detach() for name, value in logs.items()})

    def _quantizer_weight(self, name: str, step: int) -> float:
        config = self.config
        boost = losses.annealed(step, config.entropy_boost, round(config.entropy_boost_part * self.steps))
        return {
            "commitment": config.commitment_weight,
            "codebook": config.codebook_weight,
            "entropy": config.entropy_weight * boost,
            "kl": config.kl_weight,
        }[name]

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
        return total * losses.ramp(step, self._start, round(config.discriminator_ramp * self.steps))

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


_COLLAPSE = (
    "the codebook is hardly used: for vq and rvq raise --quantizer.dead-code-threshold or lower --quantizer.codebook-dim, for "
    "lfq, bsq and gumbel raise --loss.entropy-weight, or take fewer codes"
)


def _discriminator_optimizer(
    network: nn.Module, config: LossConfig, optimizer: OptimizerConfig
) -> torch.optim.Optimizer:
    """Return AdamW without weight decay and with little momentum, as discriminators are trained with."""
    built = torch.optim.AdamW(
        network.parameters(),
        lr=config.discriminator_learning_rate,
        betas=(min(0.5, optimizer.beta1), optimizer.beta2),
        weight_decay=0.0,
        fused=True,
    )
    for group in built.param_groups:
        group["peak_lr"] = group["lr"]
    return built


def _perplexity(counts: Tensor) -> float:
    shares = counts[counts > 0].double() / counts.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def _batch_perplexity(ids: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the mean over codebooks of the perplexity of the ids of one batch."""
    columns = ids.flatten(0, 2) if ids.ndim == 4 else ids.reshape(-1, 1)
    found = [_perplexity(torch.bincount(column, minlength=size)) for column, size in zip(columns.T, sizes, strict=True)]
    return torch.tensor(sum(found) / len(found), device=ids.device)
