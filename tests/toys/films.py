"""Films made in a test: moving pictures, and files of them with what encoders and containers can say."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from tokenize_kit.media.video import write_video


def moving(frames: int, height: int = 48, width: int = 64, channels: int = 3, seed: int = 0) -> Tensor:
    """A smooth picture that drifts, with a square that crosses it: uint8 (T, C, H, W)."""
    phase = np.random.default_rng(seed).uniform(0, 6, (4, 1, 1))
    y, x = np.mgrid[0:height, 0:width] / 16
    made = np.empty((frames, 4, height, width), np.float64)
    for time in range(frames):
        scale = np.arange(1, 5)[:, None, None]
        made[time] = 127.5 + 100 * np.sin(x / scale + time / 12 + phase) * np.cos(y - time / 20 + phase * 2)
        left = 2 * time % max(1, width - 8)
        made[time, :3, height // 3 : height // 3 + 8, left : left + 8] = np.array([230, 60, 30])[:, None, None]
    if channels == 4:
        made[:, 3] = np.clip(2 * made[:, 3], 0, 255)
    return torch.from_numpy(made[:, :channels].round().astype(np.uint8))


def numbered(frames: int, height: int = 16, width: int = 16) -> Tensor:
    """Frames that say their number: the whole picture is grey of the value ``8 + number``."""
    values = (8 + torch.arange(frames) % 240).to(torch.uint8)
    return values[:, None, None, None].expand(frames, 3, height, width).contiguous()


def numbers_of(frames: Tensor) -> list[int]:
    """The numbers of such frames, which may be coded with an error of one level."""
    return [round(float(frame.float().mean())) - 8 for frame in frames]


def written(frames: Tensor, ending: str, rate: float = 12) -> bytes:
    """The bytes of a file that the kit writes."""
    with tempfile.TemporaryDirectory() as folder:
        write_video(frames, Path(folder) / f"a{ending}", rate)
        return (Path(folder) / f"a{ending}").read_bytes()


def film(
    frames: Tensor,
    kind: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: Fraction | int = 24,
    *,
    stamps: Sequence[int] | None = None,
    base: Fraction | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    matrix: int = 1,
    full: bool = False,
    tagged: bool = True,
    shape: Any = None,
) -> bytes:
    """A film of uint8 frames (T, 3 or 4, H, W).

    Args:
        frames: the frames.
        kind: of container.
        codec: encoder.
        pixels: format.
        rate: frames a second.
        stamps: when each frame is shown, in units of ``base``.
        base: seconds of a stamp.
        options: of the encoder.
        container: of the muxer.
        matrix: 1 is BT.709, 5 BT.601.
        full: whether the range is full.
        tagged: whether matrix and range are said.
        shape: called with the stream before anything is encoded.
    """
    buffer = io.BytesIO()
    _, channels, height, width = frames.shape
    with av.open(buffer, "w", format=kind, options=container or {}) as out:
        # The same bytes every time, and on every machine.
        same = {"x264-params": "no-asm=1"} if codec == "libx264" else {}
        stream: Any = out.add_stream(codec, rate=rate, options=same | (options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 1
        if base is not None:
            stream.codec_context.time_base = base
        if tagged:
            stream.codec_context.colorspace = matrix
            stream.codec_context.color_range = 2 if full else 1
        if shape is not None:
            shape(stream)
        for number, picture in enumerate(frames.numpy()):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(picture.transpose(1, 2, 0)), format="rgba" if channels == 4 else "rgb24"
            )
            if not pixels.startswith(("rgb", "bgr", "argb", "abgr", "gbr", "pal")):
                frame = frame.reformat(
                    format=pixels,
                    dst_colorspace=matrix,
                    src_color_range=2,
                    dst_color_range=2 if full else 1,
                    interpolation=av.video.reformatter.Interpolation.BICUBIC
                    | av.video.reformatter.Interpolation.ACCURATE_RND,
                    threads=1,
                )
            else:
                frame = frame.reformat(format=pixels, threads=1)
            frame.pts = number if stamps is None else stamps[number]
            frame.time_base = base or 1 / Fraction(rate)
            frame.duration = 1 if base is None else 0
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()
