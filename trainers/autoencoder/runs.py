"""The frame of a run that trains a tokenizer: its folder, what is held out, and its end.

Only the standard library is imported at the top, so that a command line can show the options of `train` at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tokenize_kit.errors import MissingWeightsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Tokenizer
    from trainers.autoencoder.base import QuantizedTask
    from trainers.config import LoopConfig
    from trainers.loop import LoopResult
    from trainers.runtime import Runtime

DATA = "data"
"""Where the decoded samples are inside the folder of a run."""
HELD_OUT = "validation_data"
"""The same of ``validation_data``."""
LOOP_NAMES = (
    *("steps", "accumulate", "clip", "seed", "validate_every", "devices", "precision", "ema", "deterministic"),
)
"""The options of the loop that determine the result."""

T = TypeVar("T")


def identity_of(command: str, options: Any, names: Iterable[str], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determines the result of a run, by names that the user knows; the data prove themselves by their plan.

    Args:
        command: such as ``train image``.
        options: the dataclass of its options.
        names: of those options that determine the result, besides `LOOP_NAMES`.
        parts: what else does, by name: the parts of the recipe.
    """
    values = asdict(options)
    chosen = {name: values[name] for name in (*names, *LOOP_NAMES)}
    # As JSON gives it back: lists instead of tuples.
    return dict(json.loads(json.dumps({"command": command, **chosen, **parts})))


def claimed(out: Path, identity: Mapping[str, Any], runtime: Runtime, build: Callable[[], T]) -> T:
    """Claim the folder of a run for it and return what ``build`` makes there.

    If a fresh run cannot be built, its folder is given up again: nothing has been trained, and the corrected command shall not
    be refused for the options of this one.

    Raises:
        ValueError: the folder holds another run, or whatever ``build`` raises.
    """
    import shutil

    from trainers.checkpoints import RUN_FILE, claim_folder

    fresh = not (out / RUN_FILE).exists()
    if runtime.rank == 0:
        # Before anything is read: a folder of another run must not be filled with data.
        claim_folder(out, identity)
    runtime.fabric.barrier()
    try:
        return build()
    except (ValueError, FileNotFoundError, MissingWeightsError):
        if fresh and runtime.rank == 0:
            for name in (DATA, HELD_OUT):
                shutil.rmtree(out / name, ignore_errors=True)
            (out / RUN_FILE).unlink(missing_ok=True)
        raise


def trained(
    task: QuantizedTask,
    model: nn.Module,
    options: LoopConfig,
    runtime: Runtime,
    out: Path,
    wrap: Callable[[], Tokenizer],
    progress: Progress | None,
) -> tuple[LoopResult, Tokenizer]:
    """Train, put the best weights into ``model``, and save the tokenizer that ``wrap`` makes of it."""
    from tokenize_kit.weights import load_tensors, read_tensors
    from trainers.autoencoder.base import BEST_FILE
    from trainers.loop import run

    result = run(task, options, runtime, out, progress)
    load_tensors(model.state_dict(), read_tensors(out / BEST_FILE), out / BEST_FILE)
    model.to("cpu")
    tokenizer = wrap()
    if runtime.rank == 0:
        tokenizer.save(out)
    runtime.fabric.barrier()
    return result, tokenizer


def split(
    fractions: NDArray[np.float64], fraction: float, elsewhere: bool, most: int, what: str
) -> tuple[NDArray[np.int64], list[int]]:
    """Return the numbers of the samples that are trained on, and of those that are measured.

    Args:
        fractions: of the samples' keys; see `tokenize_kit.sources.heldout.key_fractions`.
        fraction: part that is held out.
        elsewhere: whether other data is measured on, so that nothing is held out.
        most: the most samples to measure.
        what: the samples' name for the error message.

    Raises:
        ValueError: nothing is left to train on.
    """
    import numpy as np

    held = fractions < (0.0 if elsewhere else fraction)
    if held.all():
        raise ValueError(
            f"all {len(fractions)} {what} fall into the held-out part; lower --validation-fraction "
            f"{fraction}, or name more --data"
        )
    return np.flatnonzero(~held), spread(np.flatnonzero(held).tolist(), most)


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """Return at most ``most`` of the numbers, evenly spread."""
    count = len(numbers)
    return [numbers[place * count // most] for place in range(most)] if count > most else list(numbers)
