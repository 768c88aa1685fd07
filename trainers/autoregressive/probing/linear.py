"""One linear probe: a logistic regression on standardised features, fitted to some samples and measured on others."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from trainers.autoregressive.probing.finetuning import LinearHead

if TYPE_CHECKING:
    from tokenize_kit.sequences.packing import Ints

MOST_ITERATIONS = 1000
"""Of L-BFGS."""


class FittedProbe(NamedTuple):
    """A probe, and how good it is."""

    accuracy: float
    """Part of the held-out samples that it is right about."""
    converged: bool
    """Whether it came to its end within `MOST_ITERATIONS`."""
    head: LinearHead | None
    """The same as a matrix over the features as they are; None of sparse features."""


def fit_probe(
    features: Any, labels: Ints, training: NDArray[Any], held_out: NDArray[Any], penalty: float = 1.0
) -> FittedProbe:
    """Fit a probe.

    Features are standardised with mean and deviation of the training samples, sparse ones with the deviation alone.

    Args:
        features: (N, columns), dense or a sparse scipy array.
        labels: (N,), from 0 on; the training samples have each of theirs.
        training: which of the N to learn from.
        held_out: which of them to measure on.
        penalty: 1 / C of scikit-learn's `LogisticRegression`.
    """
    dense = isinstance(features, np.ndarray)
    scaler = StandardScaler(with_mean=dense)
    learnt = scaler.fit_transform(features[training].astype(np.float64))
    regression = LogisticRegression(C=1 / penalty, max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings():
        # It is told in the result.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(learnt, labels[training])
    found = regression.predict(scaler.transform(features[held_out].astype(np.float64)))
    accuracy = float((found == labels[held_out]).mean())
    converged = bool(regression.n_iter_.max() < MOST_ITERATIONS)
    return FittedProbe(accuracy, converged, _head(regression, scaler) if dense else None)


def _head(regression: LogisticRegression, scaler: StandardScaler) -> LinearHead:
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:
        # Of two classes it has the difference of their logits.
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    weight = weight / scaler.scale_
    return LinearHead(weight, bias - weight @ scaler.mean_)
