"""What `evaluate` measures on videos: loss of frames and of their differences, flicker, seams, bits, frames a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from tokenize_kit.metrics import perceptual
from tokenize_kit.metrics.image import SSIM_MIN_SIDE, SSIM_WINDOW, psnr_of
from tokenize_kit.metrics.measures import Judgement, Measure, Metrics, Totals, mean
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.metrics.speed import ClipSpeed, SpeedMeter, clip_speed
from tokenize_kit.metrics.video import STILL_LEVELS, behind_borders, changes, frame_errors, opaque, video_ssim
from tokenize_kit.protocol import TokenSpec

if TYPE_CHECKING:
    from tokenize_kit.metrics.fvd import FrechetVideoDistance


class Seams:
    """Errors just behind the borders of a tokenizer's time steps, against those of the other frames.

    A causal grid has one step for the first frame and then one for every ``factor`` frames, so the frames 1 + k * factor stand
    behind a border. With a tokenizer that decodes each step well by itself they are worse than the others, or the picture jumps.
    The first frame is left out: it has a step of its own.

    Args:
        factor: frames a step; with 1 there is nothing to compare.
    """

    def __init__(self, factor: int) -> None:
        self._factor = factor
        # Of the frames behind a border, and of the others: frames, squared error, squared change of the error.
        self._sums = [[0, 0, 0], [0, 0, 0]]

    def add(self, errors: Tensor, power: Tensor, values: int) -> None:
        """Count a video.

        Args:
            errors: squared error of each frame, ``(T,)``.
            power: squared change of the error into each frame but the first, ``(T - 1,)``.
            values: of a frame.
        """
        behind = behind_borders(len(errors), self._factor)[1:]
        for sums, chosen in zip(self._sums, (behind, ~behind), strict=True):
            sums[0] += int(chosen.sum()) * values
            sums[1] += int(errors[1:][chosen].sum())
            sums[2] += int(power[chosen].sum())

    def summary(self) -> Metrics:
        """Return the two ratios of means; None where there are no frames on a side, or nothing was lost there."""
        (behind, error, change), (others, error_of_others, change_of_others) = self._sums

        def ratio(mine: int, theirs: int) -> float | None:
            return (mine / behind) / (theirs / others) if behind and others and theirs else None

        return {
            "seam_error_ratio": ratio(error, error_of_others),
            "seam_change_ratio": ratio(change, change_of_others),
        }


class VideoMeasure(Measure):
    """Videos: what was lost in frames, in their differences and where nothing moves, and how many bits carry them.

    With e[t] the error of frame t (reconstruction less original, in levels of 0 to 255, all channels), ``flicker`` is

        sqrt( sum (e[t] - e[t - 1])^2 / n )

    over the n values (t >= 1, pixel, channel) of all videos whose pixel of the original stands still from frame t - 1 to t: no
    channel changes by more than `tokenize_kit.metrics.video.STILL_LEVELS`. It is in levels, and 0 for an error that stands still
    too. ``flicker_share`` is sum (e[t] - e[t - 1])^2 / sum (e[t]^2 + e[t - 1]^2) over the same values: 0 for an error that stands
    still, 1 for one that is drawn anew for every frame, 2 for one that changes its sign.

    Args:
        spec: of the tokenizer.
        options: of the evaluation.

    Raises:
        FileNotFoundError, MissingWeightsError, ValueError: as `tokenize_kit.metrics.perceptual.Perceptual` and
            `tokenize_kit.metrics.fvd.VideoFeatures`.
    """

    special = ("lpips", "lpips_weights", "fvd_weights")
    loss_name = "mean squared error"

    def __init__(self, spec: TokenSpec, options: EvaluateOptions) -> None:
        self._rate = spec.frame_rate
        step = dict(zip(spec.axes, spec.step, strict=True)).get("time")
        self._seams = Seams(step or 1)
        self._perceptual = perceptual.asked_for(options)
        self._frechet = _frechet(options)
        self._speed = SpeedMeter(clip_speed)
        self._videos = self._exact = self._frames = self._pixels = self._values = self._error = 0
        self._moving = self._still = self._still_power = self._still_error = self._step_values = 0
        self._transparent = False
        self._means: dict[str, list[float]] = {
            name: [] for name in ("psnr", "white", "first", "last", "differences", "ssim", "lpips")
        }

    def add(self, samples: Sequence[Tensor], reconstructions: Sequence[Tensor]) -> list[Judgement]:
        """Measure videos, uint8 ``(T, C, H, W)``."""
        if self._frechet is not None:
            self._frechet.add(samples, reconstructions)
        return [self._judge(*pair) for pair in zip(samples, reconstructions, strict=True)]

    def timed(self, samples: Sequence[Tensor], encoding: float, decoding: float) -> None:
        """See `Measure`."""
        frames, _, height, width = samples[0].shape
        self._speed.add((frames, height, width), len(samples), encoding, decoding)

    def speed_by_size(self) -> list[ClipSpeed]:
        """See `Measure`."""
        return self._speed.rows()

    def _judge(self, sample: Tensor, reconstruction: Tensor) -> Judgement:
        errors, changed = frame_errors(sample, reconstruction), changes(sample, reconstruction)
        frame, error = sample[0].numel(), int(errors.sum())
        self._videos += 1
        self._frames += len(sample)
        self._pixels += len(sample) * sample.shape[-2] * sample.shape[-1]
        self._values += sample.numel()
        self._error += error
        self._moving += len(sample) > 1
        self._step_values += len(changed.power) * frame
        self._still += int(changed.still.sum())
        self._still_power += int(changed.still_power.sum())
        self._still_error += int(changed.still_error.sum())
        self._seams.add(errors, changed.power, frame)
        if min(sample.shape[-2:]) >= SSIM_MIN_SIDE:
            self._means["ssim"].append(video_ssim(sample, reconstruction))
        if self._perceptual is not None and min(sample.shape[-2:]) >= perceptual.LPIPS_MIN_SIDE:
            distances = self._perceptual.distances(sample, reconstruction)
            self._means["lpips"].append(math.fsum(distances) / len(distances))
        self._add_psnr("first", int(errors[0]), frame)
        self._add_psnr("last", int(errors[-1]), frame)
        self._add_psnr("differences", int(changed.power.sum()), len(changed.power) * frame)
        if sample.shape[1] == 4:
            self._transparent = True
            white = opaque(sample)
            self._add_psnr("white", int(frame_errors(white, opaque(reconstruction)).sum()), white.numel())
        if not error:
            self._exact += 1
            return Judgement("exact", 0.0)
        self._add_psnr("psnr", error, sample.numel())
        return Judgement(f"{self._means['psnr'][-1]:.2f} dB", error / sample.numel())

    def _add_psnr(self, name: str, error: int, values: int) -> None:
        if error:
            self._means[name].append(psnr_of(error / values))

    def summary(self, totals: Totals) -> Metrics:
        """See `Measure`."""
        numbers: Metrics = {
            "psnr": mean(self._means["psnr"]),
            "psnr_of_all_pixels": psnr_of(self._error / self._values) if self._error else None,
            "ssim": mean(self._means["ssim"]),
            "exact_samples": self._exact,
        }
        if self._transparent:
            numbers["psnr_on_white"] = mean(self._means["white"])
        numbers |= {
            "psnr_of_first_frames": mean(self._means["first"]),
            "psnr_of_last_frames": mean(self._means["last"]),
            "psnr_of_differences": mean(self._means["differences"]),
            "flicker": math.sqrt(self._still_power / self._still) if self._still else None,
            "flicker_share": self._still_power / self._still_error if self._still_error else None,
            "still_share": self._still / self._step_values if self._step_values else None,
        }
        numbers |= self._seams.summary()
        if self._perceptual is not None:
            numbers[self._perceptual.name] = mean(self._means["lpips"])
        if self._frechet is not None:
            numbers[self._frechet.name] = self._frechet.distance()
        numbers |= {
            "frames": self._frames,
            "pixels_per_token": self._pixels / totals.tokens,
            "bits_per_pixel": totals.fixed_bits / self._pixels,
            "entropy_bits_per_pixel": totals.entropy_bits / self._pixels,
        }
        if self._rate is not None:
            seconds = self._frames / self._rate
            numbers |= {
                "seconds": seconds,
                "kilobits_per_second": totals.fixed_bits / seconds / 1000,
                "entropy_kilobits_per_second": totals.entropy_bits / seconds / 1000,
            }
        return numbers | {
            "encode_frames_per_second": self._frames / totals.encoding,
            "decode_frames_per_second": self._frames / totals.decoding,
        }

    def protocol(self) -> str:
        """See `Measure`."""
        lines = [
            "PSNR and SSIM on uint8 frames (reconstructions are rounded, not truncated), data range 255. psnr is the mean over "
            "videos of the PSNR of all pixels of a video; those that come back exactly are counted in exact_samples and left "
            "out. psnr_of_all_pixels is the PSNR of the mean squared error over all values of all videos. psnr_of_first_frames "
            "and psnr_of_last_frames are means over videos of the PSNR of one frame, exact ones left out; a video of one frame "
            "has it as both.",
            f"SSIM: Gaussian window of {SSIM_WINDOW}, sigma 1.5, mirrored edges, mean over channels and frames, then over "
            f"videos; {self._of('ssim')} have the side of {SSIM_MIN_SIDE} that it needs.",
            "psnr_of_differences: of the difference of each frame to the one before it, data range 255 too, mean over the "
            f"{self._moving:,} videos of two frames and more, exact ones left out.",
            "flicker: root mean square, in levels of 255, of the change of the error from one frame to the next, over the values "
            f"whose pixel of the original changes by at most {STILL_LEVELS} levels in every channel (still_share of all). "
            "flicker_share: that power over the power of the error in both frames; 0 where the error stands still too, 1 where "
            "it is drawn anew for each frame.",
            "seam_error_ratio: mean squared error of the frames just behind a border between two time steps of the grid (1, "
            "1 + f, 1 + 2f with f frames a step) over that of the other frames but the first; seam_change_ratio the same of "
            "the change of the error from the frame before. 1 shows no seam; not defined for one frame a step.",
            "Bits: at a fixed length of the ids, and at the entropy of each codebook's ids on their own (entropy_); a pixel is "
            "one of one frame" + ("." if self._rate is None else f", a second has {self._rate:g} frames."),
        ]
        if self._transparent:
            lines.append(
                "RGBA is measured in all four channels as they are stored; psnr_on_white, LPIPS and rFVD see the frames "
                "composited on white."
            )
        if self._perceptual is not None:
            lines.append(
                f"{self._perceptual.name}: VGG16, heads of version 0.1, of each frame, mean over frames, then over videos, grey "
                f"repeated to three channels; {self._of('lpips')} have the side of {perceptual.LPIPS_MIN_SIDE} that it needs."
                + perceptual.not_published(self._perceptual.name, "LPIPS")
            )
        if self._frechet is not None:
            lines.append(_said_of_fvd(self._frechet))
        return "\n".join(lines)

    def _of(self, name: str) -> str:
        return f"{len(self._means[name]):,} of {self._videos:,} videos"


def _frechet(options: EvaluateOptions) -> FrechetVideoDistance | None:
    if options.fvd_weights is None:
        return None
    from tokenize_kit.metrics.fvd import FrechetVideoDistance

    return FrechetVideoDistance(options.fvd_weights)


def _said_of_fvd(frechet: FrechetVideoDistance) -> str:
    from tokenize_kit.metrics.fvd import FVD_FRAMES

    return (
        f"{frechet.name}: originals against reconstructions, 400 logits of I3D at 224x224, {frechet.clips:,} clips of "
        f"{FVD_FRAMES} frames, one behind the other (published figures use some thousand; fewer give larger values)."
        + perceptual.not_published(frechet.name, "FVD")
    )
