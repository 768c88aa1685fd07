"""What the tokens of a stream stand for, and the rates that a likelihood is told in: a byte of text, a dimension of a picture.

One place for training's validation, scores and the table of a comparison: the names, the counts and the conversion are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray

from tokenize_kit.protocol import Tokenizer, modality_of
from trainers.autoregressive.likelihood import bits_per


@dataclass
class Units:
    """Counts the bytes or dimensions that grids of a stream stand for.

    Where each step covers a fixed part of a sample, as of pictures and sounds, its size follows from the shape of the grid, and
    each shape is decoded once; texts are decoded all.
    """

    tokenizer: Tokenizer
    """Of the stream."""
    _known: dict[tuple[int, ...], int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the rate: ``bits_per_byte``, ``bits_per_dimension``, with ``_quantised`` where it is of what comes back."""
        spec = self.tokenizer.spec
        return f"bits_per_{modality_of(spec).dimension}{'' if spec.lossless else '_quantised'}"

    @property
    def values_a_second(self) -> int | None:
        """How many dimensions of a sound are a second; None for all else."""
        spec = self.tokenizer.spec
        return None if spec.sample_rate is None or spec.channels is None else spec.sample_rate * spec.channels

    def count(self, grid: NDArray[Any]) -> int:
        """Return how many bytes or dimensions a grid stands for."""
        kind = modality_of(self.tokenizer.spec)
        axes = zip(self.tokenizer.spec.axes, self.tokenizer.spec.step, strict=True)
        fixed = not kind.textual and all(step is not None for axis, step in axes if axis != "codebook")
        if fixed and grid.shape in self._known:
            return self._known[grid.shape]
        number = kind.dimensions(self.tokenizer.decode(torch.from_numpy(grid.astype("int64"))))
        if fixed:
            self._known[grid.shape] = number
        return number

    def rates(self, stream: str, nats: float, number: int) -> dict[str, float]:
        """Return the bits a byte or a dimension, and of sounds the kbit a second, by the names of the metrics.

        Args:
            stream: begins the names.
            nats: negative log-likelihood.
            number: of bytes or dimensions; of none there is no rate.
        """
        if not number:
            return {}
        found = {f"{stream}/{self.name}": bits_per(nats, number)}
        if a_second := self.values_a_second:
            found[f"{stream}/kilobits_per_second"] = bits_per(nats, number) * a_second / 1000
        return found
