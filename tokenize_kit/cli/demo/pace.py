"""How many of its steps each training of the demo can have on this machine, so that all of it takes about as long as is asked.

Two short measurements, of a Transformer's and of a convolutional network's training step, predict what all stages would take;
processors differ more than threefold here, above all by whether they compute in bfloat16. Only too slow a machine changes
anything, and the pace is written into the folder: the same command goes on with the same steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

TRANSFORMER_STEPS = 2400
CONVOLUTION_STEPS = 5700
"""How many of the measured steps the trainings with all of their steps take as long as; read off a demo on two cores of an AMD
EPYC of Zen 3, in float32."""
REST_STEPS = 230
"""The same of all that is no training, in steps of the Transformer."""
LEAST = 0.2
"""The smallest part of the steps that is of any use."""
ROUNDS = 7


class Speed(NamedTuple):
    """Seconds of the two training steps that are measured."""

    transformer: float
    convolution: float


def measured() -> Speed:
    """Return the speed of this machine, in a few seconds."""
    return Speed(_seconds(_transformer_step()), _seconds(_convolution_step()))


def pace(minutes: float, speed: Speed) -> float:
    """Return the part of its steps that each training can have, in [`LEAST`, 1].

    Args:
        minutes: what all stages shall take.
        speed: of the machine.
    """
    training = TRANSFORMER_STEPS * speed.transformer + CONVOLUTION_STEPS * speed.convolution
    left = 60 * minutes - REST_STEPS * speed.transformer
    return min(1.0, max(LEAST, round(left / training, 2)))


def _seconds(step: Callable[[], None]) -> float:
    """Return the seconds of a step, the median of some after the first two."""
    took = []
    for _ in range(2 + ROUNDS):
        began = time.perf_counter()
        step()
        took.append(time.perf_counter() - began)
    return statistics.median(took[2:])


def _transformer_step() -> Callable[[], None]:
    import torch

    from trainers.autoregressive.models.config import TransformerConfig
    from trainers.autoregressive.models.inputs import Inputs
    from trainers.autoregressive.models.transformer import Transformer

    with torch.random.fork_rng([]):
        model = Transformer(TransformerConfig(vocab_size=1024, context=384, layers=3, width=192, heads=3))
        ids = torch.randint(0, 1024, (4, 384))
    return _stepping(model, lambda: model.loss(Inputs(ids[:, :-1]), ids[:, 1:]).total)


def _convolution_step() -> Callable[[], None]:
    import torch
    from torch import nn

    with torch.random.fork_rng([]):
        down = [
            nn.Conv2d(3, 64, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(64, 128, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(128, 128, 3, 1, 1),
        ]
        up = [nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(64, 3, 4, 2, 1)]
        model = nn.Sequential(*down, *up)
        pictures = torch.rand(32, 3, 32, 32)
    return _stepping(model, lambda: (model(pictures) - pictures).abs().mean())


def _stepping(model: object, loss: Callable[[], object]) -> Callable[[], None]:
    """Return a training step of ``model`` in the precision that a training would have on this processor."""
    import torch

    from trainers.processor import has_bfloat16

    assert isinstance(model, torch.nn.Module)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):
            total = loss()
        assert isinstance(total, torch.Tensor)
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step
