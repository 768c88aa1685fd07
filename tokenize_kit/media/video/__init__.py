"""Video files to uint8 tensors ``(T, C, H, W)`` and back.

`examine` says whether all of a file is there; FFmpeg (PyAV) decodes films (`decoding`), Pillow animated pictures (`animations`),
and a still picture is a video of one frame. All pass through `VideoReader`, which decodes block by block, so a film of any length
needs a bounded memory, and a clip is sought.

Rules: a film is the right way up and has square pixels; its colours are RGB of 8 bits by the matrix and range that the file
says (BT.601 up to 576 lines and BT.709 above where it says none; limited range where it says none); transparency is composited
on white for 1 and 3 channels and kept for 4; colour becomes grey by ITU-R 601, as for pictures (`colours`). At a wanted frame
rate each frame is the one that is shown at its time (`shown`). What a decoder cannot decode is an error that names the time,
never a frame less. `VideoReader.notes` says in words what was changed.
"""

from tokenize_kit.media.video.colours import MAX_FRAME_PIXELS
from tokenize_kit.media.video.reader import (
    MAX_VALUES,
    Video,
    VideoReader,
    conversion_of,
    exact_rate,
    read_video,
    read_video_noting,
)
from tokenize_kit.media.video.tensors import check_video, resize_video
from tokenize_kit.media.video.writing import ENDINGS, pour_blocks, write_blocks, write_video

__all__ = [
    "ENDINGS",
    "MAX_FRAME_PIXELS",
    "MAX_VALUES",
    "Video",
    "VideoReader",
    "check_video",
    "conversion_of",
    "exact_rate",
    "pour_blocks",
    "read_video",
    "read_video_noting",
    "resize_video",
    "write_blocks",
    "write_video",
]
