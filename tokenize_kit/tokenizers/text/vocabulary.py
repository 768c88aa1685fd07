"""What tokenizers of text with a vocabulary of their own have in common: `chars` and `words` differ in how they divide a text."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from tokenize_kit.modalities.text import TEXT
from tokenize_kit.protocol import Tokenizer, TokenSpec, check_target, fingerprint_of, write_config
from tokenize_kit.tokenizers.text.engines import Texts, encoded_in_parts, utf8

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.protocol import Sample


class VocabularyTokenizer(Tokenizer):
    """Texts to ids ``(time,)``, many at once, by the `divide` of a subclass."""

    name: ClassVar[str]
    """The name that it is registered under."""
    _spec: TokenSpec

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return what determines the ids, JSON-ready; the keyword arguments of the class."""

    @abstractmethod
    def divide(self, texts: Texts) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return the flat ids of texts, and how many each has."""

    @property
    def spec(self) -> TokenSpec:
        """One axis ``time``."""
        return self._spec

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the name and `options`."""
        return fingerprint_of(self.name, self.options())

    def encode(self, sample: Sample) -> Tensor:
        """Encode one text to ids ``(time,)``, int64.

        Raises:
            TypeError: the sample is not a str.
            ValueError: it has a lone surrogate.
        """
        import torch

        values, _ = self.divide(Texts.one_text(utf8(TEXT.check(sample, self._spec))))
        return torch.from_numpy(values.astype("int64"))

    def encode_batch(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Encode many texts at once; equal to `encode` one by one, and faster."""
        import torch

        values, lengths = self.encode_ragged(list(samples))
        return list(torch.split(torch.from_numpy(values.astype("int64")), lengths.tolist())) if len(lengths) else []

    def encode_ragged(self, texts: Any) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode many texts into one flat array; see `tokenize_kit.protocol.RaggedEncoder`.

        Raises:
            TypeError: the texts are no sequence of str and no Arrow array of strings.
            ValueError: a text is null or has a lone surrogate; names which.
        """
        return encoded_in_parts(texts, self.divide)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer_config.json``, which holds the vocabulary, into ``folder``."""
        write_config(check_target(folder, self), self, self.options())
