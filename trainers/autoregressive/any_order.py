"""How probable a model of hidden tokens finds documents: exactly for an order, or a bound from a few draws.

For an order of the tokens that are predicted, the chain rule gives p(x) = prod p(x_i | those before it in the order), where what
comes later is hidden; that is one reading of the document a token. Probabilities of all documents with one condition and one
structure add up to one for each order, and the average of the probabilities over orders is a distribution too; the average of
their logarithms is a bound below it (`objectives.any_order`), which needs as few readings as one likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from trainers.autoregressive.models import SequenceModel, device_of
from trainers.autoregressive.models.inputs import Inputs

READING_SEED = 0x72656164
"""Sets what is hidden for scores apart from what training hides."""


class Bound(NamedTuple):
    """An estimate of the mean over orders of the log-likelihood of a document, which is at most its log-likelihood."""

    nats: float
    """The mean over draws."""
    error: float
    """Its standard error; NaN of a single draw."""


def order_log_likelihood(
    model: SequenceModel, inputs: Inputs, order: Sequence[int], mask: int, batch_size: int = 16
) -> Tensor:
    """Return the log-probability in nats of each token given the condition and those before it in an order.

    Args:
        model: of hidden tokens, in any mode; it is evaluated.
        inputs: one document of T tokens, (1, T), with all ids.
        order: the N places that are predicted, each once, in their order; all others are given.
        mask: the id of a hidden token, the last one of the model. It is not among what may be drawn.
        batch_size: how many of the N readings are made at once.

    Returns:
        float64 (N,), on the CPU, in the order of ``order``; its sum is that of the document.

    Raises:
        ValueError: the model is causal, or ``order`` is none.
    """
    _check(model, inputs, order)
    places = torch.tensor(list(order), dtype=torch.int64)
    # Reading number k hides what comes from number k on.
    later = torch.arange(len(places))[None] >= torch.arange(len(places))[:, None]
    hidden = torch.zeros(len(places), inputs.ids.shape[1], dtype=torch.bool)
    hidden.scatter_(1, places.expand(len(places), -1), later)
    each = _log_probabilities(model, inputs, hidden, mask, batch_size)
    return each.gather(1, places[:, None])[:, 0]


def bound_log_likelihood(
    model: SequenceModel,
    inputs: Inputs,
    places: Sequence[int],
    mask: int,
    draws: int,
    seed: int = 0,
    batch_size: int = 16,
) -> Bound:
    """Return an estimate of the mean over all orders of the log-likelihood of a document, at most its log-likelihood.

    A draw hides n of the N places and weights what is predicted of them by N / n. The n of the draws are spread evenly over
    1 to N, from a place that is drawn, so that N draws have each n once; the estimate stays without a bias.

    Args:
        model: as `order_log_likelihood`.
        inputs: the same.
        places: the N places that are predicted.
        mask: the same.
        draws: how many readings.
        seed: what is drawn is a function of it.
        batch_size: how many are made at once.

    Raises:
        ValueError: as `order_log_likelihood`, or there is no draw.
    """
    _check(model, inputs, places)
    if draws < 1:
        raise ValueError(f"draws {draws} must be at least 1")
    random = np.random.Generator(np.random.PCG64(seed))
    number = len(places)
    spread = (random.random() + np.arange(draws) / draws) % 1
    counts = 1 + (spread * number).astype(np.int64)
    hidden = torch.zeros(draws, inputs.ids.shape[1], dtype=torch.bool)
    for draw, count in enumerate(counts.tolist()):
        hidden[draw, torch.from_numpy(np.asarray(places)[random.permutation(number)[:count]])] = True
    each = _log_probabilities(model, inputs, hidden, mask, batch_size)
    found = torch.where(hidden, each, 0.0).sum(1).numpy() * (number / counts)
    error = float(found.std(ddof=1) / draws**0.5) if draws > 1 else float("nan")
    return Bound(float(found.mean()), error)


def hidden_log_probabilities(
    model: SequenceModel, inputs: Inputs, labels: Tensor, mask: int, readings: int, seeds: Sequence[int]
) -> Tensor:
    """Return the estimate of `bound_log_likelihood` of several documents, by what each place has part in it.

    Args:
        model: of hidden tokens, in evaluation mode.
        inputs: B rows of one document each, with all ids.
        labels: int64 (B, T), the id at its own place where one is predicted, below 0 elsewhere.
        mask: see `order_log_likelihood`.
        readings: how many of each document.
        seeds: (B,), what is hidden of a row is a function of its own.

    Returns:
        float64 (B, T), in nats; the sum of a row is the estimate of its document.
    """
    counted = labels >= 0
    where = counted.cpu().numpy()
    number = where.sum(1)
    draws = [np.random.Generator(np.random.PCG64([READING_SEED, seed])) for seed in seeds]
    starts = np.array([draw.random() for draw in draws])
    total = torch.zeros(labels.shape, dtype=torch.float64, device=labels.device)
    ids = labels.clamp(min=0)[..., None]
    with torch.inference_mode():
        for reading in range(readings):
            many = 1 + ((starts + reading / readings) % 1 * number).astype(np.int64)
            noise = np.full(where.shape, 2.0)
            noise[where] = np.concatenate([draw.random(count) for draw, count in zip(draws, number, strict=True)])
            rank = noise.argsort(1).argsort(1)
            hidden = torch.from_numpy(where & (rank < many[:, None])).to(labels.device)
            logits = model.logits(replace(inputs, ids=torch.where(hidden, mask, inputs.ids)))[..., :mask].double()
            each = (logits.gather(-1, ids) - logits.logsumexp(-1, keepdim=True))[..., 0]
            total += (
                torch.where(hidden, each, 0.0) * torch.from_numpy(number / many / readings).to(labels.device)[:, None]
            )
    return total


def _check(model: SequenceModel, inputs: Inputs, places: Sequence[int]) -> None:
    if model.causal:
        raise ValueError("the model is causal and predicts tokens in one order alone; score it")
    if len(inputs.ids) != 1:
        raise ValueError(f"one document is asked for at a time, got {len(inputs.ids)} rows")
    if not places or len({*places}) < len(places) or not {*places} <= {*range(inputs.ids.shape[1])}:
        raise ValueError(
            f"the places that are predicted must be at least one of the {inputs.ids.shape[1]}, each once; got {list(places)}"
        )


def _log_probabilities(model: SequenceModel, inputs: Inputs, hidden: Tensor, mask: int, batch_size: int) -> Tensor:
    """Return the log-probability of every id of a document in several readings, float64 (R, T), on the CPU.

    Args:
        model: see `order_log_likelihood`.
        inputs: the same.
        hidden: bool (R, T), what each reading hides.
        mask: see `order_log_likelihood`.
        batch_size: readings at once.
    """
    device = device_of(model)
    ids = inputs.ids.to(device)
    was_training = isinstance(model, nn.Module) and model.training
    model.eval()
    found = []
    try:
        with torch.inference_mode():
            for start in range(0, len(hidden), batch_size):
                part = hidden[start : start + batch_size].to(device)
                repeated = inputs.rows(torch.zeros(len(part), dtype=torch.int64, device=inputs.ids.device))
                logits = model.logits(replace(repeated, ids=torch.where(part, mask, ids))).double()[..., :mask]
                each = logits.log_softmax(-1).gather(-1, ids.expand(len(part), -1)[..., None])
                found.append(each[..., 0].cpu())
    finally:
        model.train(was_training)
    return torch.cat(found)
