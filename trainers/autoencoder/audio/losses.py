"""Losses of neural audio codecs and their discriminators, as pure functions on sounds (B, C, N) in [-1, 1].

As all of them (`trainers.autoencoder.losses`) every loss is the sum over the batch of a mean over each sound, in float32
whatever autocast says: it adds up over batches and processes, and divided by the number of sounds it is what the papers
write. The waveform's losses are `trainers.autoencoder.losses.l1` and ``l2``, which take any shape.

The distances of spectra are those of `tokenize_kit.metrics.audio`, with a gradient. It is written by hand and taken together
with the value: of automatic differentiation the magnitudes of complex numbers, the products with mostly empty filter banks
and the full-length transforms of the backward pass cost twice as much, and magnitudes have no derivative at silence.

The losses against discriminators take what each of them says (`trainers.autoencoder.audio.discriminator.SoundVerdict`) and
are sums over the discriminators, as in HiFi-GAN and DAC, so that the weights of their papers fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenize_kit.metrics.audio import FLOOR, MEL_BINS, MEL_WINDOWS, STFT_WINDOWS, mel_bank
from trainers.autoencoder import losses as shared

MEL_SCALES: tuple[tuple[int, int], ...] = tuple(zip(MEL_WINDOWS, MEL_BINS, strict=True))
"""Window in samples and number of mel bins of each scale of `mel_distance`."""

_CHUNK_SAMPLES = 1 << 18
"""Samples that a CPU takes at a time: what fits in its caches, and in memory that it need not ask for again and again."""
_BLOCK = 32
"""Mel filters that are multiplied at a time, with only the frequencies that they cover."""


def mel_distance(
    made: Tensor, real: Tensor, sample_rate: int, scales: Sequence[tuple[int, int]] = MEL_SCALES
) -> Tensor:
    """Return the mel distance: mean over each sound, sum over the scales and over the batch (DAC, Kumar et al. 2023).

    For each sound it is `tokenize_kit.metrics.audio.mel_distance`: absolute differences of the log10 of mel magnitudes,
    clamped at 1e-5. What is below has no gradient, as in DAC.

    Args:
        made: (B, C, N), with or without a gradient.
        real: (B, C, N); it has no gradient.
        sample_rate: of both, in Hz.
        scales: windows and mel bins; some of `MEL_SCALES` are cheaper than all.

    Raises:
        ValueError: the shapes differ or are not (B, C, N), or a window is not a positive multiple of 4.
    """
    return _distance(
        made, real, [_MelScale(window, _mel_blocks(window, bins, sample_rate, made.device)) for window, bins in scales]
    )


def stft_distance(made: Tensor, real: Tensor, windows: Sequence[int] = STFT_WINDOWS) -> Tensor:
    """Return the multi-resolution STFT distance: mean over each sound, sum over the windows and over the batch.

    For each sound it is `tokenize_kit.metrics.audio.stft_distance`: absolute differences of magnitudes plus those of the log10
    of their squares, clamped at 1e-5 before (``MultiScaleSTFTLoss`` of DAC's audiotools). It has no spectral convergence, a
    quotient that is not a mean over the sound.

    Args:
        made: (B, C, N), with or without a gradient.
        real: (B, C, N); it has no gradient.
        windows: in samples; the hop is a quarter.

    Raises:
        ValueError: the shapes differ or are not (B, C, N), or a window is not a positive multiple of 4.
    """
    return _distance(made, real, [_LinearScale(window) for window in windows])


def least_squares_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Return the squared errors of calling real sounds 1 and made ones 0 (Mao et al. 2017, HiFi-GAN, DAC).

    Args:
        real: logits (B, ...) of each discriminator on real sounds.
        fake: the same on made ones.
    """
    pairs = zip(real, fake, strict=True)
    return torch.stack(
        [shared.l2(one, torch.ones_like(one)) + shared.l2(other, torch.zeros_like(other)) for one, other in pairs]
    ).sum()


def least_squares_generator(fake: Sequence[Tensor]) -> Tensor:
    """Return the squared errors of calling made sounds 1; ``fake`` has the logits (B, ...) of each discriminator."""
    return torch.stack([shared.l2(logits, torch.ones_like(logits)) for logits in fake]).sum()


def hinge_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Return the hinge losses of `trainers.autoencoder.losses.hinge_discriminator`, summed over the discriminators.

    It has the half that EnCodec and SoundStream leave out; they divide by the number of discriminators instead. Adam does not
    see either.

    Args:
        real: logits (B, ...) of each discriminator on real sounds.
        fake: the same on made ones.
    """
    pairs = zip(real, fake, strict=True)
    return torch.stack([shared.hinge_discriminator(one, other) for one, other in pairs]).sum()


def hinge_generator(fake: Sequence[Tensor]) -> Tensor:
    """Return minus the logits (B, ...) of made sounds, summed over the discriminators (audiocraft's ``hinge``)."""
    return torch.stack([shared.hinge_generator(logits) for logits in fake]).sum()


def feature_matching(made: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the absolute differences of features: mean over each sound's layer, sum over layers, discriminators and the batch.

    As in MelGAN and HiFi-GAN (Kong et al. 2020) and DAC, whose weight of 2 it takes.

    Args:
        made: for each discriminator its layers' features (B, ...) of made sounds, with a gradient.
        real: the same of the real sounds; they have none.
    """
    pairs = zip(_layers(made), _layers(real), strict=True)
    return torch.stack([shared.l1(one, other.detach()) for one, other in pairs]).sum()


def relative_feature_matching(made: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the mean over all layers of the differences of features relative to their size (EnCodec).

    It is `trainers.autoencoder.losses.feature_matching`: each sound is divided by the size of its own features.

    Args:
        made: for each discriminator its layers' features (B, ...) of made sounds, with a gradient.
        real: the same of the real sounds; they have none.
    """
    return shared.feature_matching(_layers(made), _layers(real))


def _layers(features: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [layer for discriminator in features for layer in discriminator]


def _distance(made: Tensor, real: Tensor, scales: Sequence[_Scale]) -> Tensor:
    if made.shape != real.shape or made.ndim != 3 or not made[:1].numel():
        raise ValueError(
            f"two batches of sounds of one shape (B, C, N) are compared, not {tuple(made.shape)} and {tuple(real.shape)}"
        )
    for scale in scales:
        if scale.window < 4 or scale.window % 4:
            raise ValueError(
                f"a window of {scale.window} samples has no hop of a quarter; use a positive multiple of 4"
            )
    if torch.is_grad_enabled() and made.requires_grad:
        distances: Tensor = _Distances.apply(made, real, scales)
        return distances.sum()
    return _measured(made, real, scales, False)[0].sum()


class _Distances(torch.autograd.Function):
    """The distances (B,) of sounds, whose gradient is computed together with them."""

    @staticmethod
    def forward(ctx: Any, made: Tensor, real: Tensor, scales: Sequence[_Scale]) -> Tensor:
        distances, gradient = _measured(made, real, scales, True)
        ctx.save_for_backward(gradient)
        ctx.dtype = made.dtype
        return distances

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * outputs[0][:, None, None]).to(ctx.dtype), None, None


@torch.no_grad()
def _measured(made: Tensor, real: Tensor, scales: Sequence[_Scale], want: bool) -> tuple[Tensor, Tensor]:
    """Return the distances (B,) of sounds (B, C, N), and if wanted the gradient (B, C, N) of each with respect to its sound."""
    batch, channels, length = made.shape
    rows, goals = made.float().flatten(0, 1), real.float().flatten(0, 1)
    step = max(1, _CHUNK_SAMPLES // length) if made.device.type == "cpu" else len(rows)
    values = rows.new_zeros(len(rows))
    gradient = torch.zeros_like(rows) if want else rows
    with torch.autocast(made.device.type, enabled=False):
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            for scale in scales:
                goal = scale.goal(_magnitudes(_spectrum(goals[part], scale.window)))
                spectrum = _spectrum(rows[part], scale.window)
                magnitudes = _magnitudes(spectrum)
                value, pull = scale.compare(magnitudes, goal, want)
                values[part] += value
                if pull is not None:
                    # The direction of a number without a magnitude is 0.
                    pull /= magnitudes.clamp_(min=1e-12)
                    gradient[part] += _spectrum_backward(spectrum.mul_(pull), scale.window, length)
    # A sound's channels are of one length, so the mean over all is that of the channels' means.
    return values.view(batch, channels).mean(1), gradient.view(batch, channels, length) / channels


def _magnitudes(spectrum: Tensor) -> Tensor:
    squares = torch.view_as_real(spectrum).square()
    return (squares[..., 0] + squares[..., 1]).sqrt_()


def _spectrum(rows: Tensor, window: int) -> Tensor:
    """Return the transforms (S, T, window // 2 + 1) of frames of ``rows`` (S, N), a quarter of the window apart.

    Edges are mirrored by half a window; mirroring needs more samples than it adds, so a shorter row goes on with zeros.
    """
    edge = window // 2
    rows = F.pad(rows, (0, max(0, edge + 1 - rows.shape[-1])))
    padded = F.pad(rows[:, None], (edge, edge), mode="reflect")[:, 0]
    spectrum: Tensor = torch.fft.rfft(padded.unfold(-1, window, window // 4) * _hann(window, rows.device))
    return spectrum


def _spectrum_backward(pull: Tensor, window: int, length: int) -> Tensor:
    """Return the gradient (S, length) of what `_spectrum` took, of that (S, T, F) of its outcome, which is changed."""
    edge, hop = window // 2, window // 4
    # The inverse counts all frequencies but the first and the last twice, for those that it is not given.
    pull[..., 1:-1] *= 0.5
    frames = torch.fft.irfft(pull, n=window, norm="forward").mul_(_hann(window, pull.device))
    rows, count, _ = frames.shape
    full = max(length, edge + 1)
    padded = frames.new_zeros(rows, full + window)
    # Every fourth frame lies side by side.
    for phase in range(min(4, count)):
        part = frames[:, phase::4]
        first, values = phase * hop, part.shape[1] * window
        padded[:, first : first + values].unflatten(-1, (-1, window)).add_(part)
    inner: Tensor = padded[:, edge : edge + full]
    inner[:, 1 : edge + 1] += padded[:, :edge].flip(-1)
    inner[:, full - 1 - edge : full - 1] += padded[:, edge + full :].flip(-1)
    return inner[:, :length]


class _Scale(Protocol):
    """How magnitudes (S, T, F) of frames of ``window`` samples are compared."""

    @property
    def window(self) -> int: ...

    def goal(self, magnitudes: Tensor) -> Tensor:
        """Return what is compared of the real sounds; may change ``magnitudes``."""
        ...

    def compare(self, magnitudes: Tensor, goal: Tensor, want: bool) -> tuple[Tensor, Tensor | None]:
        """Return the means (S,) over frames and bins, and if wanted their gradients (S, T, F); may change ``goal``."""
        ...


class _MelScale(NamedTuple):
    window: int
    blocks: tuple[_Block, ...]

    def goal(self, magnitudes: Tensor) -> Tensor:
        return self._mel(magnitudes).clamp_(min=FLOOR).log10_()

    def compare(self, magnitudes: Tensor, goal: Tensor, want: bool) -> tuple[Tensor, Tensor | None]:
        mel = self._mel(magnitudes)
        clamped = mel.clamp(min=FLOOR)
        difference = clamped.log10().sub_(goal)
        values = difference.abs().flatten(1).mean(1)
        if not want:
            return values, None
        pull = difference.sign_().mul_(mel >= FLOOR).div_(clamped).div_(math.log(10) * mel[0].numel()).flatten(0, 1)
        gradient = torch.zeros_like(magnitudes)
        flat, begin = gradient.view(len(pull), -1), 0
        for block in self.blocks:
            flat[:, block.frequencies].addmm_(pull[:, begin : begin + len(block.bank)], block.bank)
            begin += len(block.bank)
        return values, gradient

    def _mel(self, magnitudes: Tensor) -> Tensor:
        flat = magnitudes.flatten(0, 1)
        mel = torch.cat([flat[:, block.frequencies] @ block.bank.T for block in self.blocks], 1)
        return mel.view(*magnitudes.shape[:2], -1)


class _LinearScale(NamedTuple):
    window: int

    def goal(self, magnitudes: Tensor) -> Tensor:
        return magnitudes

    def compare(self, magnitudes: Tensor, goal: Tensor, want: bool) -> tuple[Tensor, Tensor | None]:
        clamped = magnitudes.clamp(min=FLOOR)
        linear = magnitudes - goal
        logarithms = clamped.log10().sub_(goal.clamp(min=FLOOR).log10_())
        count = magnitudes[0].numel()
        values = (linear.abs().flatten(1).sum(1) + 2 * logarithms.abs().flatten(1).sum(1)) / count
        if not want:
            return values, None
        pull = logarithms.sign_().mul_(magnitudes >= FLOOR).div_(clamped).mul_(2 / math.log(10))
        return values, pull.add_(linear.sign_()).div_(count)


class _Block(NamedTuple):
    frequencies: slice
    bank: Tensor
    """(bins, frequencies): the filters without the frequencies that none of them covers."""


@lru_cache(maxsize=64)
def _mel_blocks(window: int, bins: int, sample_rate: int, device: torch.device) -> tuple[_Block, ...]:
    blocks = []
    for part in torch.split(mel_bank(window, bins, sample_rate), _BLOCK):
        covered = part.sum(0).nonzero().flatten()
        frequencies = slice(int(covered[0]), int(covered[-1]) + 1) if len(covered) else slice(0, 1)
        blocks.append(_Block(frequencies, part[:, frequencies].contiguous().to(device)))
    return tuple(blocks)


@lru_cache(maxsize=64)
def _hann(window: int, device: torch.device) -> Tensor:
    return torch.hann_window(window, device=device)
