"""A video autoencoder and its discriminators as a task: what clips are compared by, and what is shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tokenize_kit.metrics.image import psnr_of
from tokenize_kit.tokenizers.learned.pixels import from_pixels, to_pixels
from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
from tokenize_kit.tokenizers.learned.video.networks.latent import Depthwise
from trainers.autoencoder import losses as distances
from trainers.autoencoder.judged import JudgedTask
from trainers.autoencoder.task import Made, Plan
from trainers.autoencoder.video import losses
from trainers.autoencoder.video.config import VideoLossConfig, VideoRecipe
from trainers.autoencoder.video.data import ClipBatches, joined
from trainers.autoencoder.video.discriminator import ClipDiscriminator
from trainers.exhibits import Exhibit, grid_of
from trainers.runtime import Runtime

SHOWN = 4
"""Held-out clips to look at."""


class VideoTask(JudgedTask[VideoLossConfig]):
    """Trains a video autoencoder.

    Args:
        model: freshly built.
        recipe: losses and optimiser.
        data: training batches of this process.
        held_out: clips to validate on, uint8 (T, H, W, C) of one size, at most as long as those of the training.
        plan: what it must know of its run.
    """

    judged_too_well = (
        "the discriminator tells all clips apart and teaches nothing: lower "
        "--loss.discriminator-learning-rate, or raise --loss.lecam-weight"
    )

    def __init__(
        self, model: VideoAutoencoder, recipe: VideoRecipe, data: ClipBatches, held_out: Sequence[Tensor], plan: Plan
    ) -> None:
        super().__init__(model, model.quantizer, recipe, data, held_out, plan)
        self.model, self.network, self.length = model, recipe.model.network, data.length
        if self.config.discriminator != "none":
            size = min(data.films.clip(int(data.chosen[0]), 1, data.cutting, None).shape[1:3])
            judges = ClipDiscriminator(self.config.judges, size, self.network.channels)
            self.add_judges(judges, len(judges.judges))

    def tables(self, model: nn.Module, quantizer: Quantizer) -> list[nn.Parameter]:
        """Return what Muon leaves to AdamW: the quantizer, the layers at the ends of each half, and depthwise kernels.

        Those are no matrices between hidden layers, for which orthogonal updates are (Jordan et al. 2024).
        """
        assert isinstance(model, VideoAutoencoder)
        found = list(quantizer.parameters())
        for half in (model.encoder, model.decoder):
            layers = [layer for layer in half.layers.layers if any(weight.ndim > 1 for weight in layer.parameters())]
            ends = [layers[0], layers[-1], *(module for module in half.modules() if isinstance(module, Depthwise))]
            found += [weight for module in ends for weight in module.parameters()]
        return list(dict.fromkeys(found))

    def prepared(self, samples: Tensor) -> Tensor:
        """Turn uint8 clips (B, C, T, H, W) into float32 in [-1, 1]."""
        return to_pixels(samples)

    def reconstruct(self, real: Tensor) -> Made:
        """Return what the autoencoder makes of clips (B, C, T, H, W)."""
        return Made(*self.networks["autoencoder"](real))

    def compare(self, made: Tensor, real: Tensor, step: int, logs: dict[str, Tensor]) -> Tensor:  # noqa: ARG002
        """Return the weighted loss of pixels, bands, differences and features."""
        terms = self._distances(made, real)
        logs |= terms
        weights = self._weights()
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum()

    def _weights(self) -> dict[str, float]:
        """Return the weight of each distance."""
        config = self.config
        return {
            "l1": config.l1_weight,
            "l2": config.l2_weight,
            "low": config.low_weight,
            "high": config.high_weight,
            "difference": config.difference_weight,
            "perceptual": config.perceptual_weight,
        }

    def _distances(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Return each distance of clips (B, C, T, H, W) that is wanted, summed over the batch."""
        config = self.config
        terms: dict[str, Tensor] = {}
        if config.l1_weight:
            terms["l1"] = distances.l1(made, real)
        if config.l2_weight:
            terms["l2"] = distances.l2(made, real)
        if config.low_weight or config.high_weight:
            low, high = losses.haar(made, real)
            terms |= {"low": low} if config.low_weight else {}
            terms |= {"high": high} if config.high_weight else {}
        if config.difference_weight and real.shape[2] > 1:
            terms["difference"] = losses.differences(made, real)
        if self.perceptual is not None:
            frames = (clips.transpose(1, 2).flatten(0, 1) for clips in (made, real))
            terms["perceptual"] = self.perceived(*frames) / real.shape[2]  # a mean over the frames of each clip
        return terms

    def measure(self, mine: Sequence[Tensor], counts: Sequence[Tensor], runtime: Runtime) -> dict[str, float]:
        """Return the loss without the discriminator's part, and three kinds of PSNR (dB), each a mean over clips: of all frames,
        of the first frame, and of the differences of following frames.

        What a short clip was filled up with counts for the loss alone.
        """
        sums = dict.fromkeys(("loss", "psnr", "psnr_first", "psnr_differences", "moving"), 0.0)
        for start in range(0, len(mine), self.data.batch_size):
            clips = list(mine[start : start + self.data.batch_size])
            stored = joined([clip.numpy() for clip in clips], self.length).to(runtime.device)
            real = self.prepared(stored)
            made = self.reconstruct(real)
            weights = self._weights()
            sums["loss"] += sum(
                weights[name] * float(value) for name, value in self._distances(made.samples, real).items()
            )
            for clip, one, other in zip(clips, from_pixels(made.samples), stored, strict=True):
                error = (one.float() - other.float())[:, : len(clip)]
                sums["psnr"] += _psnr(error)
                sums["psnr_first"] += _psnr(error[:, :1])
                if len(clip) > 1:
                    sums["psnr_differences"] += _psnr(error[:, 1:] - error[:, :-1])
                    sums["moving"] += 1
            self.count_ids(made.ids, counts)
        sums = dict(zip(sums, runtime.sums(list(sums.values())), strict=True))
        metrics = {name: sums[name] / len(self.held_out) for name in ("loss", "psnr", "psnr_first")}
        return metrics | ({"psnr_differences": sums["psnr_differences"] / sums["moving"]} if sums["moving"] else {})

    def shown(self) -> dict[str, Exhibit]:
        """Return held-out clips, each above its reconstruction, as one video."""
        stored = joined([clip.numpy() for clip in self.held_out[:SHOWN]], self.length)
        device = next(self.model.parameters()).device
        made = from_pixels(self.reconstruct(self.prepared(stored.to(device))).samples).cpu()
        sheets = [
            grid_of([list(above), list(below)]) for above, below in zip(stored.unbind(2), made.unbind(2), strict=True)
        ]
        return {"reconstructions": Exhibit("video", torch.stack(sheets), frame_rate=self.network.frame_rate)}


def _psnr(error: Tensor) -> float:
    """Return the PSNR of an error in levels; what comes back exactly counts as an error of half a level in one value."""
    return psnr_of(max(float(error.square().mean()), 0.25 / error.numel()))
