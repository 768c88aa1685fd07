"""Video: a uint8 tensor ``(T, C, H, W)`` at the frame rate of the spec; a picture is a video of one frame."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit.errors import NoTrackError
from tokenize_kit.modalities.image import IMAGE
from tokenize_kit.protocol.clips import Part, Span
from tokenize_kit.protocol.modality import Modality, Stream

if TYPE_CHECKING:
    from typing import IO

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.media.video import VideoReader
    from tokenize_kit.protocol import Clips, Sample, TokenSpec

_EXCERPT_FRAMES = 64
_EXCERPT_SIDE = 240
_BOARD_FRAMES = 9
_COUNTED_SECONDS = 120
"""The frames of a longer film are counted by what its file says."""


class VideoModality(Modality):
    """Films and animations of 1, 3 or 4 channels; see `tokenize_kit.media.video` for the rules of reading."""

    name = "video"
    plural = "videos"
    least = "a video has at least one frame"
    # Pictures are videos of one frame, and some of them of several.
    extensions = (*(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".ogv"), *IMAGE.extensions)
    extras = IMAGE.extras
    suffix = ".mp4"
    further_suffixes = (".m4v", ".mov", ".mkv", ".webm", ".webp", ".png", ".apng", ".gif")
    size_axes = 3
    streams = True
    pours = "Matroska"
    timed = True
    piece_axis = 0
    resizable = True
    operations = "tokenize_kit.modalities.picture_operations:FILMS"
    augmentations = "tokenize_kit.modalities.picture_augmentations:FILMS"
    measure = "tokenize_kit.metrics.video_measure:VideoMeasure"
    codecs = "tokenize_kit.metrics.video_codecs:VideoCodecs"
    show = "tokenize_kit.report.examples:show_videos"
    show_bits = "tokenize_kit.report.bits:show_film_bits"
    exhibit_folder = "videos"
    # Every browser and viewer of pictures plays it, again and again.
    exhibit_suffix = ".webp"

    def read(self, data: bytes | NDArray[np.uint8], spec: TokenSpec) -> Sample:
        """See `tokenize_kit.media.video.read_video`."""
        return self.read_noting(data, spec)[0]

    def read_noting(
        self, data: bytes | NDArray[np.uint8], spec: TokenSpec, at_least: int | None = None
    ) -> tuple[Sample, tuple[str, ...]]:
        """See `tokenize_kit.media.video.read_video_noting`."""
        from tokenize_kit.media.video import read_video_noting

        assert isinstance(data, bytes), "only pictures come as pixels"
        video, notes = read_video_noting(data, spec.frame_rate, spec.channels or 3, at_least=at_least)
        return video.frames, notes

    def parts(
        self,
        file: IO[bytes],
        spec: TokenSpec,
        clips: Clips | None,
        *,
        resize: Callable[[Tensor], Tensor] | None = None,
        at_least: int | None = None,
    ) -> Iterator[Part]:
        """See `Modality.parts`: frames are resized a block at a time, so that memory is that of a clip at its small size."""
        import torch

        from tokenize_kit.media.video import VideoReader, exact_rate

        reader = VideoReader(file, spec.frame_rate, spec.channels or 3, at_least=at_least)
        rate = exact_rate(reader.frame_rate)
        total = max(1, round((reader.duration or 0) * rate))
        blocks = _resized(reader.blocks(), resize)
        if clips is None:
            whole = torch.cat(list(_bounded(blocks)))
            yield Part(Span(0.0, float(len(whole) / rate)), whole, reader.notes, 1.0)
            return
        for first, clip in clips.cut(blocks):
            stop = first + len(clip)
            yield Part(Span(float(first / rate), float(stop / rate)), clip, reader.notes, min(1.0, stop / total))

    def write(self, sample: Sample, path: Path, spec: TokenSpec) -> None:
        """See `tokenize_kit.media.video.write_video`."""
        from tokenize_kit.media.video import write_video

        write_video(cast("Tensor", sample), path, _rate(spec))

    def to_python(self, sample: Sample, spec: TokenSpec) -> Any:
        """Return a `tokenize_kit.protocol.values.Film`."""
        from tokenize_kit.protocol.values import Film

        return Film(cast("Tensor", sample).permute(0, 2, 3, 1).contiguous().numpy(), _rate(spec))

    def save(self, value: object, stem: Path) -> Path | None:
        """See `Modality.save`: a `Film`, or another pair of frames and rate."""
        import numpy as np
        import torch

        from tokenize_kit.media.video import write_video

        if not (isinstance(value, tuple) and len(value) == 2):
            return None
        frames, rate = np.asarray(value[0]), value[1]
        frames = frames[..., None] if frames.ndim == 3 else frames
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] not in (1, 3, 4) or not frames.size:
            raise ValueError(
                f"a film is a uint8 array (frames, height, width, 1, 3 or 4), got {frames.dtype} {frames.shape}"
            )
        if isinstance(rate, bool) or not isinstance(rate, int | float | np.number) or not 0 < rate < float("inf"):
            raise ValueError(f"the frame rate {rate!r} of a film is no number of frames a second")
        path = stem.with_name(f"{stem.name}.webp")
        write_video(torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))), path, float(rate))
        return path

    def check(self, sample: object, spec: TokenSpec) -> Sample:
        """See `tokenize_kit.media.video.check_video`."""
        from tokenize_kit.media.video import check_video

        return check_video(sample, spec.channels)

    def conversion(self, data: bytes, spec: TokenSpec) -> str:
        """Return what is changed, such as ``24 frames a second to 12``; empty if nothing is."""
        from tokenize_kit.media.video import conversion_of

        return conversion_of(data, spec.frame_rate, spec.channels or 3)

    def size(self, sample: Sample) -> tuple[int, ...]:
        """Return frames, height and width."""
        frames, _, height, width = cast("Tensor", sample).shape
        return frames, height, width

    def crop(self, sample: Sample, size: tuple[int, ...]) -> Sample:
        """See `Modality.crop`."""
        self.check_covers(sample, size)
        frames, height, width = size
        return cast("Tensor", sample)[:frames, :, :height, :width]

    def resize(self, sample: Sample, size: int, *, crop: bool = True, pad: bool = False) -> Sample:
        """See `tokenize_kit.media.video.resize_video`."""
        from tokenize_kit.media.video import resize_video

        return resize_video(cast("Tensor", sample), size, crop=crop, pad=pad)

    def excerpt(self, sample: Sample, spec: TokenSpec) -> Sample:  # noqa: ARG002
        """Return the first frames; those whose short side is above 240 pixels scaled down."""
        frames = cast("Tensor", sample)[:_EXCERPT_FRAMES]
        if min(frames.shape[-2:]) > _EXCERPT_SIDE:
            return self.resize(frames, _EXCERPT_SIDE, crop=False)
        return frames.clone()

    def board(self, writer: Any, name: str, sample: Sample, step: int, spec: TokenSpec) -> None:  # noqa: ARG002
        """See `Modality.board`: a row of some frames, as its own films need a package that is not ours."""
        import torch

        frames = cast("Tensor", sample)
        count = min(len(frames), _BOARD_FRAMES)
        row = [frames[place * (len(frames) - 1) // max(1, count - 1)] for place in range(count)]
        writer.add_image(name, torch.cat(row, 2), step)

    def recognises(self, path: Path) -> bool:
        """Whether a file moves: it has a track of pictures, or is a picture of several frames."""
        from tokenize_kit.media.video import VideoReader

        try:
            with path.open("rb") as file:
                return VideoReader(file).rate > 0
        except NoTrackError:
            return False
        except ValueError:
            return path.suffix.lower() not in IMAGE.extensions

    def describe(self, path: Path) -> dict[str, Any]:
        """Return format, size, frame rate and length of a film, and what its sound track is.

        It is decoded whole, piece by piece, unless it is long.
        """
        from tokenize_kit.media.video import VideoReader

        with path.open("rb") as file:
            reader = VideoReader(file)
            facts: dict[str, Any] = {
                "format": reader.format,
                "codec": reader.codec,
                "width": reader.width,
                "height": reader.height,
                "frame_rate": round(reader.rate, 3),
            }
            seconds = reader.duration
            if seconds is not None and seconds > _COUNTED_SECONDS:
                facts["frames_by_its_header"] = round(seconds * reader.rate)
            else:
                facts["frames"] = frames = sum(map(len, reader.blocks()))
                seconds = seconds or (frames / reader.rate if reader.rate else 0.0)
            facts["seconds"] = round(seconds, 3)
            facts["sound_track"] = _sound_track(file)
            return facts | {"bytes": path.stat().st_size}

    @contextmanager
    def open_stream(self, path: Path, spec: TokenSpec) -> Iterator[Stream]:
        """See `Modality.open_stream` and `tokenize_kit.media.video.VideoReader`."""
        from tokenize_kit.media.video import VideoReader

        with path.open("rb") as file:
            yield _VideoStream(VideoReader(file, spec.frame_rate, spec.channels or 3))

    def write_pieces(self, pieces: Iterable[Tensor], path: Path, spec: TokenSpec) -> None:
        """Write a video that comes in pieces (t, C, H, W), in bounded memory; see `tokenize_kit.media.video.write_blocks`."""
        from tokenize_kit.media.video import write_blocks

        write_blocks(pieces, path, _rate(spec))

    def pour(self, pieces: Iterable[Tensor], file: IO[bytes], spec: TokenSpec) -> None:
        """Write a video that comes in pieces (t, C, H, W) as it comes; see `tokenize_kit.media.video.pour_blocks`."""
        from tokenize_kit.media.video import pour_blocks

        pour_blocks(pieces, file, _rate(spec))


class _VideoStream(Stream):
    def __init__(self, reader: VideoReader) -> None:
        self._reader = reader
        self.conversion = reader.conversion

    @property
    def notes(self) -> tuple[str, ...]:
        return self._reader.notes

    def pieces(self) -> Iterator[Tensor]:
        return self._reader.blocks()


def _resized(blocks: Iterator[Tensor], resize: Callable[[Tensor], Tensor] | None) -> Iterator[Tensor]:
    return blocks if resize is None else map(resize, blocks)


def _bounded(blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """Pass blocks on as long as they may be held together.

    Raises:
        ValueError: they are too many.
    """
    from tokenize_kit.media.video import MAX_VALUES

    frames = values = 0
    for block in blocks:
        frames, values = frames + len(block), values + block.numel()
        if values > MAX_VALUES:
            raise ValueError(
                f"a video of more than {frames:,} frames is too long to be one sample ({MAX_VALUES:,} values); cut it with "
                "--clip-frames, or scale it down with --image-size"
            )
        yield block


def _sound_track(file: IO[bytes]) -> dict[str, Any] | None:
    from tokenize_kit.media.audio import AudioReader

    file.seek(0)
    try:
        reader = AudioReader(cast("io.BufferedReader", file))
    except ValueError:
        return None
    return {"format": reader.format, "sample_rate": reader.sample_rate, "channels": reader.channels}


def _rate(spec: TokenSpec) -> float:
    if spec.frame_rate is None:
        raise ValueError("the spec of this video names no frame rate, so no file can be written")
    return spec.frame_rate


VIDEO = VideoModality()
