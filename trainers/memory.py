"""How the process gets its memory: one setting that makes training on a CPU faster."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next tensor instead of handing it back to the system.

    Every step of training on a CPU frees its activations and allocates the same again. By default glibc returns blocks of
    more than 32 MB, and the top of its heap, to the system, and each page of the next step is a fault
    (``benchmarks/transformer_training.py`` runs transformers' Llama with and without this setting). The process keeps its peak
    memory until it ends. It holds for the whole process, so a trainer calls it and a library function does not.

    Returns:
        Whether the setting was made; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(library.mallopt(option, _LARGEST) == 1 for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))
