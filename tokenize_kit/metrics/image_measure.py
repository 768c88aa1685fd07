"""What `evaluate` measures on pictures: PSNR, SSIM, sharpness, the features of networks, bits a pixel, speed for each size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenize_kit.metrics import perceptual
from tokenize_kit.metrics.image import (
    MS_SSIM_MIN_SIDE,
    SSIM_MIN_SIDE,
    SSIM_WINDOW,
    ms_ssim,
    on_white,
    psnr,
    psnr_of,
    squared_error,
    ssim,
)
from tokenize_kit.metrics.measures import Judgement, Measure, Metrics, Totals, mean
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.metrics.sharpness import SHARPNESS_MIN_SIDE, Sharpness
from tokenize_kit.metrics.speed import SizeSpeed, SpeedMeter, picture_speed
from tokenize_kit.protocol import TokenSpec

if TYPE_CHECKING:
    from tokenize_kit.metrics.fid import FrechetDistance


class ImageMeasure(Measure):
    """Pictures: what was lost pixel by pixel, in structure, in sharpness and, if asked for, in the features of networks."""

    special = ("lpips", "lpips_weights", "fid", "fid_weights")
    loss_name = "mean squared error"

    def __init__(self, _spec: TokenSpec, options: EvaluateOptions) -> None:
        self._perceptual = perceptual.asked_for(options)
        self._frechet = _frechet(options)
        self._sharpness = Sharpness()
        self._speed = SpeedMeter(picture_speed)
        self._samples = self._exact = self._pixels = self._values = self._error = 0
        self._transparent = False
        self._psnr: list[float] = []
        self._psnr_on_white: list[float] = []
        self._ssim: list[float] = []
        self._ms_ssim: list[float] = []
        self._lpips: list[float] = []

    def add(self, samples: Sequence[Tensor], reconstructions: Sequence[Tensor]) -> list[Judgement]:
        """Measure pictures of one size, uint8 ``(C, H, W)``."""
        judgements = [self._judge(*pair) for pair in zip(samples, reconstructions, strict=True)]
        if self._perceptual is not None and min(samples[0].shape[-2:]) >= perceptual.LPIPS_MIN_SIDE:
            self._lpips += self._perceptual.distances(torch.stack(list(samples)), torch.stack(list(reconstructions)))
        if self._frechet is not None:
            self._frechet.add(torch.stack(list(samples)), torch.stack(list(reconstructions)))
        return judgements

    def timed(self, samples: Sequence[Tensor], encoding: float, decoding: float) -> None:
        """See `Measure`."""
        self._speed.add(samples[0].shape[-2:], len(samples), encoding, decoding)

    def speed_by_size(self) -> list[SizeSpeed]:
        """See `Measure`."""
        return self._speed.rows()

    def _judge(self, sample: Tensor, reconstruction: Tensor) -> Judgement:
        error = squared_error(sample, reconstruction)
        self._samples += 1
        self._values += sample.numel()
        self._pixels += sample.shape[-2] * sample.shape[-1]
        self._error += error
        self._sharpness.add(sample, reconstruction)
        side = min(sample.shape[-2:])
        if side >= SSIM_MIN_SIDE:
            self._ssim.append(ssim(sample, reconstruction))
        if side >= MS_SSIM_MIN_SIDE:
            self._ms_ssim.append(ms_ssim(sample, reconstruction))
        if sample.shape[0] == 4:
            self._transparent = True
            value = psnr(on_white(sample), on_white(reconstruction))
            self._psnr_on_white += [] if value == math.inf else [value]
        if not error:
            self._exact += 1
            return Judgement("exact", 0.0)
        self._psnr.append(psnr_of(error / sample.numel()))
        return Judgement(f"{self._psnr[-1]:.2f} dB", error / sample.numel())

    def summary(self, totals: Totals) -> Metrics:
        """See `Measure`."""
        numbers: Metrics = {
            "psnr": mean(self._psnr),
            "psnr_of_all_pixels": psnr_of(self._error / self._values) if self._error else None,
            "ssim": mean(self._ssim),
            "ms_ssim": mean(self._ms_ssim),
            "exact_samples": self._exact,
        }
        if self._transparent:
            numbers["psnr_on_white"] = mean(self._psnr_on_white)
        numbers |= self._sharpness.summary()
        if self._perceptual is not None:
            numbers[self._perceptual.name] = mean(self._lpips)
        if self._frechet is not None:
            numbers[self._frechet.name] = self._frechet.distance()
        return numbers | {
            "pixels": self._pixels,
            "pixels_per_token": self._pixels / totals.tokens,
            "bits_per_pixel": totals.fixed_bits / self._pixels,
            "entropy_bits_per_pixel": totals.entropy_bits / self._pixels,
            "encode_megapixels_per_second": self._pixels / 1e6 / totals.encoding,
            "decode_megapixels_per_second": self._pixels / 1e6 / totals.decoding,
        }

    def protocol(self) -> str:
        """See `Measure`."""
        lines = [
            "PSNR and SSIM on uint8 pictures (reconstructions are rounded, not truncated), data range 255. psnr, ssim and "
            "ms_ssim are means over pictures; pictures that come back exactly are counted in exact_samples and left out of "
            "psnr, where they would be infinite. psnr_of_all_pixels is the PSNR of the mean squared error over all values.",
            f"SSIM: Gaussian window of {SSIM_WINDOW}, sigma 1.5, mirrored edges, mean over the channels; "
            f"{self._of(self._ssim)} have the side of {SSIM_MIN_SIDE} that it needs. MS-SSIM: five scales; "
            f"{self._of(self._ms_ssim)} have the side of {MS_SSIM_MIN_SIDE} that it needs.",
            "Sharpness, on the brightness: gradient_ratio is the mean gradient of the reconstructions over that of the "
            "originals, upper_octave_ratio the same of the power between 1/4 and 1/2 cycle a pixel (Hann window); below 1 is "
            "blurred, above 1 noisy or ringing. gradient_distance is the earth mover's distance of the distributions of "
            f"gradients, in grey levels. {self._sharpness.pictures:,} of {self._samples:,} pictures have the side of "
            f"{SHARPNESS_MIN_SIDE} that these need.",
        ]
        if self._transparent:
            lines.append(
                "RGBA is measured in all four channels as they are stored, invisible colours included; psnr_on_white, "
                "sharpness, LPIPS and FID see the pictures composited on white."
            )
        if self._perceptual is not None:
            lines.append(
                f"{self._perceptual.name}: VGG16, heads of version 0.1, mean over pictures, grey repeated to three "
                f"channels; {self._of(self._lpips)} have the side of {perceptual.LPIPS_MIN_SIDE} that it needs."
                + perceptual.not_published(self._perceptual.name, "LPIPS")
            )
        if self._frechet is not None:
            lines.append(
                f"{self._frechet.name}: originals against reconstructions, 2048 features of the InceptionV3 of 2015, scaled "
                f"as TensorFlow 1 did, {self._frechet.pictures:,} pictures (published figures use 50,000; fewer give larger "
                "values)." + perceptual.not_published(self._frechet.name, "FID")
            )
        return "\n".join(lines)

    def _of(self, values: Sequence[float]) -> str:
        return f"{len(values):,} of {self._samples:,} pictures"


def _frechet(options: EvaluateOptions) -> FrechetDistance | None:
    if not (options.fid or options.fid_weights):
        return None
    from tokenize_kit.metrics.fid import FrechetDistance

    return FrechetDistance(options.fid_weights)
