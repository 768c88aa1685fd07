"""The one training loop: devices, precision, accumulation, clipping, validation, checkpoints, exact resume and logs.

What is trained is a `Task`: some networks, and one or more phases, each with optimisers that step after the phase's
backward pass (a sequence model has one phase, an autoencoder with a discriminator two). The loop knows nothing of data,
models or losses.

Everything that happens in step n is a function of the weights before it and of (seed, n, rank): the batch, because the task
reads it by its number, and the randomness, because the generators are seeded anew for each step. So a checkpoint needs no
generator state and no place in the data, and a run that was killed and continued gives the same bits as one that was not.

Losses are sums. The gradient of a step is that of the sum over all its batches and processes, divided by the sum of their
weights, so accumulation over unequal batches equals one large batch.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from tokenize_kit.files import atomic_write
from tokenize_kit.progress import Progress
from trainers.checkpoints import (
    last_checkpoint,
    load_checkpoint,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    remove_partial,
    save_checkpoint,
)
from trainers.config import LoopConfig
from trainers.memory import keep_freed_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINTS = "checkpoints"
LOG_FILE = "train_log.jsonl"
_NOT_SHOWN = {"gradient_norm", "learning_rate", "bits_per_token", "validation/loss"}
"""What the log has and the progress line leaves out, as it says little or says it twice."""
TIMING = "tokens_per_second"
"""The only entry of the log that differs between two runs of the same options."""


class PhaseLoss(NamedTuple):
    """What one batch contributes to a phase."""

    total: Tensor
    """Scalar with a gradient: the loss summed over the batch."""
    logs: dict[str, Tensor]
    """Detached scalars summed over the batch; logged divided by the weight."""


class Task(Protocol):
    """What the loop trains."""

    networks: dict[str, nn.Module]
    """By name. The loop puts them on the device and replaces them by their wrapped form; go through this dictionary."""
    optimizers: dict[str, list[torch.optim.Optimizer]]
    """For each phase, in their order, the optimisers that step after its backward pass."""

    def batch(self, index: int) -> Any:
        """Return this process's batch number ``index``, counted from the start of the training, with a method ``to``."""
        ...

    def weight(self, batch: Any) -> int:
        """Return what the sums over a batch are divided by: how many tokens or samples count in it."""
        ...

    def loss(self, phase: str, batch: Any, step: int) -> PhaseLoss:
        """Return the loss of a phase on a batch."""
        ...

    def set_learning_rates(self, step: int) -> float:
        """Set the learning rates of step ``step`` (0 is the first); return the one to log."""
        ...

    def validate(self, runtime: Runtime) -> dict[str, float]:
        """Return the metrics of the present weights; empty if there is nothing to validate on.

        The first metric is the score by which the best weights are chosen: lower is better.
        """
        ...

    def save_best(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the present weights as the best so far; called on the first process only."""
        ...

    def describe(self, sums: Mapping[str, float], weight: int) -> dict[str, float]:
        """Return what to log of the sums of `PhaseLoss.logs` over some steps and of their weight."""
        ...


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


@dataclass
class LoopResult:
    """How a run ended."""

    step: int
    """Steps made in all."""
    metrics: dict[str, float]
    """The last validation."""
    best_step: int
    """The step with the best score; the last one without validation."""
    best_metrics: dict[str, float]
    """The validation at that step."""
    resumed_from: int
    """The step from which this process continued; 0 for a fresh start."""


@dataclass
class _Memory:
    """What the loop remembers besides weights and optimisers; it is in every checkpoint."""

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    weight: int = 0
    grad_norm: float = 0.0
    since_log: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)


def start(config: LoopConfig) -> Runtime:
    """Start the processes of a run; everything after this line runs once a process.

    Raises:
        ValueError: the device is not there.
    """
    from lightning_fabric import Fabric

    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    strategy = config.strategy if config.strategy != "auto" or config.devices == 1 else "ddp"
    # A single CPU is not several devices: Fabric asks for the number of processes.
    fabric = Fabric(accelerator=device, devices=config.devices, strategy=strategy, precision=precision)  # type: ignore[arg-type]
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
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    flags = ""
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        flags = next((line for line in cpu_info.read_text().splitlines() if line.startswith("flags")), "")
    return "bf16-mixed" if {"amx_bf16", "avx512_bf16"} & set(flags.split()) else "32-true"


def run(task: Task, config: LoopConfig, runtime: Runtime, out: Path, progress: Progress | None = None) -> LoopResult:
    """Train ``task`` up to ``config.steps``, from the last checkpoint in ``out`` if there is one.

    Args:
        task: what to train, freshly built; its networks are replaced by wrapped ones.
        config: how long and on what.
        runtime: from `start`.
        out: the folder of the run, already claimed for it (`trainers.checkpoints.claim_folder`).
        progress: shows the position; None shows nothing.

    Raises:
        ValueError: the loss or a gradient is not a finite number; the last checkpoint is from before it.
    """
    with ExitStack() as stack:
        stack.enter_context(_process_settings(config, runtime))
        shown = progress if progress is not None and runtime.rank == 0 else Progress(enabled=False)
        return _Loop(task, config, runtime, out, shown, stack).run()


class _Loop:
    def __init__(
        self, task: Task, config: LoopConfig, runtime: Runtime, out: Path, progress: Progress, stack: ExitStack
    ) -> None:
        self.task, self.config, self.runtime, self.out, self.progress = task, config, runtime, out, progress
        self.memory = _Memory()
        self.saved_step = -1
        self.plain = dict(task.networks)  # unwrapped, for saving
        self.stack = stack
        self.writer: Any = None
        self.stopping = False
        self.clock = (time.monotonic(), 0)  # when and with how many tokens the present log line began

    def run(self) -> LoopResult:
        fabric = self.runtime.fabric
        for name, network in self.plain.items():
            self.task.networks[name] = fabric.setup_module(network)
        # setup_module moves parameters in place, so the optimisers built before still hold them.
        self.steppers = {
            phase: [cast("torch.optim.Optimizer", fabric.setup_optimizers(optimizer)) for optimizer in optimizers]
            for phase, optimizers in self.task.optimizers.items()
        }
        resumed = self._resume()
        if self.memory.step >= self.config.steps:
            self.progress.note(f"{self.out} is finished at step {self.memory.step}; nothing to do")
            return self._result(resumed)
        if resumed:
            self.progress.note(f"continuing {self.out} from step {resumed}")
        self._open_logs()
        self.progress.task("train", self.config.steps)
        self.clock = (time.monotonic(), 0)
        with _graceful_stop(self, enabled=self.runtime.world == 1):
            while self.memory.step < self.config.steps:
                self._step()
                self._after_step()
        return self._result(resumed)

    def _step(self) -> None:
        task, config, runtime, step = self.task, self.config, self.runtime, self.memory.step
        torch.manual_seed(
            int(np.random.SeedSequence([config.seed, step, runtime.rank]).generate_state(1, np.uint64)[0])
        )
        batches = [task.batch(step * config.accumulate + index) for index in range(config.accumulate)]
        (total_weight,) = runtime.sums([sum(task.weight(batch) for batch in batches)])
        batches = [batch.to(runtime.device) for batch in batches]
        rate = task.set_learning_rates(step)
        sums: dict[str, float] = {}
        norms = []
        for network in task.networks.values():
            network.train()
        for phase, steppers in self.steppers.items():
            for stepper in steppers:
                stepper.zero_grad(set_to_none=True)
            for index, batch in enumerate(batches):
                with ExitStack() as stack:
                    for network in task.networks.values():
                        waiting = runtime.world > 1 and index + 1 < len(batches)
                        stack.enter_context(runtime.fabric.no_backward_sync(network, enabled=waiting))  # type: ignore[arg-type]
                    loss = task.loss(phase, batch, step)
                    # Processes average their gradients; times their number it is the sum.
                    runtime.fabric.backward(loss.total * (runtime.world / max(1.0, total_weight)))
                for name, value in loss.logs.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
            norms.append(self._clip(phase))
            self._refuse_nonfinite(sums, norms[-1], step)
            for stepper in steppers:
                stepper.step()
        names = sorted(sums)
        for name, summed in zip(names, runtime.sums([sums[name] for name in names]), strict=True):
            self.memory.sums[name] = self.memory.sums.get(name, 0.0) + summed
        self.memory.weight += int(total_weight)
        self.memory.grad_norm += max(norms)
        self.memory.since_log += 1
        self.memory.step += 1
        self.clock = (self.clock[0], self.clock[1] + int(total_weight))
        self.rate = rate

    def _clip(self, phase: str) -> float:
        gradients = [
            parameter.grad
            for optimizer in self.task.optimizers[phase]
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.clip is not None:
            scale = (self.config.clip / (norm + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(scale)
        return float(norm)

    def _refuse_nonfinite(self, sums: Mapping[str, float], norm: float, step: int) -> None:
        bad = [name for name, value in sums.items() if not math.isfinite(value)]
        (found,) = self.runtime.sums([float(len(bad) + (not math.isfinite(norm)))])
        if found:
            kept = f"step {self.saved_step}" if self.saved_step >= 0 else "none yet"
            raise ValueError(
                f"training broke down at step {step + 1}: the {bad[0] if bad else 'gradient'} is not a finite number; lower "
                f"the learning rate (--optimizer.learning-rate), lengthen the warm-up, or use --precision 32-true "
                f"(last good checkpoint: {kept})"
            )

    def _after_step(self) -> None:
        config, memory = self.config, self.memory
        last = memory.step == config.steps
        line: dict[str, float] = {}
        if last or memory.step % config.log_every == 0:
            line |= self._training_line()
        if last or memory.step % config.steps_between_validations == 0:
            line |= {f"validation/{name}": value for name, value in self._validate().items()}
        if line:
            self._write(line)
        if last or memory.step % config.steps_between_checkpoints == 0 or self.stopping:
            self._save()
        if self.stopping and not last:
            raise KeyboardInterrupt

    def _training_line(self) -> dict[str, float]:
        memory = self.memory
        now, (began, tokens) = time.monotonic(), self.clock
        line = self.task.describe(memory.sums, memory.weight)
        line |= {"learning_rate": self.rate, "gradient_norm": memory.grad_norm / memory.since_log}
        line[TIMING] = tokens / max(1e-9, now - began)
        memory.sums, memory.weight, memory.grad_norm, memory.since_log = {}, 0, 0.0, 0
        self.clock = (now, 0)
        return line

    def _validate(self) -> dict[str, float]:
        memory = self.memory
        for network in self.task.networks.values():
            network.eval()
        began = time.monotonic()
        with torch.no_grad():
            memory.metrics = self.task.validate(self.runtime)
        self.clock = (self.clock[0] + time.monotonic() - began, self.clock[1])
        score = next(iter(memory.metrics.values()), None)
        if score is not None and not math.isfinite(score):
            raise ValueError(f"the validation at step {memory.step} is not a finite number; lower the learning rate")
        best = next(iter(memory.best_metrics.values()), None)
        if score is None or best is None or score < best:
            memory.best_step, memory.best_metrics = memory.step, dict(memory.metrics)
            if self.runtime.rank == 0:
                self.task.save_best(memory.step, memory.metrics)
        return memory.metrics

    def _save(self) -> None:
        if self.runtime.rank == 0:
            tensors = {name: module_tensors(network) for name, network in self.plain.items()}
            for phase, optimizers in self.task.optimizers.items():
                for index, optimizer in enumerate(optimizers):
                    tensors[f"optimizer_{phase}_{index}"] = optimizer_tensors(optimizer)
            state = {key: value for key, value in vars(self.memory).items() if key != "step"}
            state |= {"threads": torch.get_num_threads(), "precision": self.runtime.precision}
            save_checkpoint(self.out / CHECKPOINTS, self.memory.step, tensors, {"loop": state})
        self.saved_step = self.memory.step
        self.runtime.fabric.barrier()

    def _resume(self) -> int:
        if self.runtime.rank == 0:
            remove_partial(self.out / CHECKPOINTS)
        self.runtime.fabric.barrier()
        checkpoint = last_checkpoint(self.out / CHECKPOINTS)
        if checkpoint is None:
            return 0
        tensors, state = load_checkpoint(checkpoint)
        for name, network in self.plain.items():
            load_module(network, tensors[name], checkpoint)
        for phase, optimizers in self.task.optimizers.items():
            for index, optimizer in enumerate(optimizers):
                load_optimizer(optimizer, tensors[f"optimizer_{phase}_{index}"])
        loop = dict(state["loop"])
        threads, precision = loop.pop("threads"), loop.pop("precision")
        if threads != torch.get_num_threads() or precision != self.runtime.precision:
            self.progress.note(
                f"the checkpoint was made with {threads} threads and {precision}, this is {torch.get_num_threads()} and "
                f"{self.runtime.precision}: the result will be close to that of an unbroken run, not the same bits"
            )
        self.memory = _Memory(step=state["step"], **loop)
        self.saved_step = self.memory.step
        return self.memory.step

    def _open_logs(self) -> None:
        if self.runtime.rank != 0:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        rewind_log(self.out / LOG_FILE, self.memory.step)
        self.log = self.stack.enter_context((self.out / LOG_FILE).open("a", encoding="utf-8"))
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what a killed run logged after the checkpoint that this one continues from.
        self.writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=self.memory.step + 1)
        self.stack.callback(self.writer.close)

    def _write(self, line: Mapping[str, float]) -> None:
        if self.runtime.rank != 0:
            return
        self.log.write(json.dumps({"step": self.memory.step, **line}) + "\n")
        self.log.flush()
        for name, value in line.items():
            self.writer.add_scalar(name if "/" in name else f"train/{name}", value, self.memory.step)
        shown = {name: value for name, value in line.items() if name not in _NOT_SHOWN}
        self.progress.update(self.memory.step, **shown)

    def _result(self, resumed: int) -> LoopResult:
        memory = self.memory
        return LoopResult(memory.step, memory.metrics, memory.best_step, memory.best_metrics, resumed)


def rewind_log(path: Path, step: int) -> None:
    """Drop the lines of a log that are after ``step``, and a last line that a kill cut short."""
    if not path.exists():
        return
    lines = read_log(path)
    with atomic_write(path) as file:
        for line in lines:
            if line["step"] <= step:
                file.write((json.dumps(line) + "\n").encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ``train_log.jsonl``; a last line that is cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        lines.append(line)
    return lines


@contextmanager
def _process_settings(config: LoopConfig, runtime: Runtime) -> Iterator[None]:
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


@contextmanager
def _graceful_stop(loop: _Loop, enabled: bool) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM finish the step and write a checkpoint; a second one stops at once."""
    import threading

    if not enabled or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        if loop.stopping:
            raise KeyboardInterrupt
        loop.stopping = True
        loop.progress.note("stopping after this step; once more to stop at once")

    before: dict[signal.Signals, Any] = {}
    handler: Callable[[int, FrameType | None], None] = stop
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for restored, old in before.items():
            signal.signal(restored, old)
