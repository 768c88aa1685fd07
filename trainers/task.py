"""What `trainers.loop` trains: some networks, phases with optimisers, and what to measure, log and show of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from trainers.exhibits import Exhibit
from trainers.runtime import Runtime


class PhaseLoss(NamedTuple):
    """What one batch contributes to a phase."""

    total: Tensor
    """Scalar with a gradient: the loss summed over the batch."""
    logs: dict[str, Tensor]
    """Detached scalars summed over the batch; logged divided by the weight."""


class Task(Protocol):
    """What the loop trains; inherit from it to get the defaults of what is optional.

    All state that outlives a step is in parameters and buffers of ``networks``: that is what a checkpoint keeps.
    """

    networks: dict[str, nn.Module]
    """By name. The loop puts them on the device and replaces them by their wrapped form (precision, several processes); go
    through this dictionary. One without trainable parameters, such as a holder of moving averages, is not wrapped.
    After each step all processes have the buffers of the first one."""
    optimizers: dict[str, list[torch.optim.Optimizer]]
    """For each phase, in their order, the optimisers that step after its backward pass. A phase with none has no backward pass:
    its loss itself does what there is to learn, by adding to buffers in training mode (counts of tables)."""
    averaged: tuple[str, ...] | None = None
    """The networks whose weights are averaged if the run keeps averages; None means all."""
    unit: str = "tokens"
    """What `size` counts; the log has so many a second."""
    keep: Literal["best", "last"] = "best"
    """Which weights the run ends with unless its options say: those of the best validation, or of the last. A generator's loss is
    no judge of it."""
    advice: str = ""
    """What else may help when the training breaks down, such as ``lower --discriminator-weight``; ends the list of hints."""

    def batch(self, index: int) -> Any:
        """Return this process's batch number ``index``, counted from the start of the training, with a method ``to``."""
        ...

    def weight(self, batch: Any) -> float:
        """Return what the sums over a batch are divided by: how many tokens or samples count in it, or their summed weights."""
        ...

    def size(self, batch: Any) -> float:
        """Return how many `unit` a batch has, for the log; what it weighs unless the task says otherwise."""
        return self.weight(batch)

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

    def describe(self, sums: Mapping[str, float], weight: float) -> dict[str, float]:
        """Return what to log of the sums of `PhaseLoss.logs` over some steps and of their weight.

        A name that was logged in some of these steps only has its sum scaled up to all of them; one that was in none is
        missing.
        """
        ...

    def active(self, phase: str, step: int) -> bool:  # noqa: ARG002
        """Return whether a phase takes part in a step; if not there is neither a loss nor a step of its optimisers."""
        return True

    def stepped(self, phase: str, step: int) -> None:  # noqa: ARG002
        """Do what belongs to the end of a phase's step, when its optimisers have stepped: update moving averages."""
        return

    def warnings(self, line: Mapping[str, float]) -> list[str]:  # noqa: ARG002
        """Return what is wrong with a line of the log (after a validation its metrics are in it as ``validation/NAME``).

        The log keeps it with each line; it is shown when the line before did not have the same text, so leave figures out.
        """
        return []

    def told(self, metrics: Mapping[str, float]) -> str:  # noqa: ARG002
        """Return a line about a validation that stays on the screen, where the metrics are more than a line of progress holds.

        That has only the first of them then. Empty if all of them are to be shown there.
        """
        return ""

    def exhibits(self) -> dict[str, Exhibit]:
        """Return samples to look at or listen to, by name; called after a validation, on the first process only."""
        return {}
