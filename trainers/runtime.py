"""The processes, the device and the numbers of a run: what is asked for, what is there, and what torch keeps for the process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainers.config import LoopConfig
from trainers.memory import keep_freed_memory
from trainers.processor import has_bfloat16

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Runtime:
    """The processes and the device of a run; made by `start`."""

    def __init__(self, fabric: Fabric, precision: str) -> None:
        self.fabric = fabric
        self.precision = precision
        self.rank: int = fabric.global_rank
        self.world: int = fabric.world_size
        self.device: torch.device = fabric.device

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sum over all processes of each value, the same on every process."""
        if self.world == 1:
            return list(values)
        summed = self.fabric.all_reduce(torch.tensor(values, dtype=torch.float64, device=self.device), reduce_op="sum")
        assert isinstance(summed, Tensor)
        return [float(value) for value in summed]

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's values of tensors, in place; their shapes and types are the same everywhere."""
        if not tensors:
            return
        # As bytes they go in one message, whatever their types.
        parts = [tensor.detach().reshape(-1).view(torch.uint8) for tensor in tensors]
        joined = torch.cat(parts)
        torch.distributed.broadcast(joined, src=0)
        for tensor, part in zip(tensors, torch.split(joined, [len(part) for part in parts]), strict=True):
            tensor.detach().copy_(part.clone().view(tensor.dtype).view(tensor.shape))


def start(config: LoopConfig) -> Runtime:
    """Start the processes of a run; everything after this line runs once a process.

    Raises:
        ValueError: the device is not there.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision.amp import MixedPrecision
    from lightning_fabric.plugins.precision.precision import Precision
    from lightning_fabric.strategies.ddp import DDPStrategy

    class BFloat16(MixedPrecision):
        """Fabric refuses gradients that are taken without it, for the sake of loss scaling; bfloat16 has none."""

        backward = Precision.backward

    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    several = config.strategy == "ddp" or config.devices > 1
    # Buffers are shared once a step by the loop. Shared by each forward pass, processes that validate on unequal numbers of
    # batches would wait for each other for ever.
    strategy: Any = DDPStrategy(forward_sync_buffers=False) if several else "auto"
    # A single CPU is not several devices: Fabric asks for the number of processes.
    fabric = Fabric(
        accelerator=device,
        devices=config.devices,
        strategy=strategy,
        plugins=BFloat16("bf16-mixed", device) if precision == "bf16-mixed" else Precision(),
    )
    fabric.launch()
    return Runtime(fabric, precision)


def resolve_device(device: str) -> str:
    """Return ``cpu`` or ``cuda`` for ``auto``.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no usable GPU here; use --device cpu")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def resolve_precision(precision: str, device: str) -> str:
    """Return the precision for ``auto``: bfloat16 only where the device computes in it natively.

    On a CPU without AMX or AVX512-BF16 bfloat16 products are emulated, several times slower than float32.
    """
    if precision != "auto":
        return precision
    return "bf16-mixed" if has_bfloat16(device) else "32-true"


@contextmanager
def process_settings(config: LoopConfig, runtime: Runtime) -> Iterator[None]:
    """Set what torch keeps for the whole process, and put it back afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    matmul = torch.get_float32_matmul_precision()
    if config.deterministic and runtime.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    devices = [runtime.device.index or 0] if runtime.device.type == "cuda" else []
    if runtime.device.type == "cpu":
        keep_freed_memory()
    try:
        torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
        # Filling fresh memory costs time and only hides reads of it, which these tasks do not make.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        # TensorFloat-32 on GPUs, bfloat16 triples on CPUs with AMX: float32-like errors at about twice the speed.
        torch.set_float32_matmul_precision("high")
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
        torch.set_float32_matmul_precision(matmul)
