"""H.264, H.265 and AV1 on uint8 videos ``(T, C, H, W)``: packets without a container, and pixels again, through PyAV."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tokenize_kit.media.video.x264 import x264_options
from tokenize_kit.metrics.video import opaque

RATE_WITHOUT_SPEC = 25.0
"""Frames a second that an encoder is told where nobody names them."""

_BT709, _SRGB, _FULL_RANGE = 1, 13, 2


class VideoCodec(NamedTuple):
    """A codec of FFmpeg, and how it is run."""

    label: str
    """What people call it."""
    encoder: str
    """As FFmpeg calls it."""
    decoder: str
    """The same."""
    options: Mapping[str, str]
    """Of the encoder, all but the setting."""
    formats: tuple[str, ...]
    """Pixel formats that are tried."""
    settings: range
    """Constant rate factors that it has."""
    least_side: int
    """Smaller frames it is not given."""
    said: str
    """The encoder and its options, for a protocol."""


CODECS = {
    "h264": VideoCodec(
        "H.264",
        "libx264",
        "h264",
        {"preset": "veryslow", "tune": "psnr"},
        ("yuv444p", "yuv420p"),
        range(1, 52),
        1,
        "libx264, preset veryslow, tune psnr",
    ),
    "h265": VideoCodec(
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
    "av1": VideoCodec(
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


def available_video_codecs() -> tuple[str, ...]:
    """Return those out of h264, h265 and av1 whose encoder and decoder PyAV brings on this machine."""
    return tuple(name for name, codec in CODECS.items() if has_codec(codec.encoder) and has_codec(codec.decoder))


def has_codec(name: str) -> bool:
    """Return whether PyAV brings an encoder or a decoder of this name."""
    import av

    return name in av.codecs_available


def video_codec(name: str) -> VideoCodec:
    """Return a codec of this machine.

    Raises:
        ValueError: it is not one of `available_video_codecs`.
    """
    if name not in available_video_codecs():
        raise ValueError(f"codec {name!r} is not one of {', '.join(available_video_codecs())}")
    return CODECS[name]


def encode_video(
    video: Tensor, codec: str, setting: int, pixel_format: str, frame_rate: float | None = None
) -> list[bytes]:
    """Return the packets of a uint8 video ``(T, C, H, W)``, without a container.

    Raises:
        ValueError: there is no such codec or setting here, or a side is too small for it.
    """
    import av

    known = video_codec(codec)
    if setting not in known.settings:
        raise ValueError(f"setting {setting} of {codec} is outside {known.settings[0]} to {known.settings[-1]}")
    if min(video.shape[-2:]) < known.least_side:
        raise ValueError(
            f"a video of shape {tuple(video.shape)} has a side below the {known.least_side} that {codec} takes here"
        )
    # Libraries that write their greetings to standard error.
    os.environ.setdefault("SVT_LOG", "1")
    rate = Fraction(frame_rate or RATE_WITHOUT_SPEC).limit_denominator(1001)
    context: Any = av.CodecContext.create(known.encoder, "w")
    frames = _even(opaque(video).expand(-1, 3, -1, -1)).permute(0, 2, 3, 1).contiguous().numpy()
    context.height, context.width = frames.shape[1:3]
    context.pix_fmt, context.framerate, context.time_base = pixel_format, rate, 1 / rate
    steady = x264_options() if known.encoder == "libx264" else {}
    context.options, context.thread_count = {**known.options, **steady, "crf": str(setting)}, 1
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

    context: Any = av.CodecContext.create(video_codec(codec).decoder, "r")
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
