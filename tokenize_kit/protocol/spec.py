"""What a tokenizer says of itself: `TokenSpec`, enough for shards, vocabularies, trainers and reports to serve it.

A sample is a ``str`` (text), a uint8 tensor ``(C, H, W)`` (image), a uint8 tensor ``(T, C, H, W)`` (video) or a float32
tensor ``(C, samples)`` in [-1, 1] (audio): the layouts of torchvision and torchaudio. An id grid is an int64 tensor
whose axes the spec names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from tokenize_kit.errors import MissingPackageError
from tokenize_kit.protocol.registry import MODALITIES

if TYPE_CHECKING:
    from torch import Tensor

    Sample: TypeAlias = str | Tensor


class UnknownModalityError(MissingPackageError, ValueError):
    """A kind of data that no installed package brings; what is of that kind may be sound."""


MAX_FRAME_RATE = 1000
"""The most frames a second at which videos are read and written."""


@dataclass(frozen=True)
class TokenSpec:
    """What a tokenizer says of itself: enough for shards, vocabularies, trainers and reports to serve it."""

    modality: str
    """Name of a registered `Modality`, such as ``text``, ``image`` or ``audio``: which kind of sample goes in and comes out."""
    vocab_size: int | tuple[int, ...]
    """Ids run from 0 to vocab_size - 1; one size for each codebook if the last axis is ``codebook``."""
    axes: tuple[str, ...]
    """Names of the grid axes, slowest first: ``("time",)``, ``("height", "width")``, ``("height", "width", "channel")``.
    """
    step: tuple[int | None, ...]
    """How many characters, pixels, frames or samples one step of each axis covers; None where it varies (BPE)."""
    lossless: bool
    """Whether ``decode(encode(x)) == x`` for every sample that is accepted."""
    channels: int | None = None
    """Channels that a picture or sound must have (1 grey or mono, 3 RGB, 4 RGBA); None where it does not apply."""
    sample_rate: int | None = None
    """Samples a second that a sound must have; None where it does not apply."""
    size_multiple: int = 1
    """Height and width (or the number of samples) must be a multiple of this; ``--image-size`` is checked against it."""
    open_axes: tuple[str, ...] | None = None
    """The axis, the first one, whose length is not known beforehand, so that a token must end it; ``()`` if the shape of a grid
    is always known. None, as in specs that were saved before there was the field: ``time`` where nothing but codebooks follows.
    """
    frame_rate: float | None = None
    """Frames a second that a video must have; None where it does not apply."""

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise UnknownModalityError(
                f"modality {self.modality!r} is not one of {', '.join(MODALITIES.names())}; install the package that brings it"
            )
        if len(self.axes) != len(self.step) or not self.axes:
            raise ValueError(f"axes {self.axes} and step {self.step} must have one entry for each grid axis")
        sizes = self.codebook_sizes
        if not sizes or any(size < 1 for size in sizes):
            raise ValueError(f"vocab_size {self.vocab_size} must be positive")
        if self.open_axes not in (None, (), self.axes[:1]):
            raise ValueError(f"open_axes {self.open_axes} must be none or the first axis, {self.axes[:1]}")
        if self.frame_rate is not None and not 0 < self.frame_rate < math.inf:
            raise ValueError(f"frame_rate {self.frame_rate} must be a number of frames a second above 0")
        if self.size_multiple < 1:
            raise ValueError(f"size_multiple {self.size_multiple} must be 1 or more")
        if isinstance(self.vocab_size, tuple) and self.axes[-1] != "codebook":
            raise ValueError(
                f"vocab_size {self.vocab_size} has one size a codebook, so the last axis must be 'codebook'"
            )

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """The vocabulary size of each codebook; one entry where there is a single vocabulary."""
        return self.vocab_size if isinstance(self.vocab_size, tuple) else (self.vocab_size,)

    @property
    def is_open(self) -> bool:
        """Whether the length of the first axis is not known beforehand, so that a token must end a grid."""
        if self.open_axes is None:
            return self.axes[0] == "time" and self.axes[1:] in ((), ("codebook",))
        return bool(self.open_axes)

    @property
    def size_axes(self) -> int:
        """Numbers in the true size of a sample (see `Modality.size`) where a grid may cover more than the sample; else 0."""
        if all(step is None or step == 1 for step in self.step):
            return 0
        return int(MODALITIES.get(self.modality).size_axes)

    @property
    def max_vocab_size(self) -> int:
        """The largest vocabulary of any codebook: every id is below it."""
        return max(self.codebook_sizes)

    def check_image_size(self, size: int) -> None:
        """Refuse a side of ``--image-size`` that the tokenizer's grid does not fit.

        Raises:
            ValueError: it is no multiple of `size_multiple`; the message names those beside it.
        """
        if over := size % self.size_multiple:
            near = [side for side in (size - over, size - over + self.size_multiple) if side]
            raise ValueError(
                f"--image-size {size} is not a multiple of {self.size_multiple}, as this tokenizer wants (size_multiple); "
                f"use {' or '.join(map(str, near))}"
            )

    def first_codebooks(self, count: int) -> TokenSpec:
        """Return the spec of grids that have only the first ``count`` codebooks.

        Raises:
            ValueError: the grids have no codebooks, or fewer.
        """
        if self.axes[-1] != "codebook":
            raise ValueError(
                f"--codebooks {count}: the grids of this tokenizer (axes {', '.join(self.axes)}) have no codebooks; leave it out"
            )
        # With one size for all codebooks only the grids tell how many there are.
        most = len(self.vocab_size) if isinstance(self.vocab_size, tuple) else count
        if not 1 <= count <= most:
            raise ValueError(f"--codebooks {count} must be from 1 to {most}, the codebooks of this tokenizer")
        return replace(self, vocab_size=self.vocab_size[:count]) if isinstance(self.vocab_size, tuple) else self

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        # As it was before there were the fields: specs are compared and hashed as they are saved.
        for name in ("open_axes", "frame_rate"):
            if values[name] is None:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TokenSpec:
        """Build a spec from `to_dict`'s form.

        Raises:
            ValueError: a field is unknown, missing or out of range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown field {unknown[0]!r} in a token spec; this file needs a newer tokenize-kit")
        ready: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        try:
            return cls(**ready)
        except TypeError as error:
            raise ValueError(f"incomplete token spec: {error}") from None
