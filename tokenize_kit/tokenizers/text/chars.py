"""Characters: each one of a vocabulary is an id; the tokenizer, and ``train chars``, which counts them.

The others are either one unknown id, and lost, or the bytes of their UTF-8, so that nothing is. Nothing is changed before:
no normalisation, no special tokens.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from tokenize_kit.modalities.text import TEXT
from tokenize_kit.protocol import (
    TokenSpec,
    check_ids,
    check_kind,
    read_options,
    save_as,
)
from tokenize_kit.tokenizers.text.corpus import Corpus, VocabularyResult
from tokenize_kit.tokenizers.text.engines import Texts
from tokenize_kit.tokenizers.text.vocabulary import VocabularyTokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.progress import Progress

NAME = "chars"
Fallback = Literal["unknown", "bytes"]
UNKNOWN = "\ufffd"
"""What an unknown character decodes to."""

_CODES = 0x110000
_ABSENT = 0xFFFFFFFF
_PIECE_BYTES = 1 << 20


class CharsTokenizer(VocabularyTokenizer):
    """Characters (Unicode code points) to ids ``(time,)`` and back.

    Args:
        characters: those with an id of their own, in the order of the ids, each once.
        fallback: what the others become: ``unknown``, the id 0; or ``bytes``, one to four ids below 256. The ids of the
            characters follow.

    Raises:
        ValueError: a character comes twice or is a lone surrogate, or there is no such fallback.
    """

    name = NAME

    def __init__(self, characters: str, fallback: Fallback = "unknown") -> None:
        if fallback not in get_args(Fallback):
            raise ValueError(f"fallback {fallback!r} is not one of {', '.join(get_args(Fallback))}")
        if len(set(characters)) < len(characters):
            twice = next(character for place, character in enumerate(characters) if character in characters[:place])
            raise ValueError(f"the character {twice!r} is twice in the vocabulary")
        if surrogate := next((character for character in characters if "\ud800" <= character <= "\udfff"), None):
            raise ValueError(f"the vocabulary has the lone surrogate {surrogate!r}, which is no character")
        self.characters = characters
        self.fallback = fallback
        self._first = 1 if fallback == "unknown" else 256
        self._spec = TokenSpec(
            modality=TEXT.name,
            vocab_size=self._first + len(characters),
            axes=("time",),
            step=(1,) if fallback == "unknown" else (None,),
            lossless=fallback == "bytes",
        )

    def decode(self, ids: Tensor) -> str:
        """Decode ids ``(time,)``; unknown ones, and bytes that are not UTF-8, as a model may sample them, become U+FFFD.

        Raises:
            TypeError: the ids are not an integer tensor.
            ValueError: not one axis, or an id outside the vocabulary.
        """
        numbers = check_ids(ids, self._spec).numpy()
        if self.fallback == "bytes" and (numbers < self._first).any():
            return b"".join(self._tokens[i] for i in numbers.tolist()).decode("utf-8", errors="replace")
        data: bytes = self._points[numbers].tobytes()
        return data.decode("utf-32-le")

    def tokens(self, ids: Tensor) -> list[bytes]:
        """Return the bytes of each id ``(time,)``.

        Raises:
            TypeError: the ids are not an integer tensor.
            ValueError: not one axis, or an id outside the vocabulary.
        """
        return [self._tokens[i] for i in check_ids(ids, self._spec).tolist()]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        return cls(**read_options(folder, NAME, {"characters": str, "fallback": str}))

    def options(self) -> dict[str, Any]:
        """See `VocabularyTokenizer.options`."""
        return {"characters": self.characters, "fallback": self.fallback}

    def divide(self, texts: Texts) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """See `VocabularyTokenizer.divide`."""
        import numpy as np

        points, lengths = texts.code_points()
        ids = np.take(self._ids, points, mode="clip")
        if self.fallback == "unknown" or not (absent := ids == _ABSENT).any():
            return ids, lengths
        others = points[absent]
        sizes = np.ones(len(ids), np.int64)
        sizes[absent] += (others >= 0x80).astype(np.int64) + (others >= 0x800) + (others >= 0x10000)
        ids = np.repeat(ids, sizes)
        ids[np.repeat(absent, sizes)] = np.frombuffer(others.tobytes().decode("utf-32-le").encode("utf-8"), np.uint8)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        return ids, np.diff(ends[np.concatenate([[0], np.cumsum(lengths)])])

    @cached_property
    def _ids(self) -> NDArray[np.uint32]:
        """The id of each code point; what is beyond the table is as the last, which no character is."""
        import numpy as np

        points = self._points[-len(self.characters) :] if self.characters else self._points[:0]
        table = np.full(int(points.max(initial=0)) + 2, _ABSENT if self.fallback == "bytes" else 0, np.uint32)
        table[points] = np.arange(self._first, self._first + len(points), dtype=np.uint32)
        return table

    @cached_property
    def _points(self) -> NDArray[np.uint32]:
        """The code point of each id; U+FFFD for what is none."""
        import numpy as np

        return np.frombuffer((UNKNOWN * self._first + self.characters).encode("utf-32-le"), "<u4")

    @cached_property
    def _tokens(self) -> list[bytes]:
        first = [bytes([i]) for i in range(256)] if self.fallback == "bytes" else [UNKNOWN.encode()]
        return [*first, *(character.encode() for character in self.characters)]


@dataclass(frozen=True)
class TrainCharsOptions:
    """Make a tokenizer of characters: those that the text has, the most frequent ones first."""

    summary: ClassVar[str] = "make a tokenizer of the characters that a text has"
    examples: ClassVar[tuple[str, ...]] = (
        "train chars --data corpus.txt --out tokenizers/chars",
        "train chars --data 'logs/**/*.jsonl.zst' --field body --fallback unknown --vocab-size 128 --out tokenizers/chars",
    )

    data: tuple[str, ...]
    """Text to count: txt, jsonl, json, csv, tsv, parquet, tar (also compressed), folders, globs, fsspec URLs, pipes or -."""
    out: str
    """Folder for the tokenizer."""
    fallback: Fallback = "bytes"
    """What characters outside the vocabulary become: bytes, 256 more ids with which every text comes back as it was; or one
    unknown id, with which a text has as many ids as characters."""
    vocab_size: int | None = None
    """How many ids, with those of the fallback; None takes every character that is frequent enough."""
    min_frequency: int = 1
    """Characters that are rarer than this are left to the fallback."""
    field: str = "text"
    """Where the text is: a field of JSON, a column of a table or of a parquet file, an ending in a tar."""
    limit: int | None = None
    """Read only so many documents; one longer than 1 MiB counts as several."""
    max_failures: int = 1000
    """Stop when more documents than this cannot be read; each is told with its reason, and the number is in the result."""

    def __post_init__(self) -> None:
        least = 256 if self.fallback == "bytes" else 1
        if self.vocab_size is not None and self.vocab_size <= least:
            raise ValueError(
                f"vocab_size {self.vocab_size} leaves no id for a character beside the {least} of the fallback "
                f"{self.fallback}; use {least + 1} or more"
            )
        if self.min_frequency < 0:
            raise ValueError(f"min_frequency {self.min_frequency} is negative")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit {self.limit} is below 1")


def train_chars(options: TrainCharsOptions, progress: Progress | None = None) -> VocabularyResult:
    """Count the characters of texts and save the tokenizer of the most frequent ones; of equal counts the lower code point.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: the data has no text, its first file no such field, or ``options.out`` holds another tokenizer.
        TooManyFailuresError: more than ``options.max_failures`` documents, or all of them, cannot be read.
    """
    import numpy as np

    began = time.monotonic()
    check_kind(options.out, NAME)
    counts = np.zeros(_CODES, np.int64)
    corpus = Corpus(
        options.data, options.field, _PIECE_BYTES, options.limit, progress, options.max_failures, options.out
    )
    for texts in corpus.blocks():
        found = np.bincount(texts.code_points()[0])
        counts[: len(found)] += found
    if not corpus.bytes_read:
        raise ValueError(f"{', '.join(options.data)} has no text to train on")
    points = np.flatnonzero(counts >= max(1, options.min_frequency))
    points = points[np.argsort(-counts[points], kind="stable")]
    if options.vocab_size is not None:
        points = points[: options.vocab_size - (256 if options.fallback == "bytes" else 1)]
    tokenizer = CharsTokenizer(points.astype("<u4").tobytes().decode("utf-32-le"), options.fallback)
    save_as(tokenizer, options.out)
    return VocabularyResult(
        out=options.out,
        fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.spec.max_vocab_size,
        distinct=int(np.count_nonzero(counts)),
        coverage=round(float(counts[points].sum() / counts.sum()), 6),
        documents=corpus.documents,
        bytes_read=corpus.bytes_read,
        failures=corpus.failures,
        seconds=round(time.monotonic() - began, 3),
    )
