"""Does a model know what it draws? The rank of the true condition of samples among those of all of them, by likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenize_kit.sequences.document import Role
from trainers.autoregressive.models import device_of
from trainers.autoregressive.models.inputs import Inputs

if TYPE_CHECKING:
    from trainers.autoregressive.model_folder import LoadedModel

EQUAL = 1e-3
"""Nats that two readings of the same tokens may differ by in float32."""
BATCH = 32


def caption_ranks(loaded: LoadedModel, samples: Sequence[Mapping[str, NDArray[Any]]]) -> NDArray[np.float64]:
    """Return the rank of the true condition of each sample, (N,); 1 where it is the most probable one.

    Equal ones share the mean of their ranks, so that the mean rank of a model that looks at no condition is (N + 1) / 2.

    Args:
        loaded: a causal model that asks for nothing but ids, of a template with a condition.
        samples: the grids of the streams of each sample.
    """
    return ranks(likelihoods(loaded, samples))


def ranks(found: NDArray[np.float64], nearly: float = EQUAL) -> NDArray[np.float64]:
    """Return the rank of the true condition of each sample, (N,); equal ones share the mean of their ranks.

    Args:
        found: (N, N), log-probabilities of sample i given the condition of sample j.
        nearly: what equal ones may differ by, in nats.
    """
    true = np.diag(found)[:, None]
    equal = np.abs(found - true) <= nearly
    better = (found > true) & ~equal
    result: NDArray[np.float64] = 1 + better.sum(1) + (equal.sum(1) - 1) / 2
    return result


def likelihoods(loaded: LoadedModel, samples: Sequence[Mapping[str, NDArray[Any]]]) -> NDArray[np.float64]:
    """Return the log-probability in nats of what is predicted of sample i given the condition of sample j, (N, N).

    Args: see `caption_ranks`.
    """
    template, model = loaded.template, loaded.model
    assert model.causal
    assert not model.needs
    device = device_of(model)
    documents = []
    for i, sample in enumerate(samples):
        for j, other in enumerate(samples):
            grids = {
                name: (other if name in template.condition else sample)[template.stream_of(name)]
                for name in template.names
            }
            documents.append((i, j, template.document(grids, loaded.vocabulary)))
    documents.sort(key=lambda one: len(one[2]))
    found = np.zeros((len(samples), len(samples)))
    with torch.inference_mode():
        for start in range(0, len(documents), BATCH):
            part = documents[start : start + BATCH]
            longest = max(len(document) for *_, document in part)
            # Padding on the right changes nothing to its left in a causal model.
            ids = torch.zeros(len(part), longest, dtype=torch.int64)
            counted = torch.zeros(len(part), longest)
            for row, (_, _, document) in enumerate(part):
                ids[row, : len(document)] = torch.from_numpy(document.ids)
                counted[row, : len(document)] = torch.from_numpy((document.roles == Role.TARGET).astype(np.float32))
            ids, counted = ids.to(device), counted.to(device)
            logits = model.logits(Inputs(ids[:, :-1])).float()
            each = logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
            for (i, j, _), value in zip(part, (each * counted[:, 1:]).double().sum(1).tolist(), strict=True):
                found[i, j] = value
    return found
