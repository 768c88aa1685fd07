"""How well a likelihood tells one set of samples from another: plain, and corrected by how complex each sample is.

Both are told in bits for each byte or dimension of a sample (for each token, where the parts of a template are counted in several
units). Plain bits are ``-log2 p``. Corrected bits are ``-log2 p - L`` with the bits L of a lossless code of the sample: Serrà et
al. (2020, arXiv 1909.11480) propose them, as the ratio of two models of which the code is the general one. More bits mean less
probable, so the usual reading is that more bits are anomalous. Plain likelihood is known to fail it: models of one set of
pictures find simpler pictures of another more probable than their own (Nalisnick et al. 2019, arXiv 1810.09136), and then the
other direction has the area above one half. So both are told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenize_kit.metrics.lossless import lossless_code_of
from tokenize_kit.protocol import modality_of
from trainers.autoregressive.likelihood import bits_per
from trainers.autoregressive.model_folder import LoadedModel
from trainers.autoregressive.scoring.scores import Score

CONVENTION = (
    "AUROC is the probability that a sample of the second set has more bits than one of the first (more bits are anomalous) or "
    "fewer (fewer bits are anomalous); 0.5 is chance. Plain: -log2 p. Corrected: -log2 p minus the bits of the lossless code."
)


def code_bytes(loaded: LoadedModel, grids: Mapping[str, NDArray[Any]]) -> int:
    """Return the bytes of what the predicted grids of a sample stand for, each in the lossless code of its kind of data."""
    total = 0
    for name in loaded.template.target:
        if name in grids:
            stream = loaded.template.stream_of(name)
            tokenizer = loaded.tokenizers[stream]
            sample = tokenizer.decode(torch.from_numpy(grids[name].astype("int64")))
            spec = loaded.prepared(stream).taken(tokenizer.spec)
            total += lossless_code_of(spec).size(sample, spec)
    return total


def codes_of(loaded: LoadedModel) -> tuple[str, ...]:
    """Return the names of the lossless codes of what the template predicts."""
    streams = dict.fromkeys(loaded.template.stream_of(name) for name in loaded.template.target)
    return tuple(dict.fromkeys(lossless_code_of(loaded.tokenizers[stream].spec).name for stream in streams))


def unit_of(loaded: LoadedModel) -> str:
    """Return what bits are counted a: ``byte`` or ``dimension`` where all predicted parts have the same, else ``token``."""
    streams = (loaded.template.stream_of(name) for name in loaded.template.target)
    found = {modality_of(loaded.tokenizers[stream].spec).dimension for stream in streams}
    return found.pop() if len(found) == 1 else "token"


@dataclass
class Rates:
    """The bits a unit of the samples of a set."""

    unit: str
    """From `unit_of`."""
    plain: list[float] = field(default_factory=list)
    """Of each sample."""
    corrected: list[float] = field(default_factory=list)
    """The same without the bits of the lossless code."""

    def add(self, score: Score, code: int) -> tuple[float, float]:
        """Take a sample in; returns its plain and its corrected rate.

        Args:
            score: of the sample.
            code: bytes of its lossless code.
        """
        number = sum((score.tokens if self.unit == "token" else score.units).values())
        # A sample of no byte, such as an empty text, has no rate; its bits are counted as those of one.
        plain, saved = bits_per(-score.nats, max(1, number)), 8 * code / max(1, number)
        self.plain.append(plain)
        self.corrected.append(plain - saved)
        return plain, plain - saved


@dataclass(frozen=True)
class Separation:
    """How well one number tells the second set from the first."""

    mean: float
    """Of the first set."""
    mean_against: float
    """Of the second set."""
    more_bits_are_anomalous: float
    """Area under the curve of true and false positives, where a sample with more bits is taken for one of the second set."""
    fewer_bits_are_anomalous: float
    """The same where one with fewer bits is."""


@dataclass(frozen=True)
class Anomalies:
    """What the likelihood says of two sets."""

    samples: int
    """Of the first set."""
    samples_against: int
    """Of the second one."""
    unit: str
    """Bits are counted a byte, a dimension or a token."""
    codes: tuple[str, ...]
    """The lossless codes."""
    plain: Separation
    """By the likelihood alone."""
    corrected: Separation
    """By the likelihood without the size of the code."""
    convention: str = CONVENTION
    """What the numbers mean."""


def compare(first: Rates, second: Rates, codes: Sequence[str]) -> Anomalies:
    """Return how well the likelihood tells two sets of samples apart, of which neither is empty."""
    assert first.unit == second.unit
    return Anomalies(
        len(first.plain),
        len(second.plain),
        first.unit,
        tuple(codes),
        _separation(first.plain, second.plain),
        _separation(first.corrected, second.corrected),
    )


def _separation(first: Sequence[float], second: Sequence[float]) -> Separation:
    from sklearn.metrics import roc_auc_score

    values = np.concatenate([first, second])
    labels = np.repeat([0, 1], [len(first), len(second)])
    return Separation(
        math.fsum(first) / len(first),
        math.fsum(second) / len(second),
        float(roc_auc_score(labels, values)),
        float(roc_auc_score(labels, -values)),
    )
