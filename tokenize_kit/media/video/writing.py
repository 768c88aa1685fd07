"""Videos to files, by their ending: films through FFmpeg (PyAV), animated pictures by `tokenize_kit.media.video.stills`.

| ending | coding | comes back |
| --- | --- | --- |
| ``.mp4``, ``.m4v``, ``.mov`` | H.264 (x264, crf 12), 4:2:0, of odd sides 4:4:4 | nearly |
| ``.webm`` | VP9 (libvpx, crf 12), 4:2:0, of odd sides 4:4:4; with transparency | nearly |
| ``.mkv`` | FFV1 | to the bit |
| ``.webp``, ``.png``, ``.apng`` | a picture a frame, where it differs from the one before | to the bit |
| ``.gif`` | 256 colours a frame | nearly |

Time stamps are whole multiples of the frame's length, rounded one by one where a format counts milliseconds or hundredths, so
that no drift adds up. The same frames give the same bytes: encoders run with one thread and write no time and no random number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenize_kit.files import new_file, sync_file
from tokenize_kit.media.video.colours import into
from tokenize_kit.media.video.reader import exact_rate
from tokenize_kit.media.video.shown import Pixels
from tokenize_kit.media.video.stills import WRITERS
from tokenize_kit.media.video.tensors import check_video
from tokenize_kit.media.video.x264 import x264_options
from tokenize_kit.protocol import MAX_FRAME_RATE

_BT709, _LIMITED = 1, 1
_CRF = "12"
_X264 = {"crf": _CRF, "preset": "medium", **x264_options("log-level=error")}
_VP9 = {
    "crf": _CRF,
    "b": "0",
    "deadline": "good",
    "cpu-used": "4",
    "row-mt": "0",
    "auto-alt-ref": "1",
    "lag-in-frames": "16",
}


class Coding(NamedTuple):
    """How a film is coded."""

    format: str
    codec: str
    options: dict[str, str]
    container: dict[str, str]
    transparent: bool
    """Whether it keeps an alpha channel; else it is composited on white."""
    lossless: bool = False


_MP4 = Coding("mp4", "libx264", _X264, {"movflags": "+faststart"}, False)
_MOV = _MP4._replace(format="mov")
_WEBM = Coding("webm", "libvpx-vp9", _VP9, {}, True)
_MKV = Coding("matroska", "ffv1", {"level": "3", "slicecrc": "1", "g": "1"}, {}, True, True)
_LIVE = _MKV._replace(container={"live": "1", "cluster_time_limit": "0", "flush_packets": "1"})
"""What is played while it comes: no places to seek to, which are known at the end, and a frame goes out when it is coded."""
_CODINGS = {".mp4": _MP4, ".m4v": _MP4, ".mov": _MOV, ".webm": _WEBM, ".mkv": _MKV}

ENDINGS = (*_CODINGS, *WRITERS)
"""Of files that can be written."""


def write_video(frames: object, path: Path, frame_rate: float) -> None:
    """Write uint8 ``(T, C, H, W)`` of 1, 3 or 4 channels by the ending of ``path``, whole or not at all.

    Raises:
        TypeError: the frames are not a uint8 tensor.
        ValueError: their shape is not that of a video, or the ending or the frame rate cannot be written.
    """
    write_blocks([check_video(frames)], path, frame_rate)


def write_blocks(blocks: Iterable[Tensor], path: Path, frame_rate: float) -> None:
    """Write the blocks of one video, each uint8 ``(t, C, H, W)``, as `write_video` does, in bounded memory.

    Raises:
        TypeError, ValueError: as `write_video`, or there are no blocks, or they have different sizes.
    """
    path, ending = Path(path), Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"{path.name}: no video is written as '{ending}'; give one of {', '.join(ENDINGS)}")
    frames, shape, rate = _begun(blocks, frame_rate)
    with new_file(path, overwrite=True) as made:
        if ending in WRITERS:
            with made.open("wb") as file:
                WRITERS[ending](file, frames, rate)
        else:
            _write_film(made, frames, shape, rate, _CODINGS[ending])
        sync_file(made)


def pour_blocks(blocks: Iterable[Tensor], file: IO[bytes], frame_rate: float) -> None:
    """Write the blocks of one video as Matroska with FFV1, lossless as ``.mkv``, while they come.

    The last frame of a block goes out with the first of the next one.

    Args:
        blocks: uint8 ``(t, C, H, W)``.
        file: open for writing; it may be a pipe.
        frame_rate: frames a second.

    Raises:
        TypeError, ValueError: as `write_blocks`.
        OSError: the file takes no more.
    """
    frames, shape, rate = _begun(blocks, frame_rate)
    pipe = _Pipe(file)
    try:
        _write_film(pipe, frames, shape, rate, _LIVE)
    except ValueError:
        if pipe.error is not None:
            raise pipe.error from None
        raise


class _Pipe:
    """What FFmpeg writes into; what went wrong is kept, as it only knows that something did."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            count = self._file.write(data)
            self._file.flush()
        except OSError as error:
            self.error = error
            raise
        return count


def _begun(blocks: Iterable[Tensor], frame_rate: float) -> tuple[Iterator[Pixels], tuple[int, ...], Fraction]:
    """Return the frames of blocks, checked, their shape and their rate.

    Raises:
        TypeError, ValueError: as `write_blocks`.
    """
    if not (math.isfinite(frame_rate) and 0 < frame_rate <= MAX_FRAME_RATE):
        raise ValueError(f"frame rate {frame_rate} is outside 0 to {MAX_FRAME_RATE} frames a second")
    frames = _frames(blocks)
    first = next(frames, None)
    if first is None:
        raise ValueError("there are no frames to write")
    return itertools.chain([first], frames), first.shape, exact_rate(frame_rate)


def _frames(blocks: Iterable[Tensor]) -> Iterator[Pixels]:
    """Yield the frames of blocks, checked, as arrays (C, H, W)."""
    shape: torch.Size | None = None
    for block in blocks:
        checked = check_video(block)
        if shape is not None and checked.shape[1:] != shape:
            raise ValueError(f"a block of frames {tuple(checked.shape[1:])} follows one of {tuple(shape)}")
        shape = checked.shape[1:]
        yield from checked.numpy()


def _write_film(
    target: Path | _Pipe, frames: Iterator[Pixels], shape: tuple[int, ...], rate: Fraction, coding: Coding
) -> None:
    import av

    channels, height, width = shape
    alpha = channels == 4 and coding.transparent
    name = _pixel_format(channels, width, height, alpha, coding)
    options = {**coding.container, "fflags": "+bitexact"}
    place = target if isinstance(target, _Pipe) else str(target)
    try:
        with av.open(place, "w", format=coding.format, options=options) as container:
            stream: Any = container.add_stream(coding.codec, rate=rate, options=coding.options)
            stream.width, stream.height, stream.pix_fmt = width, height, name
            context = stream.codec_context
            context.thread_count = 1
            context.time_base = 1 / rate
            context.flags |= av.codec.context.Flags.bitexact
            if not coding.lossless:
                context.colorspace = context.color_primaries = context.color_trc = _BT709
                context.color_range = _LIMITED
            for number, pixels in enumerate(frames):
                frame = _converted(pixels, name, alpha)
                frame.pts, frame.time_base = number, 1 / rate
                frame.duration = 1
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        ending = "Matroska" if isinstance(target, _Pipe) else target.suffix
        raise ValueError(
            f"frames of {width}x{height} pixels at {float(rate):g} a second cannot be written as {ending} "
            f"({error.strerror}); try .mkv or .webp"
        ) from None


def _pixel_format(channels: int, width: int, height: int, alpha: bool, coding: Coding) -> str:
    if coding.lossless:
        return {1: "gray", 3: "bgr0", 4: "bgra"}[channels]
    if alpha:
        # The alpha of VP9 is a second stream of 4:2:0.
        return "yuva420p"
    return "yuv444p" if width % 2 or height % 2 else "yuv420p"


def _converted(pixels: Pixels, name: str, alpha: bool) -> Any:
    import av
    from av.video.reformatter import Interpolation

    channels, height, width = pixels.shape
    if name == "gray":
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[0]), format="gray")
    if name in ("bgr0", "bgra"):
        packed = np.empty((height, width, 4), np.uint8)
        packed[..., :3] = pixels[2::-1].transpose(1, 2, 0)
        packed[..., 3] = pixels[3] if channels == 4 else 255
        frame = av.VideoFrame.from_ndarray(packed, format="bgra")
        return frame if name == "bgra" else frame.reformat(format="bgr0", threads=1)
    if channels == 4 and not alpha:
        opaque = np.empty((3, height, width), np.uint8)
        into(opaque, list(pixels))
        pixels = opaque
    elif channels == 1:
        pixels = np.broadcast_to(pixels, (3, height, width))
    planes = av.VideoFrame(width, height, "gbrap" if alpha else "gbrp")
    for plane, index in zip(planes.planes, (1, 2, 0, 3), strict=False):
        rows = np.zeros((height, plane.line_size), np.uint8)
        rows[:, :width] = pixels[index]
        plane.update(rows.tobytes())
    return planes.reformat(
        format=name,
        dst_colorspace=_BT709,
        dst_color_range=_LIMITED,
        src_color_range=2,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
        threads=1,
    )
