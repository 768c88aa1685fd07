"""What the training of a sequence model needs at the least, and what to lower where that is too much.

What a Transformer keeps follows from its configuration, without making it. Of another family one short row is tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.options import TRANSFORMER, TrainSequenceOptions

_KEPT = 16
"""Tensors of the width of a block that its backward pass needs at the least; see `least_memory`."""

_TRIED = (8, 24)
"""Tokens of the rows that are tried: what the second keeps more than the first is that of the tokens between."""


def burden_of(options: TrainSequenceOptions, context: int) -> str:
    """Return what memory is needed for, in the user's words, and what to lower."""
    rows = f"{options.batch_size:,} row{'s' if options.batch_size != 1 else ''}"
    sizes = "--preset, --model" if options.family == TRANSFORMER else "--set"
    return (
        f"a batch is {rows} x {context:,} tokens; lower --batch-size (and raise --accumulate by as much, for the same result), "
        f"--context, or the size of the model ({sizes})"
    )


def parameters_of(family: str, config: Mapping[str, Any]) -> int | None:
    """Return how many parameters a model will have, without making them; None if its family cannot be built so."""
    try:
        with torch.device("meta"):
            model: Any = build_model(family, config)
    except (RuntimeError, NotImplementedError, TypeError):
        return None
    return int(sum(parameter.numel() for parameter in model.parameters()))


def least_memory(options: TrainSequenceOptions, parameters: int, context: int, config: Mapping[str, Any]) -> int:
    """Return the bytes that a training needs at the least: weights, gradients, optimiser, and a Transformer's inputs of layers.

    What a step needs besides depends on the kernels; ``tests/autoregressive/test_memory.py`` holds it against what was used.
    """
    # AdamW keeps two averages a weight, Muon one; both in float32.
    copies = 2 + (1 if options.optimizer.optimizer == "muon" else 2) + (options.ema is not None)
    if options.family != TRANSFORMER:
        return 4 * copies * parameters
    places = options.batch_size * context
    # In bfloat16 at the least; a place of the blocks holds a joint step of so many tokens at most.
    places //= int(config.get("codebook_slots", 1))
    activations = 2 * places * int(config.get("layers", 0)) * int(config.get("width", 0)) * _KEPT
    return 4 * copies * parameters + activations


def kept_by_activations(model: Any, options: TrainSequenceOptions, context: int) -> int:
    """Return the bytes that a step keeps of its batch at the least, by what a model of any family keeps of a short row.

    Args:
        model: freshly initialised; it is run on single rows, in evaluation mode.
        options: for the size of a batch.
        context: tokens of a row.

    Returns:
        0 where the model does not take such a row, so that nothing is known.
    """
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng([]):
            few, many = (_kept(model, min(length, context)) for length in _TRIED)
    except (ValueError, RuntimeError, IndexError):
        return 0
    finally:
        model.train(training)
    # In bfloat16 at the least.
    each = max(0, many - few) // (_TRIED[1] - _TRIED[0]) // 2
    return each * options.batch_size * context


def _kept(model: Any, length: int) -> int:
    """Return the bytes that the loss of one row keeps for its gradient, weights aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            held[place] = tensor
        return tensor

    ids = torch.zeros(1, length, dtype=torch.int64)
    axes = {"axial": 3, "following": 3, "steps": 2}
    parts: dict[str, Any] = {name: ids[..., None].expand(-1, -1, axes[name]) for name in model.needs if name in axes}
    if "given" in model.needs:
        parts["given"] = ids.bool()
    if "documents" in model.needs:
        parts["documents"] = ids
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(Inputs(ids, **parts), ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())
