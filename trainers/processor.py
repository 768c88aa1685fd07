"""What the processor at hand can do."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch


@cache
def has_bfloat16(device: str) -> bool:
    """Return whether a device, ``cpu`` or ``cuda``, computes in bfloat16 natively."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = ""
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        flags = next((line for line in cpu_info.read_text().splitlines() if line.startswith("flags")), "")
    return bool({"amx_bf16", "avx512_bf16"} & set(flags.split()))
