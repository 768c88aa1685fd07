"""Losses of autoencoders and their discriminators, as pure functions.

Every loss is the sum over the batch of a mean over each sample (its pixels, its patches, its features), in float32 whatever
autocast says. So it adds up over batches and processes, and divided by the number of samples it is what the papers write.
Shapes are those of pictures, (B, C, H, W), but all that is asked of them is that the batch comes first.

Which network a loss may change is the loop's business: it freezes the others. What must not have a gradient by its meaning
(moving averages, the features of real samples, a weight) is detached here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def l1(made: Tensor, real: Tensor) -> Tensor:
    """Return the absolute error: mean over each sample, sum over the batch.

    Args:
        made: (B, C, H, W).
        real: (B, C, H, W).
    """
    return _sum_of_means((made.float() - real.float()).abs())


def l2(made: Tensor, real: Tensor) -> Tensor:
    """Return the squared error: mean over each sample, sum over the batch.

    Args:
        made: (B, C, H, W).
        real: (B, C, H, W).
    """
    return _sum_of_means((made.float() - real.float()).square())


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Return half the hinge losses of both sides (Lim & Ye 2017; the half is that of VQGAN's ``hinge_d_loss``).

    Args:
        real: logits (B, 1, H, W) of real samples.
        fake: logits (B, 1, H, W) of made ones.
    """
    return 0.5 * (_sum_of_means((1 - real.float()).relu()) + _sum_of_means((1 + fake.float()).relu()))


def hinge_generator(fake: Tensor) -> Tensor:
    """Return minus the logits (B, 1, H, W) of made samples (VQGAN's generator loss)."""
    return -_sum_of_means(fake.float())


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Return the cross entropy of telling both sides apart, in nats (Goodfellow et al. 2014, StyleGAN's ``D_logistic``).

    Args:
        real: logits (B, 1, H, W) of real samples.
        fake: logits (B, 1, H, W) of made ones.
    """
    return _sum_of_means(F.softplus(-real.float())) + _sum_of_means(F.softplus(fake.float()))


def non_saturating_generator(fake: Tensor) -> Tensor:
    """Return minus the log-probability that made samples are real (StyleGAN's ``G_logistic_nonsaturating``).

    Args:
        fake: logits (B, 1, H, W).
    """
    return _sum_of_means(F.softplus(-fake.float()))


def lecam(real: Tensor, fake: Tensor, average_real: Tensor, average_fake: Tensor) -> Tensor:
    """Return LeCam's regularisation, which holds each side's logits near the other side's past (Tseng et al. 2021).

    The square is that of each logit, as in the authors' code, not of the batch's mean, so it adds up over batches.

    Args:
        real: logits (B, 1, H, W) of real samples.
        fake: logits (B, 1, H, W) of made ones.
        average_real: () moving average of the logits of real samples; see `LogitAverages`.
        average_fake: () the same of made ones.
    """
    above = (real.float() - average_fake.detach()).relu().square()
    below = (average_real.detach() - fake.float()).relu().square()
    return _sum_of_means(above) + _sum_of_means(below)


def move_average(average: Tensor, mean: Tensor, decay: float) -> Tensor:
    """Return ``decay * average + (1 - decay) * mean``, without a gradient."""
    return torch.lerp(average.detach(), mean.detach().to(average.dtype), 1 - decay)


class LogitAverages(nn.Module):
    """The moving averages of LeCam: one step at a time, over all of the step's batches and processes.

    As buffers they are in the checkpoint; they begin at zero (MaskBit). A new value counts from the next step on, so the loss
    does not depend on how a step is cut into batches.

    Args:
        decay: how much of an average a step leaves (0.999 in MaskBit and Open-MAGVIT2).
    """

    real: Tensor
    fake: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))
        self._seen: Tensor | None = None  # sums of real and fake logits and the number of samples, within a step

    @torch.no_grad()
    def observe(self, real: Tensor, fake: Tensor) -> None:
        """Take note of the logits (B, 1, H, W) of one batch of a step."""
        sums = torch.stack(
            [_sum_of_means(real.float()), _sum_of_means(fake.float()), torch.tensor(float(len(real))).to(real.device)]
        ).detach()
        self._seen = sums if self._seen is None else self._seen + sums

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages at the end of a step; every process calls it at the same place.

        Raises:
            RuntimeError: nothing was observed.
        """
        if self._seen is None:
            raise RuntimeError("LogitAverages.update without an observe before it")
        real, fake, count = sum_over_processes(self._seen).unbind()
        self.real.copy_(move_average(self.real, real / count, self.decay))
        self.fake.copy_(move_average(self.fake, fake / count, self.decay))
        self._seen = None


def adaptive_weight(reconstruction: Tensor, generator: Tensor, last: Tensor, count: int) -> Tensor:
    """Return VQGAN's weight of the generator loss: how strongly each of two losses pulls at the last layer (Esser et al. 2021).

    It is ``|d reconstruction / d last| / (|d generator / d last| + 1e-4)`` in [0, 1e4], without a gradient. The gradients are
    those of the mean over the samples of all processes, so each of them gets the same weight, that of the joint batch.
    Several batches of one step have a weight each.

    Args:
        reconstruction: () sum over the batch, with its graph, which is kept.
        generator: () sum over the batch, with its graph, which is kept.
        last: weight of the decoder's last layer.
        count: samples in the batch.
    """
    (one,) = torch.autograd.grad(reconstruction, last, retain_graph=True)
    (other,) = torch.autograd.grad(generator, last, retain_graph=True)
    number = torch.tensor([float(count)], device=last.device)
    joined = sum_over_processes(torch.cat([one.float().reshape(-1), other.float().reshape(-1), number]))
    pulls = joined[:-1].view(2, -1).norm(dim=1) / joined[-1]
    weight: Tensor = pulls[0] / (pulls[1] + 1e-4)
    return weight.clamp(0.0, 1e4).detach()


def feature_matching(made: Sequence[Tensor], real: Sequence[Tensor], floor: float = 0.01) -> Tensor:
    """Return how far the discriminator's features of made samples are from those of the real ones.

    For each sample and layer it is the mean absolute difference divided by the mean size of the real features, and of that
    the mean over the layers (pix2pixHD, Wang et al. 2018; the division is EnCodec's, Défossez et al. 2022). A perceptual loss
    that needs no pretrained network.

    Args:
        made: features of each layer, (B, C, H, W), with a gradient.
        real: the same of the real samples; they have none.
        floor: the smallest size that is divided by, for samples that leave a layer silent.
    """
    layers = []
    for one, other in zip(made, real, strict=True):
        goal = other.detach().float()
        scale = goal.abs().flatten(1).mean(1).clamp(min=floor)
        layers.append(((one.float() - goal).abs().flatten(1).mean(1) / scale).sum())
    return torch.stack(layers).mean()


def ramp(step: int, start: int, length: int) -> float:
    """Return the factor of a loss that sets in late: 0 before ``start``, then rising in a straight line to 1.

    The first of the ``length`` steps has ``1 / length``, the last of them 1; a length of 0 or 1 is a switch.
    """
    return min(1.0, max(0.0, (step - start + 1) / max(1, length)))


def annealed(step: int, first: float, steps: int) -> float:
    """Return the factor of a loss that is stronger at first: from ``first`` in a straight line to 1 at ``steps``, then 1.

    MaskBit doubles the entropy loss at first (2 over 2,000 steps), VidTok has it threefold; 0 steps is a constant 1.
    """
    return 1.0 + (first - 1.0) * max(0.0, 1.0 - step / max(1, steps)) if steps else 1.0


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, the same on every process; with one process the tensor itself."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    summed = tensor.detach().clone()
    torch.distributed.all_reduce(summed)
    return summed


def _sum_of_means(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1).sum()
