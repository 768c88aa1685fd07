"""The one training loop: devices, precision, accumulation, clipping, validation, checkpoints, exact resume and logs.

What is trained is a `trainers.task.Task`: some networks, and one or more phases, each with optimisers that step after the
phase's backward pass (a sequence model has one phase, an autoencoder with a discriminator two). The loop knows nothing of
data, models or losses.

Everything that happens in step n is a function of the weights before it and of (seed, n, rank): the batch, because the task
reads it by its number, and the randomness, because the generators are seeded anew for each step. So a checkpoint needs no
generator state and no place in the data, and a run that was killed and continued gives the same bits as one that was not.

In a phase only what its optimisers hold has gradients, so a loss may pass through the networks of another phase: the loop
freezes them. A network is trained in one phase.

Losses are sums. The gradient of a step is that of the sum over all its batches and processes, divided by the sum of their
weights, so accumulation over unequal batches equals one large batch.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from tokenize_kit.progress import Progress
from trainers.averages import WeightAverages
from trainers.checkpoints import (
    CHECKPOINTS,
    last_checkpoint,
    load_checkpoint,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    remove_older,
    remove_partial,
    save_checkpoint,
)
from trainers.config import LoopConfig
from trainers.logs import TIMING, RunLog
from trainers.runtime import Runtime, process_settings
from trainers.task import Task

_NOT_SHOWN = {"learning_rate", "bits_per_token", "validation/loss"}
"""What the log has and the progress line leaves out, as it says little or says it twice."""


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
    weights: dict[str, float] = field(default_factory=dict)
    """Of the steps in which the name was logged."""
    weight: float = 0
    norms: dict[str, list[float]] = field(default_factory=dict)
    """For each phase the sum of the gradient's norms and their number."""
    warnings: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)


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
        stack.enter_context(process_settings(config, runtime))
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
        self.log: RunLog | None = None
        self.averages: WeightAverages | None = None
        self.stopping = False
        self.clock: tuple[float, float] = (
            time.monotonic(),
            0,
        )  # when the present log line began, and its size till now

    def run(self) -> LoopResult:
        fabric = self.runtime.fabric
        for name, network in self.plain.items():
            trainable = any(parameter.requires_grad for parameter in network.parameters())
            self.task.networks[name] = fabric.setup_module(network) if trainable else network.to(self.runtime.device)
        # setup_module moves parameters in place, so the optimisers built before still hold them.
        self.steppers = {
            phase: [cast("torch.optim.Optimizer", fabric.setup_optimizers(optimizer)) for optimizer in optimizers]
            for phase, optimizers in self.task.optimizers.items()
        }
        self._wrapped = [name for name, network in self.plain.items() if self.task.networks[name] is not network]
        self.frozen = {phase: self._not_of(phase) for phase in self.task.optimizers}
        if self.config.ema is not None:
            names = self.plain if self.task.averaged is None else self.task.averaged
            self.averages = WeightAverages({name: self.plain[name] for name in names}, self.config.ema)
        resumed = self._resume()
        if self.memory.step >= self.config.steps:
            self.progress.note(f"{self.out} is finished at step {self.memory.step}; nothing to do")
            return self._result(resumed)
        if resumed:
            self.progress.note(f"continuing {self.out} from step {resumed}")
        if self.runtime.rank == 0:
            self.log = RunLog(self.out, self.memory.step, self.config.track)
            self.stack.callback(self.log.close)
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
        weight, size = (sum(count(batch) for batch in batches) for count in (task.weight, task.size))
        total_weight, total_size = map(_whole, runtime.sums([weight, size]))
        batches = [batch.to(runtime.device) for batch in batches]
        rate = task.set_learning_rates(step)
        sums: dict[str, float] = {}
        for network in task.networks.values():
            network.train()
        for phase in self.steppers:
            if task.active(phase, step):
                self._phase(phase, batches, total_weight, sums)
        memory = self.memory
        names = sorted(sums)
        for name, summed in zip(names, runtime.sums([sums[name] for name in names]), strict=True):
            memory.sums[name] = memory.sums.get(name, 0.0) + summed
            memory.weights[name] = memory.weights.get(name, 0) + total_weight
        if runtime.world > 1:
            runtime.share([buffer for network in self.plain.values() for buffer in _buffers(network)])
        if self.averages is not None:
            self.averages.update(step)
        memory.weight += total_weight
        memory.step += 1
        self.clock = (self.clock[0], self.clock[1] + total_size)
        self.rate = rate

    def _phase(self, phase: str, batches: list[Any], total_weight: float, sums: dict[str, float]) -> None:
        """Make one phase's part of a step; adds what it logs to ``sums``."""
        task, runtime, step, steppers = self.task, self.runtime, self.memory.step, self.steppers[phase]
        for stepper in steppers:
            stepper.zero_grad(set_to_none=True)
        with _without_gradients(self.frozen[phase]):
            for index, batch in enumerate(batches):
                with ExitStack() as stack:
                    for name in self._wrapped:
                        waiting = runtime.world > 1 and index + 1 < len(batches)
                        stack.enter_context(runtime.fabric.no_backward_sync(task.networks[name], enabled=waiting))  # type: ignore[arg-type]
                    loss = task.loss(phase, batch, step)
                    # Processes average their gradients; times their number it is the sum. What is learned by counting has none.
                    if steppers:
                        runtime.fabric.backward(loss.total * (runtime.world / (total_weight or 1.0)))
                for name, value in loss.logs.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        norm = self._clip(phase)
        self._refuse_nonfinite(sums, norm, step)
        for stepper in steppers:
            stepper.step()
        task.stepped(phase, step)
        norms = self.memory.norms.setdefault(phase, [0.0, 0])
        norms[0], norms[1] = norms[0] + norm, norms[1] + 1

    def _not_of(self, phase: str) -> list[nn.Parameter]:
        """Return the trainable parameters of all networks that are not those of a phase's optimisers."""
        own = {
            id(parameter)
            for optimizer in self.task.optimizers[phase]
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        every = [parameter for network in self.plain.values() for parameter in network.parameters()]
        return [parameter for parameter in every if parameter.requires_grad and id(parameter) not in own]

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
                f"the learning rate (--optimizer.learning-rate), lengthen the warm-up, or use --precision 32-true"
                f"{', or ' * bool(self.task.advice)}{self.task.advice} (last good checkpoint: {kept})"
            )

    def _after_step(self) -> None:
        config, memory = self.config, self.memory
        last = memory.step == config.steps
        line: dict[str, float] = {}
        if last or memory.step % config.log_every == 0:
            line |= self._training_line()
        if last or memory.step % config.steps_between_validations == 0:
            line |= {f"validation/{name}": value for name, value in self._validate().items()}
        warnings = self.task.warnings(line) if line else memory.warnings
        for text in warnings:
            if text not in memory.warnings:
                self.progress.note(f"step {memory.step}: {text}")
        memory.warnings = warnings
        if line and self.log is not None:
            self.log.write(memory.step, line, warnings)
            self._show(line)
        if last or memory.step % config.steps_between_checkpoints == 0 or self.stopping:
            self._save()
        if self.stopping and not last:
            raise KeyboardInterrupt

    def _show(self, line: Mapping[str, float]) -> None:
        memory = self.memory
        hidden = set(_NOT_SHOWN)
        measured = [name for name in line if name.startswith("validation/")]
        if measured and (told := self.task.told(memory.metrics)):
            self.progress.note(f"step {memory.step:,}: {told}")
            hidden.update(measured[1:])
        shown = {name: value for name, value in line.items() if name not in hidden and "gradient_norm" not in name}
        self.progress.update(memory.step, **shown)

    def _training_line(self) -> dict[str, float]:
        memory = self.memory
        now, (began, count) = time.monotonic(), self.clock
        sums = dict(memory.sums)
        for name, weight in memory.weights.items():
            if weight != memory.weight:
                sums[name] *= memory.weight / (weight or 1)
        line = self.task.describe(sums, memory.weight)
        line["learning_rate"] = self.rate
        for phase, (norm, number) in memory.norms.items():
            line["gradient_norm" if len(self.steppers) == 1 else f"gradient_norm_{phase}"] = norm / number
        line[f"{self.task.unit}{TIMING}"] = count / max(1e-9, now - began)
        memory.sums, memory.weights, memory.weight, memory.norms = {}, {}, 0, {}
        self.clock = (now, 0)
        return line

    def _validate(self) -> dict[str, float]:
        memory = self.memory
        for network in self.task.networks.values():
            network.eval()
        began = time.monotonic()
        with torch.no_grad(), self.averages.in_place() if self.averages is not None else nullcontext():
            memory.metrics = self.task.validate(self.runtime)
            self._keep_best()
            if self.log is not None:
                self.log.show(memory.step, self.task.exhibits())
        self.clock = (self.clock[0] + time.monotonic() - began, self.clock[1])
        return memory.metrics

    def _keep_best(self) -> None:
        memory = self.memory
        score = next(iter(memory.metrics.values()), None)
        if score is not None and not math.isfinite(score):
            raise ValueError(f"the validation at step {memory.step} is not a finite number; lower the learning rate")
        best = next(iter(memory.best_metrics.values()), None)
        if score is None or best is None or score < best or (self.config.keep or self.task.keep) == "last":
            memory.best_step, memory.best_metrics = memory.step, dict(memory.metrics)
            if self.runtime.rank == 0:
                self.task.save_best(memory.step, memory.metrics)

    def _save(self) -> None:
        if self.runtime.rank == 0:
            tensors = {name: module_tensors(network) for name, network in self.plain.items()}
            for phase, optimizers in self.task.optimizers.items():
                for index, optimizer in enumerate(optimizers):
                    tensors[f"optimizer_{phase}_{index}"] = optimizer_tensors(optimizer)
            if self.averages is not None:
                tensors |= self.averages.tensors()
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
        if self.runtime.rank == 0:
            # It is whole, so what a kill left of the ones before is needed no more.
            remove_older(checkpoint)
        for name, network in self.plain.items():
            load_module(network, tensors[name], checkpoint)
        for phase, optimizers in self.task.optimizers.items():
            for index, optimizer in enumerate(optimizers):
                load_optimizer(optimizer, tensors[f"optimizer_{phase}_{index}"])
        if self.averages is not None:
            self.averages.load(tensors, checkpoint)
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

    def _result(self, resumed: int) -> LoopResult:
        memory = self.memory
        return LoopResult(memory.step, memory.metrics, memory.best_step, memory.best_metrics, resumed)


def _buffers(network: nn.Module) -> list[Tensor]:
    """Return the buffers that a checkpoint keeps."""
    return [value for value in network.state_dict(keep_vars=True).values() if not isinstance(value, nn.Parameter)]


@contextmanager
def _without_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _whole(number: float) -> float:
    """Return a number as an int where it is whole, as it is written in checkpoints then."""
    return int(number) if float(number).is_integer() else number


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
