"""Video files to uint8 tensors ``(T, C, H, W)`` and back."""

from tokenize_kit.media.video.tensors import check_video, resize_video

__all__ = ["check_video", "resize_video"]
