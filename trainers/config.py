"""Options of the trainers, as plain data that a command line can read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenize_kit.protocol.registry import TRACKERS


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights follow gradients, and how fast over the run; see `trainers.optim`."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for embeddings, head, gains and biases."""
    learning_rate: float = 1e-3
    """Peak learning rate. Muon's updates are scaled to the size of AdamW's, so one rate serves both."""
    muon_learning_rate: float | None = None
    """Peak learning rate of the matrices under Muon; None means the same as ``learning_rate``."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices and tables; gains and biases have none."""
    beta1: float = 0.9
    """AdamW: memory of the mean gradient."""
    beta2: float = 0.95
    """AdamW: memory of the mean squared gradient."""
    eps: float = 1e-8
    """AdamW: added to the denominator."""
    momentum: float = 0.95
    """Muon: memory of the mean gradient (Nesterov)."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """After the warm-up: stay at the peak and then fall in a straight line, fall along a cosine, or stay."""
    warmup_steps: int = 100
    """Steps of linear rise to the peak; at most half of the run."""
    decay_fraction: float = 0.3
    """wsd: the part of the run over which the rate falls."""
    final_fraction: float = 0.0
    """wsd and cosine: the rate at the end, as a part of the peak."""

    def __post_init__(self) -> None:
        for name, choices in (("optimizer", ("adamw", "muon")), ("schedule", ("wsd", "cosine", "constant"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name in ("learning_rate", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} must be positive")
        if self.muon_learning_rate is not None and not self.muon_learning_rate > 0:
            raise ValueError(f"muon_learning_rate {self.muon_learning_rate} must be positive")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be in [0, 1)")
        for name in ("decay_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must be in [0, 1]")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError(
                f"weight_decay {self.weight_decay} and warmup_steps {self.warmup_steps} must not be negative"
            )


TENSORBOARD = "tensorboard"
"""The tracker of a run that asks for none."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and on what a training runs; see `trainers.loop`."""

    steps: int = 2000
    """Optimiser steps."""
    accumulate: int = 1
    """Batches whose gradients are summed for one step; the result is that of one batch of them all."""
    clip: float | None = 1.0
    """Gradients with a larger norm are scaled down to it; None leaves them."""
    ema: float | None = None
    """Decay of a moving average of the weights over the steps, such as 0.999; the average is what is validated and kept as the
    best. It is warmed up: step n leaves at most (1 + n) / (10 + n) of it. None keeps no average."""
    seed: int = 0
    """Decides the fresh weights, the order of the data and dropout."""
    validate_every: int | None = None
    """Steps between two validations; None means ten of them in the run. There is always one at the end."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints; None means as often as validation. There is always one at the end."""
    keep: Literal["best", "last"] | None = None
    """Which weights the run ends with: those of the best validation, or of the last. None means the best, and the last where a
    discriminator is trained against, whose losses are no judge."""
    log_every: int = 10
    """Steps between two lines of the log, which hold the mean over these steps."""
    track: str = TENSORBOARD
    """Where the numbers and samples of the log are shown besides: tensorboard (files in OUT/tensorboard), wandb, trackio, none,
    or what a package registers. The weights do not depend on it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    devices: int = 1
    """Number of processes, one a device; the batch of a step grows with it."""
    strategy: Literal["auto", "ddp"] = "auto"
    """How several processes work together; auto means ddp if there are several."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Numbers in matrix products. auto takes bfloat16 where the device computes in it natively (GPUs, CPUs with AMX or
    AVX512-BF16), else float32."""
    deterministic: bool = True
    """Use only algorithms that give the same bits each time; costs some speed on a GPU."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        TRACKERS.check(self.track)
        if self.keep not in (None, "best", "last"):
            raise ValueError(f"--keep {self.keep} must be best or last")
        for name in ("validate_every", "checkpoint_every"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"--clip {self.clip} must be positive, or None for no clipping")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"--ema {self.ema} must be between 0 and 1, or None for no average")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed} must not be negative")

    def interrupted(self) -> str:
        """Return what is true when the command was interrupted; those that inherit have the folder ``out``."""
        out = Path(getattr(self, "out", ""))
        steps = sorted(path.name for path in (out / "checkpoints").glob("step_????????"))
        if steps:
            return f"the checkpoint of step {int(steps[-1][5:])} is in {out}, and the same command goes on from there"
        decoded = "; what was decoded is kept" if (out / "data").exists() else ""
        return f"{out} has no checkpoint yet, so the same command begins with the first step{decoded}"

    @property
    def steps_between_validations(self) -> int:
        """``validate_every`` with its default filled in."""
        return self.validate_every or max(1, self.steps // 10)

    @property
    def steps_between_checkpoints(self) -> int:
        """``checkpoint_every`` with its default filled in."""
        return self.checkpoint_every or self.steps_between_validations
