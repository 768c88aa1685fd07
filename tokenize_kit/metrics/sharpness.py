"""How sharp reconstructions are beside their originals, without any weights.

PSNR rewards blur. These numbers show it: what is blurred has smaller gradients and less power in the finest octave of its
spectrum than the original (ratios below 1), what is noisy or ringing has more (above 1). They say nothing of whether the
detail is in the right place; read them together with PSNR or LPIPS, for instance with and without a discriminator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenize_kit.metrics.image import on_white

SHARPNESS_MIN_SIDE = 8
"""Pictures with a shorter side have no octave to speak of."""

_LUMA = (0.299, 0.587, 0.114)
_BINS = 362  # the largest gradient is 255 * sqrt(2)


def luma(picture: Tensor) -> Tensor:
    """Return the brightness of a uint8 picture ``(C, H, W)``, float32 ``(H, W)`` from 0 to 255 (ITU-R 601)."""
    values = on_white(picture).to(torch.float32)
    return values[0] if values.shape[0] == 1 else torch.einsum("chw,c->hw", values, torch.tensor(_LUMA))


def gradient_magnitudes(brightness: Tensor) -> Tensor:
    """Return the length of the gradient, by differences to the right and lower neighbour: ``(H, W)`` to ``(H-1, W-1)``."""
    right = brightness[:-1, 1:] - brightness[:-1, :-1]
    down = brightness[1:, :-1] - brightness[:-1, :-1]
    return (right.square() + down.square()).sqrt()


def upper_octave_power(brightness: Tensor) -> float:
    """Return the power of ``(H, W)`` at radial frequencies from 1/4 to 1/2 of a cycle a pixel, under a Hann window."""
    height, width = brightness.shape
    window = torch.outer(torch.hann_window(height, periodic=False), torch.hann_window(width, periodic=False))
    spectrum = torch.fft.rfft2((brightness - brightness.mean()) * window)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    # Half of the spectrum is stored: columns other than the first and that of the Nyquist frequency stand for two.
    twice = torch.full((width // 2 + 1,), 2.0)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    power = (spectrum.real.square() + spectrum.imag.square()) * twice
    return float(power[(frequency >= 0.25) & (frequency <= 0.5)].sum(dtype=torch.float64))


class Sharpness:
    """Adds up pairs of pictures; every ratio is a sum over a sum, so that unequal sizes do no harm."""

    def __init__(self) -> None:
        self.pictures = 0
        """Pairs that were large enough to be counted."""
        self._gradients = [0.0, 0.0]
        self._power = [0.0, 0.0]
        self._histograms = torch.zeros(2, _BINS, dtype=torch.int64)

    def add(self, picture: Tensor, other: Tensor) -> None:
        """Count an original and its reconstruction, uint8 ``(C, H, W)``; those below `SHARPNESS_MIN_SIDE` are left out."""
        if min(picture.shape[-2:]) < SHARPNESS_MIN_SIDE:
            return
        self.pictures += 1
        for place, brightness in enumerate((luma(picture), luma(other))):
            magnitudes = gradient_magnitudes(brightness)
            self._gradients[place] += float(magnitudes.sum(dtype=torch.float64))
            self._power[place] += upper_octave_power(brightness)
            bins = magnitudes.round().to(torch.int64).reshape(-1)
            self._histograms[place] += torch.bincount(bins, minlength=_BINS)

    def summary(self) -> dict[str, float | None]:
        """Return the measures over all pairs; None where nothing was counted or the originals are flat.

        ``gradient_ratio``: mean gradient of the reconstructions over that of the originals.
        ``upper_octave_ratio``: the same for the power in the finest octave.
        ``gradient_distance``: earth mover's distance between the distributions of gradients, in grey levels.
        """
        shares = self._histograms.to(torch.float64) / self._histograms.sum(1, keepdim=True).clamp(min=1)
        distance = float((shares[0].cumsum(0) - shares[1].cumsum(0)).abs().sum())
        return {
            "gradient_ratio": _ratio(self._gradients),
            "upper_octave_ratio": _ratio(self._power),
            "gradient_distance": distance if self.pictures else None,
        }


def _ratio(pair: list[float]) -> float | None:
    return pair[1] / pair[0] if pair[0] else None
