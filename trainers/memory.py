"""The memory of a training: a setting that makes it faster on a CPU, how much there is, what is said when it is too little."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenize_kit.errors import is_out_of_memory

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 2**31 - 1
_FULL = "out of memory: "
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


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


@contextmanager
def says_when_full(burden: str) -> Iterator[None]:
    """Tell what a training needs memory for, and what to lower, where there is none left.

    Args:
        burden: what it is made of, and the options that make it smaller.

    Raises:
        MemoryError: instead of whatever said that there is no memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error) or str(error).startswith(_FULL):
            raise
        raise MemoryError(f"{_FULL}{burden}") from error


def refuse_what_cannot_fit(least: int, device: str, burden: str) -> None:
    """Refuse a training before it begins if its weights and activations alone are more than there is.

    Args:
        least: bytes that it needs at the least.
        device: ``cpu`` or ``cuda``.
        burden: as in `says_when_full`.

    Raises:
        MemoryError: there is less than that; the message has both numbers.
    """
    free = available_memory(device)
    if free is not None and least > free:
        raise MemoryError(
            f"{_FULL}this training needs {least / 1e9:,.1f} GB at the least, and {free / 1e9:,.1f} GB are free; {burden}"
        )


def available_memory(device: str = "cpu") -> int | None:
    """Return how many bytes this process may still have, swap included; None where that cannot be told.

    On the CPU it is what the system has, or less where a control group or ``ulimit -v`` says so. Memory that only caches files
    counts as free.
    """
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    found = [_of_the_system(), *_of_control_groups(), _of_the_limit()]
    return min((bytes_ for bytes_ in found if bytes_ is not None), default=None)


def _of_the_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        values = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        return values["MemAvailable"] + values["SwapFree"]
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _of_control_groups() -> Iterator[int]:
    """Yield what each group that this process is in leaves it, of version 2 or 1."""
    try:
        own = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in own:
        _, _, rest = line.partition(":")
        kinds, _, name = rest.partition(":")
        if kinds not in ("", "memory"):
            continue
        root = _CONTROL_GROUPS / kinds
        names = ("memory.max", "memory.current", "inactive_file", "memory.swap.max", "memory.swap.current")
        if kinds:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "", "")
        group = root / name.lstrip("/")
        # In a container the group of the host is not there, and its own is the root.
        for folder in (group, *group.parents):
            if folder == root.parent:
                break
            most, used = _number(folder / names[0]), _number(folder / names[1])
            if most is not None and used is not None:
                swap = (_number(folder / names[3]) or 0) - (_number(folder / names[4]) or 0) if names[3] else 0
                yield max(0, most - used) + _cached(folder / "memory.stat", names[2]) + max(0, swap)


def _number(path: Path) -> int | None:
    try:
        value = int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None
    return value if value < 1 << 60 else None


def _cached(path: Path, name: str) -> int:
    try:
        return next((int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name + " ")), 0)
    except (OSError, ValueError):
        return 0


def _of_the_limit() -> int | None:
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return None
    return max(0, most - pages * resource.getpagesize())
