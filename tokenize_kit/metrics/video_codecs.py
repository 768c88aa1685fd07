"""What the classical codecs reach on the same videos: rate and PSNR, at rates beside those of a tokenizer.

`VideoCodecs` is what the comparison with a tokenizer asks; below it are functions over uint8 videos ``(T, C, H, W)``. A video is
encoded by itself through PyAV and decoded again; the rate counts coded pictures alone (`tokenize_kit.metrics.bitstreams`) and the
PSNR is that of RGB. Chroma is coded in full or in half resolution, whichever gives more PSNR at a rate.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tokenize_kit.metrics.bitstreams import picture_bytes
from tokenize_kit.metrics.image import SSIM_MIN_SIDE, psnr
from tokenize_kit.metrics.rate import Codecs, Column, Curve, Plot
from tokenize_kit.metrics.video import opaque, video_ssim
from tokenize_kit.protocol import TokenSpec

MAX_PIXELS = 1 << 19
"""No more pixels than this, of all frames of all videos, are given to the codecs: at their slowest presets they take a second for
a clip of 17 frames of 64x64."""

_BT709, _SRGB, _FULL_RANGE = 1, 13, 2
_RATE_WITHOUT_SPEC = 25.0
_FALL = 0.1
"""About how much the logarithm of the rate falls from one setting to the next."""
_NEAR_ENOUGH = 0.03
"""What it may be off."""
_BEYOND = (3, 7)
"""How many settings beside the nearest ones the ends of a curve lie."""


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


class _Codec(NamedTuple):
    label: str
    encoder: str
    decoder: str
    options: Mapping[str, str]
    formats: tuple[str, ...]
    settings: range
    least_side: int
    said: str


_CODECS = {
    "h264": _Codec(
        "H.264",
        "libx264",
        "h264",
        {"preset": "veryslow", "tune": "psnr"},
        ("yuv444p", "yuv420p"),
        range(1, 52),
        1,
        "libx264, preset veryslow, tune psnr",
    ),
    "h265": _Codec(
        "H.265",
        "libx265",
        "hevc",
        {
            "preset": "veryslow",
            "tune": "psnr",
            "x265-params": "info=0:log-level=error:pools=none:frame-threads=1",
        },
        ("yuv444p", "yuv420p"),
        range(1, 52),
        # Below the size of its coding tree x265 was seen to write beyond its memory (48 pixels wide).
        64,
        "libx265, preset veryslow, tune psnr",
    ),
    "av1": _Codec(
        "AV1",
        "libsvtav1",
        "libdav1d",
        {"preset": "2", "svtav1-params": "tune=1:lp=1"},
        ("yuv420p10le",),
        range(1, 64),
        16,
        "libsvtav1, preset 2, tune 1 (PSNR), 10 bits, as it has no 4:4:4",
    ),
}


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
        """See `available_video_codecs`; without those that videos of this size are too small for."""
        here, side = available_video_codecs(), min(min(sample.shape[-2:]) for sample in samples)
        self._left_out = [
            f"{codec.label} was not measured: "
            + (
                f"this PyAV has no {' and '.join(part for part in (codec.encoder, codec.decoder) if not _has(part))}."
                if name not in here
                else f"{codec.encoder} is given no side below {codec.least_side} pixels."
            )
            for name, codec in _CODECS.items()
            if name not in here or side < codec.least_side
        ]
        return tuple(name for name in here if side >= _CODECS[name].least_side)

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
        rate = f"{self._rate:g}" if self._rate is not None else f"{_RATE_WITHOUT_SPEC:g} (the tokenizer names none)"
        how = "; ".join(f"{codec.label}: {codec.said}" for codec in _CODECS.values())
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


def available_video_codecs() -> tuple[str, ...]:
    """Return those out of h264, h265 and av1 whose encoder and decoder PyAV brings on this machine."""
    return tuple(name for name, codec in _CODECS.items() if _has(codec.encoder) and _has(codec.decoder))


def _has(name: str) -> bool:
    import av

    return name in av.codecs_available


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
        codec: one of `available_video_codecs`.
        rates: bits a pixel, each above 0.
        frame_rate: frames a second.
        formats: pixel formats to try; by default those of the codec.

    Raises:
        ValueError: there is no such codec here, a rate is not above 0, or there are no videos.
    """
    known = _codec(codec)
    if not rates or min(rates) <= 0:
        raise ValueError(f"rates {list(rates)} must be one and more, each above 0 bits a pixel")
    points: list[VideoRatePoint] = []
    for pixel_format in formats or known.formats:

        def at(setting: int, pixel_format: str = pixel_format) -> VideoRatePoint:
            return video_codec_point(videos, codec, setting, pixel_format, frame_rate)

        points += _points_near(at, known.settings, rates)
    front = _front(points)
    nearest = [min(front, key=lambda point: abs(point.bits_per_pixel - rate)) for rate in rates]
    return Curve(front, nearest)


def _points_near(at: Callable[[int], VideoRatePoint], settings: range, rates: Sequence[float]) -> list[VideoRatePoint]:
    """Return the points at the settings nearest to some rates, and some beyond; rates fall with the setting."""
    points: dict[int, VideoRatePoint] = {}

    def rate(setting: int) -> float:
        if setting not in points:
            points[setting] = at(setting)
        return max(points[setting].bits_per_pixel, 1e-9)

    nearest = {_nearest(rate, settings, wanted, points) for wanted in rates}
    for step, sign in product(_BEYOND, (-1, 1)):
        rate(_within((min if sign < 0 else max)(nearest) + sign * step, settings))
    return [points[setting] for setting in sorted(points)]


def _nearest(rate: Callable[[int], float], settings: range, wanted: float, known: Mapping[int, VideoRatePoint]) -> int:
    """Return the setting whose rate is nearest to the one wanted, or within `_NEAR_ENOUGH` of it.

    The search keeps a bracket and guesses in it along the logarithm of the rate, which is nearly straight.
    """
    low, high = settings[0] - 1, settings[-1] + 1  # the rate is above and below the one wanted, or an end is not tried
    for setting, point in known.items():
        low, high = (max(low, setting), high) if point.bits_per_pixel >= wanted else (low, min(high, setting))

    def off(setting: int) -> float:
        return math.log(rate(setting) / wanted)

    while high - low > 1:
        tried = [end for end in (low, high) if end in settings]
        if len(tried) == 2:
            guess = low + round((high - low) * off(low) / (off(low) - off(high)))
        else:
            guess = tried[0] + round(off(tried[0]) / _FALL) if tried else settings[len(settings) * 3 // 4]
        guess = min(max(guess, low + 1), high - 1)
        if abs(off(guess)) < _NEAR_ENOUGH:
            return guess
        low, high = (guess, high) if off(guess) >= 0 else (low, guess)
    return min((end for end in (low, high) if end in settings), key=lambda setting: abs(rate(setting) - wanted))


def _within(setting: int, settings: range) -> int:
    return min(max(setting, settings[0]), settings[-1])


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
        codec: one of `available_video_codecs`.
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


def encode_video(
    video: Tensor, codec: str, setting: int, pixel_format: str, frame_rate: float | None = None
) -> list[bytes]:
    """Return the packets of a uint8 video ``(T, C, H, W)``, without a container.

    Raises:
        ValueError: there is no such codec or setting here, or a side is too small for it.
    """
    import av

    known = _codec(codec)
    if setting not in known.settings:
        raise ValueError(f"setting {setting} of {codec} is outside {known.settings[0]} to {known.settings[-1]}")
    if min(video.shape[-2:]) < known.least_side:
        raise ValueError(
            f"a video of shape {tuple(video.shape)} has a side below the {known.least_side} that {codec} takes here"
        )
    # Libraries that write their greetings to standard error.
    os.environ.setdefault("SVT_LOG", "1")
    rate = Fraction(frame_rate or _RATE_WITHOUT_SPEC).limit_denominator(1001)
    context: Any = av.CodecContext.create(known.encoder, "w")
    frames = _even(opaque(video).expand(-1, 3, -1, -1)).permute(0, 2, 3, 1).contiguous().numpy()
    context.height, context.width = frames.shape[1:3]
    context.pix_fmt, context.framerate, context.time_base = pixel_format, rate, 1 / rate
    context.options, context.thread_count = {**known.options, "crf": str(setting)}, 1
    context.colorspace = context.color_primaries = _BT709
    context.color_trc, context.color_range = _SRGB, _FULL_RANGE
    packets: list[bytes] = []
    for place, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
            format=pixel_format, dst_colorspace=_BT709, dst_color_range=_FULL_RANGE, interpolation=_interpolation()
        )
        frame.pts, frame.time_base = place, 1 / rate
        packets += map(bytes, context.encode(frame))
    return packets + [bytes(packet) for packet in context.encode(None)]


def decode_video(packets: Sequence[bytes], codec: str, original: Tensor) -> Tensor:
    """Return coded packets as a uint8 video of the shape of ``original``, or in RGB where that is RGBA.

    Raises:
        ValueError: there is no such codec here, or another number of frames comes out.
    """
    import av

    context: Any = av.CodecContext.create(_codec(codec).decoder, "r")
    context.thread_count = 1
    frames: list[Any] = []
    for packet in packets:
        frames += context.decode(av.Packet(packet))
    frames += context.decode(None)
    if len(frames) != len(original):
        raise ValueError(f"{codec} gave {len(frames)} frames for {len(original)}")
    # The matrix and the range are those that the stream says.
    pixels = [frame.reformat(format="rgb24", interpolation=_interpolation()).to_ndarray() for frame in frames]
    video = torch.stack([torch.from_numpy(values) for values in pixels]).permute(0, 3, 1, 2)
    video = video[:, :, : original.shape[-2], : original.shape[-1]]
    if original.shape[1] == 1:
        return video.float().mean(1, keepdim=True).round().to(torch.uint8)
    return video.contiguous()


def _interpolation() -> Any:
    from av.video.reformatter import Interpolation

    # Without the others chroma loses half a decibel.
    accurate = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    return Interpolation.BICUBIC | accurate


def _even(video: Tensor) -> Tensor:
    """Return a video whose sides are even, padded by the last row or column."""
    height, width = video.shape[-2:]
    return functional.pad(video, (0, width % 2, 0, height % 2), mode="replicate")


def _pixels(video: Tensor) -> int:
    return len(video) * video.shape[-2] * video.shape[-1]


def _kilobits(bits: float, videos: Sequence[Tensor], frame_rate: float | None) -> float | None:
    return None if frame_rate is None else bits * frame_rate / sum(map(len, videos)) / 1000


def _codec(name: str) -> _Codec:
    if name not in available_video_codecs():
        raise ValueError(f"codec {name!r} is not one of {', '.join(available_video_codecs())}")
    return _CODECS[name]
