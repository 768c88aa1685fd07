"""Words: each one of a vocabulary is an id; the tokenizer, and ``train words``, which counts them.

A text is divided into words (letters, marks, digits and ``_``, with an apostrophe or joiner between two of them), and every
other character by itself: marks of punctuation, ideographs, which are written without spaces, and white space. What is most
common has no id: a single space between something and a word.

    He said: "Don't  go."
    He | said | : | (space) | " | (joined) | Don't | (space) | (space) | go | . | "

Where a word follows a mark without a space there is the id `JOINED`, and any other white space has an id for each of its
characters. So the ids say exactly which white space there was, and a text that has only known words comes back as it was.
Unknown words do not, and case does not where it is folded: the tokenizer is lossy.

Words are found by numpy in the code points of a whole batch, looked up and counted by Arrow. What a letter is, the tables of
Python say; those of a later version know more scripts.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from tokenize_kit.modalities.text import TEXT
from tokenize_kit.protocol import (
    TokenSpec,
    check_ids,
    check_kind,
    read_options,
    save_as,
)
from tokenize_kit.tokenizers.text.corpus import Corpus, VocabularyResult
from tokenize_kit.tokenizers.text.engines import PART_BYTES, Texts, utf8
from tokenize_kit.tokenizers.text.vocabulary import VocabularyTokenizer

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.progress import Progress

NAME = "words"
UNKNOWN, JOINED = 0, 1
"""The id of every word that the vocabulary does not have, and that of a word that follows a mark without a space."""
UNKNOWN_TEXT = "<unk>"
"""What an unknown word decodes to."""

_FIRST = 2
_OTHER, _WORD, _SPACE, _INSIDE = 0, 1, 2, 3
# Inside a word, but only there: apostrophes, and the joiners with which some scripts choose the forms of letters.
_INNER = "'\u2019\u200c\u200d"
# Where letters are looked for. Ideographs are left out: there are no spaces between them, so a run of them is no word.
_LETTERS = ((0, 0x3400), (0x4DC0, 0x4E00), (0xA000, 0xF900), (0xFB00, 0x20000), (0xE0100, 0xE01F0))
_PIECE_BYTES = 1 << 20


class WordsTokenizer(VocabularyTokenizer):
    """Words, marks and white space to ids ``(time,)`` and back; see the module for how a text is divided.

    Args:
        words: those with an id of their own, in the order of the ids, which begin at 2.
        lowercase: whether the case of letters is folded first.

    Raises:
        ValueError: a word is no str, is empty, comes twice or has a lone surrogate.
    """

    name = NAME

    def __init__(self, words: Sequence[str], lowercase: bool = False) -> None:
        self.words = tuple(words)
        self.lowercase = lowercase
        for word in self.words:
            if type(word) is not str or not word:
                raise ValueError(f"the vocabulary has {word!r}, which is no word")
            utf8(word, f"the word {word!r}")
        if len(set(self.words)) < len(self.words):
            twice, _ = Counter(self.words).most_common(1)[0]
            raise ValueError(f"the word {twice!r} is twice in the vocabulary")
        self._spec = TokenSpec(
            modality=TEXT.name, vocab_size=_FIRST + len(self.words), axes=("time",), step=(None,), lossless=False
        )

    def decode(self, ids: Tensor) -> str:
        """Decode ids ``(time,)``: a space before each word that follows a word or a mark, unless the ids say otherwise.

        Raises:
            TypeError: the ids are not an integer tensor.
            ValueError: not one axis, or an id outside the vocabulary.
        """
        return b"".join(self.tokens(ids)).decode("utf-8")

    def tokens(self, ids: Tensor) -> list[bytes]:
        """Return the bytes that each id ``(time,)`` stands for here, with the space before it that has no id.

        Raises:
            TypeError: the ids are not an integer tensor.
            ValueError: not one axis, or an id outside the vocabulary.
        """
        shown = []
        apart = False
        for i in check_ids(ids, self._spec).tolist():
            content, kind = self._spelled[i]
            shown.append(b" " + content if apart and kind == _WORD else content)
            apart = kind != _SPACE
        return shown

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        return cls(**read_options(folder, NAME, {"words": list, "lowercase": bool}))

    def options(self) -> dict[str, Any]:
        """See `VocabularyTokenizer.options`."""
        return {"words": list(self.words), "lowercase": self.lowercase}

    def divide(self, texts: Texts) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """See `VocabularyTokenizer.divide`."""
        import numpy as np
        import pyarrow.compute as pc

        parts = divided(texts, self.lowercase)
        found = pc.fill_null(pc.index_in(parts.words, value_set=self._known), UNKNOWN - _FIRST)
        ids = (found.to_numpy(zero_copy_only=False) + _FIRST).astype(np.uint32)
        sizes = np.where(parts.joined, 2, np.where(parts.implied, 0, 1))
        ends = np.concatenate([[0], np.cumsum(sizes)])
        values = np.repeat(ids, sizes)
        values[ends[:-1][parts.joined]] = JOINED
        return values, np.diff(ends[parts.offsets])

    @cached_property
    def _known(self) -> pa.Array:
        import pyarrow as pa

        return pa.array(self.words, pa.large_string())

    @cached_property
    def _spelled(self) -> list[tuple[bytes, int]]:
        """The bytes and the class of each id; a joined word is as one after white space."""
        kinds = _classes()
        told = [(word.encode(), int(kinds[min(ord(word[0]), len(kinds) - 1)])) for word in self.words]
        return [(UNKNOWN_TEXT.encode(), _WORD), (b"", _SPACE), *told]


class Divided(NamedTuple):
    """A batch of texts in words, marks and characters of white space, n in all."""

    words: pa.Array
    """Large strings (n,), which joined are the texts."""
    offsets: NDArray[np.int64]
    """(texts + 1,), where among them each text begins, and the last one ends."""
    implied: NDArray[np.bool_]
    """(n,), the single spaces before a word that need no id."""
    joined: NDArray[np.bool_]
    """(n,), the words after a mark without a space."""


def divided(texts: Texts, lowercase: bool = False) -> Divided:
    """Divide texts as the module says, with the case of letters folded if ``lowercase``."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    points, lengths = texts.code_points()
    kinds = np.take(_classes(), points, mode="clip")
    begins = np.zeros(len(points) + 1, dtype=bool)  # of a text, with an end for the last one
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    begins[offsets] = True
    word = kinds == _WORD
    (inner,) = np.nonzero(kinds == _INSIDE)
    kinds[inner] = _OTHER
    inner = inner[(inner > 0) & (inner < len(points) - 1)]
    inner = inner[word[inner - 1] & word[inner + 1] & ~begins[inner] & ~begins[inner + 1]]
    kinds[inner] = _WORD
    word[inner] = True
    # A word goes on where both this character and the one before are of one.
    starts = begins[:-1].copy()
    starts[1:] |= ~(word[1:] & word[:-1])
    (places,) = np.nonzero(starts)
    kinds = kinds[places]
    first = begins[places]
    last = np.append(first[1:], True)  # of its text
    is_word, is_space = kinds == _WORD, kinds == _SPACE
    after_space, after_mark = _shifted(is_space), _shifted(kinds == _OTHER)
    before_word = np.append(is_word[1:], False) & ~last
    implied = is_space & (points[places] == ord(" ")) & ~first & ~after_space & before_word
    joined = is_word & ~first & after_mark
    (leads,) = np.nonzero((texts.data & 0xC0) != 0x80)
    edges = np.append(leads[places], len(texts.data)).astype(np.int64)
    words = pa.LargeStringArray.from_buffers(
        len(places), pa.py_buffer(edges), pa.py_buffer(np.ascontiguousarray(texts.data))
    )
    where = np.searchsorted(places, offsets)
    return Divided(pc.utf8_lower(words) if lowercase else words, where, implied, joined)


def _shifted(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the flag of the one before each."""
    import numpy as np

    return np.concatenate([np.zeros(min(1, len(flags)), dtype=bool), flags[:-1]])


@cache
def _classes() -> NDArray[np.uint8]:
    """Return what each code point is; planes beyond the table have none but marks, as the last entry says."""
    import unicodedata

    import numpy as np

    table = np.full(0xE0200, _OTHER, np.uint8)
    for start, stop in _LETTERS:
        for point in range(start, stop):
            category = unicodedata.category(chr(point))
            if category[0] in "LMN" or category == "Pc":
                table[point] = _WORD
            elif chr(point).isspace():
                table[point] = _SPACE
    table[[ord(character) for character in _INNER]] = _INSIDE
    return table


@dataclass(frozen=True)
class TrainWordsOptions:
    """Make a tokenizer of words: the most frequent ones that the text has. It loses the others."""

    summary: ClassVar[str] = "make a tokenizer of the most frequent words of a text"
    examples: ClassVar[tuple[str, ...]] = (
        "train words --data corpus.txt --out tokenizers/words --vocab-size 10000",
        "train words --data 'logs/**/*.jsonl.zst' --field body --lowercase --min-frequency 5 --out tokenizers/words",
    )

    data: tuple[str, ...]
    """Text to count: txt, jsonl, json, csv, tsv, parquet, tar (also compressed), folders, globs, fsspec URLs, pipes or -."""
    out: str
    """Folder for the tokenizer."""
    vocab_size: int = 32_000
    """How many ids, with those of unknown words and of words without a space before them."""
    lowercase: bool = False
    """Fold the case of letters, so that a word at the beginning of a sentence is the same word."""
    min_frequency: int = 1
    """Words that are rarer than this are unknown."""
    field: str = "text"
    """Where the text is: a field of JSON, a column of a table or of a parquet file, an ending in a tar."""
    limit: int | None = None
    """Read only so many documents; one longer than 1 MiB counts as several."""
    max_failures: int = 1000
    """Stop when more documents than this cannot be read; each is told with its reason, and the number is in the result."""

    def __post_init__(self) -> None:
        if self.vocab_size <= _FIRST:
            raise ValueError(f"vocab_size {self.vocab_size} leaves no id for a word; use {_FIRST + 1} or more")
        if self.min_frequency < 0:
            raise ValueError(f"min_frequency {self.min_frequency} is negative")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit {self.limit} is below 1")


def train_words(options: TrainWordsOptions, progress: Progress | None = None) -> VocabularyResult:
    """Count the words of texts and save the tokenizer of the most frequent ones; of equal counts those with lower code points.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: the data has no text, its first file no such field, or ``options.out`` holds another tokenizer.
        TooManyFailuresError: more than ``options.max_failures`` documents, or all of them, cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    began = time.monotonic()
    check_kind(options.out, NAME)
    counts: Counter[str] = Counter()
    corpus = Corpus(
        options.data, options.field, _PIECE_BYTES, options.limit, progress, options.max_failures, options.out
    )
    for texts in corpus.blocks():
        for part in texts.parts(PART_BYTES):
            parts = divided(part, options.lowercase)
            found = pc.value_counts(parts.words.filter(pa.array(~parts.implied)))
            for word, count in zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True):
                counts[word] += count
    if not counts:
        raise ValueError(f"{', '.join(options.data)} has no text to train on")
    least = max(1, options.min_frequency)
    words = sorted((word for word, count in counts.items() if count >= least), key=lambda word: (-counts[word], word))
    words = words[: options.vocab_size - _FIRST]
    tokenizer = WordsTokenizer(words, options.lowercase)
    save_as(tokenizer, options.out)
    return VocabularyResult(
        out=options.out,
        fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.spec.max_vocab_size,
        distinct=len(counts),
        coverage=round(sum(counts[word] for word in words) / counts.total(), 6),
        documents=corpus.documents,
        bytes_read=corpus.bytes_read,
        failures=corpus.failures,
        seconds=round(time.monotonic() - began, 3),
    )
