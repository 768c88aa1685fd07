"""How probable a model finds given sequences, and the one conversion between the units in which that is told."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainers.autoregressive.models import SequenceModel, device_of


def score(model: SequenceModel, sequences: Sequence[Sequence[int]], batch_size: int = 16) -> list[Tensor]:
    """Return the log-probability in nats of each token of each sequence given those before it.

    Args:
        model: in any mode; it is evaluated.
        sequences: ids, each at least 2 and at most context + 1 of them; the first is given and has no probability.
        batch_size: how many sequences are scored at once.

    Returns:
        For each sequence float32 (its length - 1,), on the CPU.

    Raises:
        ValueError: a sequence is too short or too long, or the model needs to know more of the tokens than their ids.
    """
    if model.needs or not model.causal:
        raise ValueError("only a causal model that asks for nothing but ids can score bare sequences")
    context = model.config.context
    for index, sequence in enumerate(sequences):
        if not 2 <= len(sequence) <= context + 1:
            raise ValueError(f"sequence {index} has {len(sequence)} tokens; it takes 2 to {context + 1} for this model")
    device = device_of(model)
    was_training = isinstance(model, nn.Module) and model.training
    results: list[Tensor] = [torch.empty(0)] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                longest = max(len(sequences[index]) for index in chosen)
                # Padding on the right changes nothing to its left in a causal model.
                padded = [[*sequences[index], *[0] * (longest - len(sequences[index]))] for index in chosen]
                ids = torch.tensor(padded, device=device)
                logits = model(ids[:, :-1]).float()
                each = logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
                for row, index in enumerate(chosen):
                    results[index] = each[row, : len(sequences[index]) - 1].cpu()
    finally:
        model.train(was_training)
    return results


def bits_per(nats: float, count: float) -> float:
    """Convert a summed negative log-likelihood in nats to bits for each of ``count`` things.

    Everything that is reported goes through here; only what is counted differs. For tokens count the predicted tokens; for
    bytes the UTF-8 bytes of the text they stand for; for dimensions the channel values of the pixels they stand for (a
    palette token covers three).

    Raises:
        ValueError: there is nothing to share the bits among.
    """
    if not count > 0:
        raise ValueError(f"bits for each of {count} things: nothing was predicted")
    return nats / math.log(2) / count
