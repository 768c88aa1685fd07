"""What x264 must be told to write the same bytes every time.

With the instructions of AVX-512 it was seen to give other files for the same frames in a tenth to a half of all calls, in one
thread, where it weighs macroblocks by what follows (``mbtree``). With those up to AVX2 it never was, and is as fast. Other
machines have nothing to leave out.
"""

from __future__ import annotations

import torch

_UP_TO_AVX2 = "asm=MMX2,SSE2Fast,SSSE3,SSE4.2,AVX,FMA3,BMI2,AVX2"


def x264_options(*params: str) -> dict[str, str]:
    """Return the option ``x264-params`` of FFmpeg's libx264: ``params`` and what this machine needs; empty if that is nothing."""
    every = [*params, *([_UP_TO_AVX2] if torch.backends.cpu.get_cpu_capability() == "AVX512" else [])]
    return {"x264-params": ":".join(every)} if every else {}
