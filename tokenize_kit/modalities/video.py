"""Video: a uint8 tensor ``(T, C, H, W)`` at the frame rate of the spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit.protocol.modality import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.protocol import Sample, TokenSpec

_EXCERPT_FRAMES = 64
_EXCERPT_SIDE = 240
_BOARD_FRAMES = 9


class VideoModality(Modality):
    """Films and animations of 1, 3 or 4 channels; see `tokenize_kit.media.video` for the rules of reading."""

    name = "video"
    plural = "videos"
    least = "a video has at least one frame"
    extensions = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ogv", ".gif", ".webp", ".apng")
    suffix = ".mp4"
    size_axes = 3
    piece_axis = 0
    resizable = True
    measure = "tokenize_kit.metrics.video_measure:VideoMeasure"
    codecs = "tokenize_kit.metrics.video_codecs:VideoCodecs"
    show = "tokenize_kit.report.examples:show_videos"
    exhibit_folder = "videos"
    # Every browser and viewer of pictures plays it, again and again.
    exhibit_suffix = ".webp"

    def read(self, data: bytes | NDArray[np.uint8], spec: TokenSpec) -> Sample:
        """See `tokenize_kit.media.video.read_video`."""
        from tokenize_kit.media.video import read_video

        assert isinstance(data, bytes), "only pictures come as pixels"
        return read_video(data, spec.frame_rate, spec.channels or 3).frames

    def write(self, sample: Sample, path: Path, spec: TokenSpec) -> None:
        """See `tokenize_kit.media.video.write_video`."""
        from tokenize_kit.media.video import write_video

        write_video(sample, path, _rate(spec))

    def check(self, sample: object, spec: TokenSpec) -> Sample:
        """See `tokenize_kit.media.video.check_video`."""
        from tokenize_kit.media.video import check_video

        return check_video(sample, spec.channels)

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


def _rate(spec: TokenSpec) -> float:
    if spec.frame_rate is None:
        raise ValueError("the spec of this video names no frame rate, so no file can be written")
    return spec.frame_rate


VIDEO = VideoModality()
