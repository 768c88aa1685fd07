"""A neural audio codec and its discriminators as a `trainers.task.Task`.

Two phases a step: the codec against spectra, samples and the discriminators' present opinion; then, once they have set in, the
discriminators against the sounds that the codec made in this very step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_kit.metrics.audio import si_sdr
from tokenize_kit.report.spectrogram import spectrogram
from tokenize_kit.tokenizers.learned.audio.model import AudioReconstruction, Codec
from trainers.autoencoder.audio import losses
from trainers.autoencoder.audio.balancer import Balancer
from trainers.autoencoder.audio.config import AudioRecipe
from trainers.autoencoder.audio.data import SoundBatch, SoundBatches, to_samples
from trainers.autoencoder.audio.discriminator import SoundDiscriminator, SoundVerdict, sound_discriminator_config
from trainers.autoencoder.base import Plan, QuantizedTask
from trainers.autoencoder.image import losses as distances
from trainers.autoencoder.image.data import grid_of
from trainers.optim import build_optimizers
from trainers.runtime import Runtime
from trainers.task import PhaseLoss

SHOWN = 6
"""Held-out sounds in the grids of spectrograms."""
HEARD = 3
"""Held-out sounds to listen to."""
SHOWN_SECONDS = 5.0
"""How much of each is shown and heard."""
PAUSE_SECONDS = 0.5
"""Silence between a sound and its reconstruction."""
SI_SDR_LIMIT = 100.0
"""A ratio beyond this, in dB and either way, counts as this: a mean of numbers shall be a number."""
WON = 0.02
"""The discriminators have won when their loss is below this part of the loss of those that cannot tell anything."""
_BETA1 = 0.8
"""The largest memory of the mean gradient in the discriminators' optimiser (DAC)."""


class CodecTask(QuantizedTask):
    """Trains a neural audio codec.

    Args:
        model: freshly built.
        recipe: losses and optimiser.
        data: training batches of this process.
        held_out: sounds to validate on, int16 (C, N) of any length.
        plan: what it must know of its run.
    """

    def __init__(
        self, model: Codec, recipe: AudioRecipe, data: SoundBatches, held_out: Sequence[Tensor], plan: Plan
    ) -> None:
        super().__init__(model, model.quantizer, recipe.loss, recipe.optimizer, plan)
        self.model, self.data, self.held_out = model, data, held_out
        self.config, self.network = recipe.loss, recipe.model.network
        self.optimizers["autoencoder"] = build_optimizers(model, recipe.optimizer, _tables(model))
        # The last step at the latest.
        self._quantizing = min(plan.steps - 1, round(self.config.quantizer_start * plan.steps))
        self._quantize = self._quantizing == 0
        if self.config.discriminator != "none":
            self.add_discriminator(self._built_discriminator(), _BETA1)
        if self.config.balancer:
            self.networks["balancer"] = Balancer(self._weights())

    def _built_discriminator(self) -> SoundDiscriminator:
        config, network, length = self.config, self.network, self.data.cropping.length
        judges = sound_discriminator_config(config.discriminator_network, network.channels, config.discriminator_width)
        if length < judges.smallest:
            raise ValueError(
                f"crops of {length} samples are too short for the discriminators; use a --crop-seconds of at least "
                f"{math.ceil(judges.smallest / network.hop) / network.rate:.3g}"
            )
        self._judges = len(judges.periods) + len(judges.windows)
        return SoundDiscriminator(judges)

    def _weights(self) -> dict[str, float]:
        """Return the weights above 0 of all terms on the made sounds."""
        config = self.config
        weights = {"mel": config.mel_weight, "stft": config.stft_weight, "waveform": config.waveform_weight}
        if config.discriminator != "none":
            weights |= {"generator": config.discriminator_weight, "feature_matching": config.feature_matching_weight}
        return {name: weight for name, weight in weights.items() if weight}

    def batch(self, index: int) -> SoundBatch:
        """Return this process's micro-batch ``index``."""
        return self.data.batch(index)

    def weight(self, batch: SoundBatch) -> int:
        """Return the number of crops."""
        return len(batch.sounds)

    def loss(self, phase: str, batch: SoundBatch, step: int) -> PhaseLoss:
        """Return the summed loss of a phase on a batch."""
        return self._autoencoder(batch, step) if phase == "autoencoder" else self._discriminator(batch)

    def stepped(self, phase: str, step: int) -> None:  # noqa: ARG002
        """Move the balancer's averages after a step of the codec."""
        if phase == "autoencoder" and "balancer" in self.networks:
            cast("Balancer", self.networks["balancer"]).update()

    def set_learning_rates(self, step: int) -> float:
        """Set what depends on the step; return the codec's learning rate."""
        self._quantize = step >= self._quantizing
        return super().set_learning_rates(step)

    def has_won(self, line: Mapping[str, float]) -> bool:
        """Return whether the discriminators tell everything apart, by a line of the log."""
        if "discriminator" not in line:
            return False
        # What a logit of 0 for everything has: 1 for one side with least squares, and half of 1 for both sides with hinge.
        return line["discriminator"] < WON * self._judges

    def validate(self, runtime: Runtime) -> dict[str, float]:
        """Return the metrics on the held-out sounds: mel distance, SI-SDR (dB), codebook usage, perplexity.

        The mean over sounds of the mel distance is the score; SI-SDR is a mean over the sounds for which it is defined, and
        missing if there is none. Before the codebooks have begun there is nothing that could be compared with later on.

        Raises:
            ValueError: a codebook has collapsed and the run shall stop then.
        """
        if not len(self.held_out) or not self._quantize:
            return {}
        counts = self.empty_counts()
        distance, ratios = 0.0, []
        for sound in self.held_out[runtime.rank :: runtime.world]:
            real = to_samples(sound.to(runtime.device))
            made, ids = self._whole(real)
            distance += float(losses.mel_distance(made[None], real[None], self.network.sample_rate))
            try:
                ratio = si_sdr(real.cpu(), made.cpu())
            except ValueError:  # silence
                pass
            else:
                ratios.append(min(SI_SDR_LIMIT, max(-SI_SDR_LIMIT, ratio)))
            self.count_ids(ids, counts)
        summed, ratio, defined = runtime.sums([distance, math.fsum(ratios), float(len(ratios))])
        metrics = {"mel_distance": summed / len(self.held_out)}
        if defined:
            metrics["si_sdr"] = ratio / defined
        return metrics | self.codebook_metrics(counts, runtime)

    def pictures(self) -> dict[str, Tensor]:
        """Return spectrograms of held-out sounds above those of their reconstructions."""
        if not len(self.held_out):
            return {}
        rate = self.network.sample_rate
        pairs = [[spectrogram(sound.cpu(), rate, 320, 96) for sound in pair] for pair in self._pairs(SHOWN)]
        width = max(picture.shape[2] for pair in pairs for picture in pair)
        pairs = [[F.pad(picture, (0, width - picture.shape[2]), value=255) for picture in pair] for pair in pairs]
        half = -(-len(pairs) // 2)
        parts = [part for part in (pairs[:half], pairs[half:]) if part]
        return {"spectrograms": grid_of([[pair[side] for pair in part] for part in parts for side in (0, 1)])}

    def sounds(self) -> dict[str, tuple[Tensor, int]]:
        """Return held-out sounds, each followed by silence and its reconstruction."""
        rate = self.network.sample_rate
        pause = torch.zeros(self.network.channels, round(PAUSE_SECONDS * rate))
        return {
            f"sound{number}": (torch.cat([real.cpu(), pause, made.cpu().clamp(-1, 1)], 1), rate)
            for number, (real, made) in enumerate(self._pairs(HEARD))
        }

    def _pairs(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Return the beginnings of held-out sounds and their reconstructions, float32 (C, N)."""
        device = next(self.model.parameters()).device
        length = round(SHOWN_SECONDS * self.network.sample_rate)
        chosen = [to_samples(sound[:, :length].to(device)) for sound in self.held_out[:count]]
        return [(real, self._whole(real)[0]) for real in chosen]

    def _whole(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction of a sound (C, N) of any length, and its ids (1, T, ...)."""
        missing = -real.shape[1] % self.network.hop
        made = self._reconstruct(F.pad(real, (0, missing))[None])
        return made.samples[0, :, : real.shape[1]], made.ids

    def _reconstruct(self, samples: Tensor) -> AudioReconstruction:
        return AudioReconstruction(*self.networks["autoencoder"](samples, quantize=self._quantize))

    def _judge(self, samples: Tensor) -> SoundVerdict:
        return SoundVerdict(*self.networks["discriminator"](samples))

    def _autoencoder(self, batch: SoundBatch, step: int) -> PhaseLoss:
        real = to_samples(batch.sounds)
        made = self._reconstruct(real)
        terms = self._distances(made.samples, real)
        factors: dict[str, float] = {}
        if self.judged(step):
            batch.made = made.samples.detach()
            judged = self._generator(made.samples, real)
            terms |= judged
            factors = dict.fromkeys(judged, self.generator_ramp(step))
        logs = dict(terms)
        total = self._joined(terms, made.samples, factors, logs)
        weights = self.quantizer_weights(step)
        for name, value in made.losses.items():
            logs[name] = value * len(real)
            total = total + weights[name] * logs[name]
        if self._quantize:
            logs["batch_perplexity"] = self.batch_perplexity(made.ids) * len(real)
        else:
            # Several processes wait for a gradient of every parameter.
            weights_of_codes = (weight.sum() for weight in self.model.quantizer.parameters())
            total = total + 0.0 * sum(weights_of_codes, start=total.new_zeros(()))
        return PhaseLoss(total, {"loss": total.detach(), **{name: value.detach() for name, value in logs.items()}})

    def _joined(
        self, terms: Mapping[str, Tensor], made: Tensor, factors: Mapping[str, float], logs: dict[str, Tensor]
    ) -> Tensor:
        """Return the weighted sum of the terms, balanced if that is wanted; the scales of balancing go into ``logs``."""
        if "balancer" in self.networks:
            balanced = cast("Balancer", self.networks["balancer"])(terms, made, factors)
            logs |= {f"balance_{name}": scale * len(made) for name, scale in balanced.scales.items()}
            return cast("Tensor", balanced.total)
        weights = self._weights()
        return torch.stack([weights[name] * factors.get(name, 1.0) * value for name, value in terms.items()]).sum()

    def _distances(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Return each distance of sounds (B, C, N) that is wanted, summed over the batch."""
        config = self.config
        terms: dict[str, Tensor] = {}
        if config.mel_weight:
            terms["mel"] = losses.mel_distance(made, real, self.network.sample_rate)
        if config.stft_weight:
            terms["stft"] = losses.stft_distance(made, real)
        if config.waveform_weight:
            terms["waveform"] = (distances.l1 if config.waveform == "l1" else distances.l2)(made, real)
        return terms

    def _generator(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Return what the discriminators' opinion of made sounds costs, by its terms that are wanted."""
        config, verdict = self.config, self._judge(made)
        terms: dict[str, Tensor] = {}
        if config.discriminator_weight:
            generator = losses.hinge_generator if config.discriminator == "hinge" else losses.least_squares_generator
            terms["generator"] = generator(verdict.logits)
        if config.feature_matching_weight:
            with torch.no_grad():
                goal = self._judge(real)
            relative = config.feature_matching == "relative"
            distance = losses.relative_feature_matching if relative else losses.feature_matching
            terms["feature_matching"] = distance(verdict.features, goal.features)
        return terms

    def _discriminator(self, batch: SoundBatch) -> PhaseLoss:
        assert batch.made is not None, "the codec's phase comes first"
        sounds = to_samples(batch.sounds)
        real, fake = self._judge(torch.cat([sounds, batch.made])).split(len(sounds))
        hinge = self.config.discriminator == "hinge"
        total = (losses.hinge_discriminator if hinge else losses.least_squares_discriminator)(real.logits, fake.logits)
        means = {
            name: torch.stack([logits.detach().float().mean() for logits in side.logits]).mean() * len(sounds)
            for name, side in (("real_logit", real), ("fake_logit", fake))
        }
        return PhaseLoss(total, {"discriminator": total.detach(), **means})


def _tables(model: Codec) -> list[nn.Parameter]:
    """Return the parameters that are no matrices inside the network: those of the quantizer, and the lengths of weight norm."""
    lengths = [value for name, value in model.named_parameters() if name.endswith("parametrizations.weight.original0")]
    return [*model.quantizer.parameters(), *lengths]
