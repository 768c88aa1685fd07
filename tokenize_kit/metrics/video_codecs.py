"""What the classical codecs reach on the same videos: rate and PSNR, at rates beside those of a tokenizer.

`VideoCodecs` is what the comparison with a tokenizer asks; below it are functions over uint8 videos ``(T, C, H, W)``. A video is
encoded by itself and decoded again (`tokenize_kit.metrics.video_coding`); the rate counts coded pictures alone
(`tokenize_kit.metrics.bitstreams`) and the PSNR is that of RGB. Chroma is coded in full or in half resolution, whichever gives
more PSNR at a rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenize_kit.metrics.bitstreams import picture_bytes
from tokenize_kit.metrics.image import SSIM_MIN_SIDE, psnr
from tokenize_kit.metrics.rate import Codecs, Column, Curve, Plot
from tokenize_kit.metrics.rate_search import rates_near
from tokenize_kit.metrics.video import opaque, video_ssim
from tokenize_kit.metrics.video_coding import (
    CODECS,
    RATE_WITHOUT_SPEC,
    available_video_codecs,
    decode_video,
    encode_video,
    has_codec,
    video_codec,
)
from tokenize_kit.protocol import TokenSpec

MAX_PIXELS = 1 << 19
"""No more pixels than this, of all frames of all videos, are given to the codecs: at their slowest presets they take a second for
a clip of 17 frames of 64x64."""


@dataclass(frozen=True)
class VideoRatePoint:
    """Rate and quality of some videos at one setting."""

    name: str
    """The codec, or what else made the videos."""
    setting: int | None
    """Its constant rate factor."""
    pixel_format: str | None
    """What it coded: ``yuv444p``, or ``yuv420p`` with chroma in half resolution; ``10le`` with 10 bits."""
    bits_per_pixel: float
    """Bits of all videos over the pixels of all their frames."""
    kilobits_per_second: float | None
    """Bits of all videos over their seconds, in thousands; None where there is no frame rate."""
    psnr: float | None
    """Mean over the videos in dB of the PSNR of all pixels of a video, on white; None if all come back exactly."""
    ssim: float | None
    """Mean over frames, then over the videos, on white; None if they are too small."""
    exact: int
    """Videos that come back exactly, which are not in ``psnr``."""
    videos: int
    """How many were measured."""


class VideoCodecs(Codecs[VideoRatePoint]):
    """H.264, H.265 and AV1 at rates beside those of the tokenizer."""

    columns = (
        Column("bits a pixel", "bits_per_pixel"),
        Column("kbit/s", "kilobits_per_second", missing="no frame rate"),
        Column("PSNR", "psnr", missing="exact"),
        Column("SSIM", "ssim", missing="too small"),
    )
    plots = (
        Plot("bits_per_pixel", "bits a pixel", "psnr", "mean PSNR, dB"),
        Plot("bits_per_pixel", "bits a pixel", "ssim", "mean SSIM"),
    )
    codec_by_codec = True

    def __init__(self, spec: TokenSpec) -> None:
        self._rate = spec.frame_rate
        self._left_out: list[str] = []

    @property
    def budget(self) -> int:
        """Pixels of all frames."""
        return MAX_PIXELS

    def weight(self, sample: Tensor) -> int:
        """Return the pixels of all frames of a video."""
        return _pixels(sample)

    def available(self, samples: Sequence[Tensor]) -> tuple[str, ...]:
        """See `Codecs`: those of PyAV, without those that videos of this size are too small for."""
        here, side = available_video_codecs(), min(min(sample.shape[-2:]) for sample in samples)
        self._left_out = [
            f"{codec.label} was not measured: "
            + (
                f"this PyAV has no {' and '.join(part for part in (codec.encoder, codec.decoder) if not has_codec(part))}."
                if name not in here
                else f"{codec.encoder} is given no side below {codec.least_side} pixels."
            )
            for name, codec in CODECS.items()
            if name not in here or side < codec.least_side
        ]
        return tuple(name for name in here if side >= CODECS[name].least_side)

    def point(self, name: str, pairs: Sequence[tuple[Tensor, Tensor]], bits: float) -> VideoRatePoint:
        """See `video_point`."""
        return video_point(name, pairs, bits, self._rate)

    def recoded(
        self,
        point: VideoRatePoint,
        name: str,
        samples: Sequence[Tensor],
        bits: float,
        before: float,  # noqa: ARG002
    ) -> VideoRatePoint:
        """See `Codecs`."""
        return replace(
            point,
            name=name,
            bits_per_pixel=bits / sum(map(_pixels, samples)),
            kilobits_per_second=_kilobits(bits, samples, self._rate),
        )

    def curve(self, samples: Sequence[Tensor], codec: str, ours: Sequence[VideoRatePoint]) -> Curve[VideoRatePoint]:
        """Return the points of `video_codec_curve` near ours."""
        return video_codec_curve(samples, codec, [point.bits_per_pixel for point in ours], self._rate)

    def said_of(self, samples: Sequence[Tensor]) -> str:
        """See `Codecs`."""
        frames = sum(map(len, samples))
        return (
            f"The first {len(samples):,} videos ({frames:,} frames, {sum(map(_pixels, samples)) / 1e6:.2f} megapixels)."
        )

    def protocol(self) -> str:
        """See `Codecs`."""
        rate = f"{self._rate:g}" if self._rate is not None else f"{RATE_WITHOUT_SPEC:g} (the tokenizer names none)"
        how = "; ".join(f"{codec.label}: {codec.said}" for codec in CODECS.values())
        lines = [
            f"{how}. At constant rate factors, {rate} frames a second, one thread, key frames and B-frames as the preset has "
            "them.",
            "Colours: BT.709, full range, 4:4:4 or 4:2:0 in 8 bits, whichever gives more PSNR of RGB at a rate (a curve has the "
            "points that no other of its codec beats in both). RGBA is on white. Odd sides are padded by their last row or "
            "column, which is cut off again.",
            "Rates of codecs count coded pictures alone: no container, no parameter sets and sequence headers (which a container "
            "keeps once), no SEI and other messages. PSNR is the mean over videos of that of all their pixels; those that come "
            "back exactly are left out. The nearest point of a codec is that of the nearest rate; where a codec cannot go as low "
            "or as high, it is the last one it has.",
        ]
        return "\n".join([*lines, *self._left_out])


def video_codec_curve(
    videos: Sequence[Tensor],
    codec: str,
    rates: Sequence[float],
    frame_rate: float | None = None,
    formats: Sequence[str] | None = None,
) -> Curve[VideoRatePoint]:
    """Return what a codec reaches around some rates, and its nearest point to each.

    For every pixel format the setting of the nearest rate is searched, and settings beyond the ends are tried; of all
    points those are kept that no other beats in both rate and PSNR.

    Args:
        videos: uint8 ``(T, C, H, W)`` of 1, 3 or 4 channels.
        codec: one of `tokenize_kit.metrics.video_coding.available_video_codecs`.
        rates: bits a pixel, each above 0.
        frame_rate: frames a second.
        formats: pixel formats to try; by default those of the codec.

    Raises:
        ValueError: there is no such codec here, a rate is not above 0, or there are no videos.
    """
    known = video_codec(codec)
    if not rates or min(rates) <= 0:
        raise ValueError(f"rates {list(rates)} must be one and more, each above 0 bits a pixel")
    points: list[VideoRatePoint] = []
    for pixel_format in formats or known.formats:

        def rate(setting: int, pixel_format: str = pixel_format) -> float:
            points.append(video_codec_point(videos, codec, setting, pixel_format, frame_rate))
            return points[-1].bits_per_pixel

        rates_near(rate, known.settings, rates)
    front = _front(points)
    nearest = [min(front, key=lambda point: abs(point.bits_per_pixel - rate)) for rate in rates]
    return Curve(front, nearest)


def _front(points: Sequence[VideoRatePoint]) -> list[VideoRatePoint]:
    """Return the points that no other beats in both rate and PSNR, from the lowest rate on."""
    front: list[VideoRatePoint] = []
    best = -math.inf
    for point in sorted(points, key=lambda point: (point.bits_per_pixel, -_quality(point))):
        if _quality(point) > best:
            front.append(point)
            best = _quality(point)
    return front


def _quality(point: VideoRatePoint) -> float:
    return math.inf if point.psnr is None else point.psnr


def video_codec_point(
    videos: Sequence[Tensor], codec: str, setting: int, pixel_format: str, frame_rate: float | None = None
) -> VideoRatePoint:
    """Return rate and quality of videos at one setting.

    Args:
        videos: uint8 ``(T, C, H, W)`` of 1, 3 or 4 channels.
        codec: one of `tokenize_kit.metrics.video_coding.available_video_codecs`.
        setting: its constant rate factor.
        pixel_format: as FFmpeg calls it.
        frame_rate: frames a second, which the codec is told.

    Raises:
        ValueError: there is no such codec or setting here, or there are no videos.
    """

    def there_and_back(video: Tensor) -> tuple[int, Tensor]:
        packets = encode_video(video, codec, setting, pixel_format, frame_rate)
        return sum(picture_bytes(packet, codec) for packet in packets), decode_video(packets, codec, video)

    # The codecs leave Python while they work, so threads help.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        made = list(threads.map(there_and_back, videos))
    pairs = [(video, decoded) for video, (_, decoded) in zip(videos, made, strict=True)]
    point = video_point(codec, pairs, 8 * sum(size for size, _ in made), frame_rate)
    return replace(point, setting=setting, pixel_format=pixel_format)


def video_point(
    name: str, pairs: Sequence[tuple[Tensor, Tensor]], bits: float, frame_rate: float | None = None
) -> VideoRatePoint:
    """Return the point of originals and what came back for them, uint8 ``(T, C, H, W)``, which took ``bits`` in all.

    Raises:
        ValueError: there are no videos, or a pair differs in shape.
    """
    if not pairs:
        raise ValueError("there are no videos to measure")
    videos = [video for video, _ in pairs]
    plain = [(opaque(video), opaque(other)) for video, other in pairs]
    values = [psnr(*pair) for pair in plain]
    finite = [value for value in values if value != math.inf]
    similar = [video_ssim(*pair) for pair in plain if min(pair[0].shape[-2:]) >= SSIM_MIN_SIDE]
    return VideoRatePoint(
        name=name,
        setting=None,
        pixel_format=None,
        bits_per_pixel=bits / sum(map(_pixels, videos)),
        kilobits_per_second=_kilobits(bits, videos, frame_rate),
        psnr=math.fsum(finite) / len(finite) if finite else None,
        ssim=math.fsum(similar) / len(similar) if similar else None,
        exact=len(values) - len(finite),
        videos=len(pairs),
    )


def _pixels(video: Tensor) -> int:
    return len(video) * video.shape[-2] * video.shape[-1]


def _kilobits(bits: float, videos: Sequence[Tensor], frame_rate: float | None) -> float | None:
    return None if frame_rate is None else bits * frame_rate / sum(map(len, videos)) / 1000
