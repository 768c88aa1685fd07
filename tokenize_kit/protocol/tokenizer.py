"""What a tokenizer must be (`Tokenizer`), and what it may be besides: one protocol a capability."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, Self, cast, runtime_checkable

from tokenize_kit.protocol.registry import TOKENIZERS
from tokenize_kit.protocol.spec import TokenSpec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.protocol.spec import Sample


@runtime_checkable
class Tokenizer(Protocol):
    """Turns samples of one modality into grids of integer ids and back.

    Inherit from it to get `encode_batch` and `decode_batch` as loops; a batch gives exactly what one by one gives.
    A tokenizer is immutable once it is built, so `spec` and `fingerprint` never change.
    """

    @property
    def spec(self) -> TokenSpec:
        """What this tokenizer is and expects."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 over everything that determines the ids; see `fingerprint_of`."""
        ...

    def encode(self, sample: Sample) -> Tensor:
        """Turn one sample into its id grid, int64, on the CPU.

        Raises:
            TypeError: the sample is of another kind than ``spec.modality``.
            ValueError: its shape, dtype or range is not what ``spec`` says.
        """
        ...

    def decode(self, ids: Tensor) -> Sample:
        """Turn one id grid back into a sample.

        Raises:
            ValueError: the grid has the wrong number of axes, or an id outside the vocabulary.
        """
        ...

    def encode_batch(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Encode samples of mixed sizes; equal to encoding one by one."""
        return [self.encode(sample) for sample in samples]

    def decode_batch(self, grids: Sequence[Tensor]) -> list[Sample]:
        """Decode grids of mixed sizes; equal to decoding one by one."""
        return [self.decode(ids) for ids in grids]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the tokenizer into ``folder``; ``tokenizer_config.json`` comes last and makes it one.

        Raises:
            ValueError: the folder already holds another tokenizer.
        """
        ...

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; nothing is ever unpickled.

        Raises:
            FileNotFoundError: the folder or a file of it is missing.
            ValueError: a file is damaged, or of another format version or tokenizer.
        """
        ...


@runtime_checkable
class SizedTokenizer(Protocol):
    """A tokenizer whose grid may cover a little more than the sample, so that decoding wants the sample's true size.

    Shards keep the size beside the grid. Without it `Tokenizer.decode` returns all that the grid covers.
    """

    def decode_sized(self, grids: Sequence[Tensor], sizes: Sequence[tuple[int, ...]]) -> list[Sample]:
        """Decode grids of mixed sizes, each cut to the size that `Modality.size` gave for its sample.

        Raises:
            ValueError: as `Tokenizer.decode`, or a size that the grid does not cover.
        """
        ...


@runtime_checkable
class PieceTokenizer(Protocol):
    """A tokenizer that takes samples in pieces along one axis (`Modality.piece_axis`), in memory that does not grow with it.

    However a sample is cut, the pieces that come out, joined, are what the whole gives.
    """

    def encode_pieces(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode the pieces of one sample, such as (C, n) of a sound; yield its ids in pieces along the first axis.

        Raises:
            TypeError, ValueError: as `Tokenizer.encode`, for any piece.
        """
        ...

    def decode_pieces(self, grids: Iterable[Tensor], length: int | None = None) -> Iterator[Tensor]:
        """Decode the pieces of one grid; yield those of the sample, cut to the true ``length`` along that axis if it is given.

        Raises:
            TypeError, ValueError: as `Tokenizer.decode`, for any piece, or they do not cover that length.
        """
        ...


@runtime_checkable
class RaggedEncoder(Protocol):
    """A text tokenizer with a fast way: many texts in, flat ids and a length for each text out."""

    def encode_ragged(self, texts: Sequence[str] | pa.Array) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode a list of ``str`` or an Arrow array of (large) strings; equal to `encode` one by one."""
        ...


@runtime_checkable
class PipelinedEncoder(Protocol):
    """A tokenizer that begins with a batch before the one before is done, so that none of its threads waits at its end."""

    def encode_ahead(
        self,
    ) -> AbstractContextManager[Callable[[Sequence[Sample]], Callable[[], list[Tensor]]]]:
        """Yield a function that begins to encode a batch and returns another one, which waits for the grids.

        The grids are those of `Tokenizer.encode_batch`; either function may raise what that raises.
        """
        ...


@runtime_checkable
class DeviceTokenizer(Protocol):
    """A tokenizer with a network, which can compute on another device than the CPU, or with bfloat16.

    What goes in and what comes out stays on the CPU, and so do `Tokenizer.spec` and `Tokenizer.fingerprint` what they are. The
    ids may differ in a few places, because sums do in their last bits.
    """

    def to(self, device: torch.device | str, precision: str = "32-true") -> Self:
        """Compute on ``device`` from now on, and return the tokenizer itself.

        Args:
            device: as torch names it, such as ``cpu`` or ``cuda``.
            precision: ``32-true``, float32 everywhere, or ``bf16-mixed``, bfloat16 where `torch.autocast` takes it.

        Raises:
            ValueError: another precision.
        """
        ...


@runtime_checkable
class ShowsTokens(Protocol):
    """A tokenizer that can say which bytes each id stands for."""

    def tokens(self, ids: Tensor) -> list[bytes]:
        """Return the bytes of each id."""
        ...


@runtime_checkable
class OrdinalTokenizer(Protocol):
    """A tokenizer whose ids may be ordered: ids beside each other stand for nearly the same, such as values of pixels."""

    @property
    def ordinal(self) -> bool:
        """Whether they are; a sequence model may then learn a distribution along their order."""
        ...


@runtime_checkable
class SpecialTokens(Protocol):
    """A text tokenizer whose vocabulary has special tokens: ids that no text gives unless it is asked for."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The special tokens, as they are spelt in a text, and their ids."""
        ...

    def allowing(self, tokens: Collection[str]) -> Tokenizer:
        """Return a tokenizer of the same vocabulary that finds these of its special tokens wherever they stand in a text.

        It has the same `Tokenizer.fingerprint`, since what an id stands for does not change, and decodes alike.

        Raises:
            ValueError: one of them is no special token of it.
        """
        ...


def register_tokenizer(name: str, cls: type[Tokenizer]) -> None:
    """Make ``cls`` known as ``name`` in this process; packages use the entry point group ``tokenize_kit.tokenizers``.

    Raises:
        ValueError: the name belongs to another tokenizer.
    """
    TOKENIZERS.register(name, cls)


def registered_tokenizers() -> list[str]:
    """Names of all tokenizers that can be loaded here, sorted."""
    return TOKENIZERS.names()


def tokenizer_class(name: str) -> type[Tokenizer]:
    """Return the tokenizer class that is registered as ``name``.

    Raises:
        ValueError: nothing is registered under that name; the message suggests the closest one.
    """
    return cast("type[Tokenizer]", TOKENIZERS.get(name))


def tokenizer_name(tokenizer: Tokenizer | type[Tokenizer]) -> str:
    """Return the name under which a tokenizer's class is registered.

    Raises:
        ValueError: its class is not registered.
    """
    return TOKENIZERS.name_of(tokenizer if isinstance(tokenizer, type) else type(tokenizer))
