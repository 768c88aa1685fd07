"""Byte-level BPE: any text, and any bytes, to ids and back without loss.

The tokenizer is stored as the ecosystem's own ``tokenizer.json``. Reading the formats of others is in `text.formats`, the
engines that do the work in `text.engines`, and training in `trainers.bpe.train`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tokenize_kit.files import atomic_write
from tokenize_kit.modalities.text import TEXT
from tokenize_kit.protocol import (
    Tokenizer,
    TokenSpec,
    check_ids,
    check_target,
    fingerprint_of,
    read_config,
    write_config,
)
from tokenize_kit.protocol.special import unknown_special
from tokenize_kit.tokenizers.text import formats
from tokenize_kit.tokenizers.text.engines import Engine, Texts, best_engine, utf8
from tokenize_kit.tokenizers.text.formats import Definition
from tokenize_kit.tokenizers.text.special import special_engine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.protocol import Sample

__all__ = ["TOKENIZER_FILE", "BPETokenizer"]

TOKENIZER_FILE = "tokenizer.json"

# UTF-8 never has these bytes, so a vocabulary without them still encodes every text.
_NEVER_IN_UTF8 = frozenset({0xC0, 0xC1, *range(0xF5, 0x100)})


class BPETokenizer(Tokenizer):
    """Byte-level BPE over text: a str to ids ``(time,)`` and back.

    Special tokens in a text are text, unless `allowing` or ``allow_special`` asks for their ids. The engine is the fastest one
    that agrees with the ``tokenizers`` package on this vocabulary; see `tokenize_kit.tokenizers.text.engines`.
    """

    def __init__(self, definition: Definition, fast: bool = True) -> None:
        """Build from a ``tokenizer.json`` dictionary; see the class methods for files.

        Args:
            definition: byte-level BPE, as `tokenize_kit.tokenizers.text.formats` makes or reads it.
            fast: False always uses the reference, ``tokenizers``.

        Raises:
            ValueError: it is not byte-level BPE, or damaged.
        """
        self._definition = formats.check_definition(definition)
        self._fast = fast
        self._file: bytes | None = None  # what it was loaded from: a large vocabulary takes long to spell out again
        self._added = formats.added_tokens(self._definition)
        self._special: Engine | None = None  # the engine of one that `allowing` made
        self._allowing: dict[frozenset[str], Self] = {}
        tokens = {i: formats.to_bytes(token) for token, i in self._definition["model"]["vocab"].items()}
        tokens |= {i: token.content.encode() for i, token in self._added.items()}
        # Some vocabularies have ids that no token uses; they decode to nothing.
        self._tokens = [tokens.get(i, b"") for i in range(max(tokens) + 1)]
        self._byte_ids = {token[0]: i for i, token in sorted(tokens.items(), reverse=True) if len(token) == 1}
        missing = frozenset(range(256)) - self._byte_ids.keys()
        self._unencodable = missing - _NEVER_IN_UTF8
        self._missing = missing
        self._spec = TokenSpec(
            modality="text",
            vocab_size=len(self._tokens),
            axes=("time",),
            step=(None,),
            lossless=not self._unencodable and not formats.changes_text(self._definition),
        )

    @property
    def spec(self) -> TokenSpec:
        """Modality text, one axis ``time``, and the size of the vocabulary with its special tokens."""
        return self._spec

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over vocabulary, merges, pattern, normalizer and special tokens."""
        return fingerprint_of("bpe", formats.identity(self._definition, self._added))

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens and their ids."""
        return {token.content: i for i, token in self._added.items() if token.special}

    @property
    def engine(self) -> str:
        """Name of the engine in use: ``gigatoken`` or ``tokenizers``."""
        return self._active.name

    @cached_property
    def _engine(self) -> Engine:
        return best_engine(formats.without_special(self._definition, self._added), self._fast)

    @property
    def _active(self) -> Engine:
        """The engine that encodes texts."""
        return self._special or self._engine

    def allowing(self, tokens: Collection[str]) -> Self:
        """Return this tokenizer, but one that gives some special tokens their ids wherever they stand in a text.

        Ids, fingerprint and folder are the same. Added tokens that are not special are found in any case.

        Args:
            tokens: the special tokens, as they are spelt.

        Raises:
            ValueError: one of them is no token of this kind; the message names those that there are.
        """
        known = {token.content for token in self._added.values()}
        if unknown := sorted(set(tokens) - known):
            raise ValueError(unknown_special(unknown[0], self.special_tokens))
        chosen = frozenset(tokens).intersection(self.special_tokens)
        if chosen not in self._allowing:
            one = copy(self)
            one._special = special_engine(self._definition, self._added, chosen, self._engine) if chosen else None
            self._allowing[chosen] = one
        return self._allowing[chosen]

    def encode(self, sample: Sample, allow_special: bool | Collection[str] = False) -> Tensor:
        """Encode one text.

        Args:
            sample: a str.
            allow_special: whether special tokens in the text become their ids, or which do; by default they are text like any
                other. See `allowing`, which also serves batches.

        Returns:
            ids ``(time,)``, int64.

        Raises:
            TypeError: the sample is not a str.
            ValueError: it has a lone surrogate, or needs a byte that the vocabulary lacks; or a token that is allowed is none.
        """
        import torch

        if allow_special:
            allowed = self.special_tokens if allow_special is True else allow_special
            return self.allowing(allowed).encode(sample)
        text = TEXT.check(sample, self._spec)
        data = utf8(text)
        self._check_bytes(data)
        return torch.from_numpy(self._active.encode(data).astype("int64"))

    def decode(self, ids: Tensor) -> str:
        """Decode ids ``(time,)``; bytes that are not UTF-8, as a model may sample them, become U+FFFD.

        Raises:
            TypeError: the ids are not an integer tensor.
            ValueError: not one axis, or an id outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def encode_batch(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Encode many texts at once; equal to `encode` one by one, and faster."""
        import torch

        values, lengths = self.encode_ragged(list(samples))
        return list(torch.split(torch.from_numpy(values.astype("int64")), lengths.tolist())) if len(lengths) else []

    def encode_ragged(self, texts: Any) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode many texts into one flat array: the fast path of the shard writer.

        Args:
            texts: a sequence of str, or a pyarrow string or large_string array (no copy is made of a large_string one).

        Returns:
            all ids one text after another, uint32, and the number of ids of each text, int64.

        Raises:
            TypeError: the texts are something else.
            ValueError: a text is null or has a lone surrogate; names which.
        """
        batch = Texts.of(texts)
        self._check_bytes(batch.data)
        return self._active.encode_ragged(batch)

    def encode_bytes(self, data: bytes) -> Tensor:
        """Encode any bytes: the stretches that are UTF-8 as text, every other byte as its own token.

        Returns:
            ids ``(time,)``, int64, for which `decode_bytes` gives ``data`` back.

        Raises:
            ValueError: the vocabulary lacks a byte that is needed, or changes text (a normalizer).
        """
        import numpy as np
        import torch

        if not self._spec.lossless and formats.changes_text(self._definition):
            raise ValueError("this tokenizer changes text (a normalizer or a prefix space), so it cannot keep bytes")
        self._check_bytes(data)
        # surrogateescape marks each wrong byte with one character of U+DC80..U+DCFF, which no valid stretch has.
        parts: list[str] = re.split("([\udc80-\udcff]+)", data.decode("utf-8", errors="surrogateescape"))
        values, lengths = self.encode_ragged(parts[0::2])
        ends = np.cumsum(lengths)
        pieces: list[NDArray[np.uint32]] = []
        for i, part in enumerate(parts):
            if i % 2 == 0:
                pieces.append(values[ends[i // 2] - lengths[i // 2] : ends[i // 2]])
            else:
                pieces.append(np.array([self._byte_ids[ord(c) - 0xDC00] for c in part], dtype=np.uint32))
        return torch.from_numpy(np.concatenate(pieces).astype(np.int64))

    def decode_bytes(self, ids: Tensor) -> bytes:
        """Decode ids ``(time,)`` to the bytes that they stand for.

        Raises:
            TypeError: the ids are not an integer tensor.
            ValueError: not one axis, or an id outside the vocabulary.
        """
        return b"".join(self.tokens(ids))

    def tokens(self, ids: Tensor) -> list[bytes]:
        """Return the bytes of each id ``(time,)``, which need not be whole characters.

        Raises:
            TypeError: the ids are not an integer tensor.
            ValueError: not one axis, or an id outside the vocabulary.
        """
        return [self._tokens[i] for i in check_ids(ids, self._spec).tolist()]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer.json``, which `tokenizers` and `transformers` open, and the configuration.

        Raises:
            ValueError: the folder already holds another tokenizer.
        """
        folder = check_target(folder, self)
        with atomic_write(folder / TOKENIZER_FILE) as file:
            file.write(self._file or formats.dump_definition(self._definition))
        write_config(folder, self, {}, [TOKENIZER_FILE])

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged.
        """
        read_config(folder)
        path = Path(folder) / TOKENIZER_FILE
        tokenizer = cls(formats.read_tokenizer_json(path))
        tokenizer._file = path.read_bytes()
        return tokenizer

    @classmethod
    def from_tokenizer_json(cls, path: str | os.PathLike[str]) -> Self:
        """Import a ``tokenizer.json`` of byte-level BPE, or the one in a folder; the ids stay the same.

        Raises:
            FileNotFoundError: it does not exist.
            ValueError: it is another kind of tokenizer, or damaged.
        """
        return cls(formats.read_tokenizer_json(path))._checked()

    @classmethod
    def from_gpt2(cls, vocab: str | os.PathLike[str], merges: str | os.PathLike[str]) -> Self:
        """Import GPT-2's ``vocab.json`` or ``encoder.json`` and ``merges.txt`` or ``vocab.bpe``; the ids stay the same.

        Raises:
            FileNotFoundError: a file does not exist.
            ValueError: a file is damaged, or the two are not of one model.
        """
        return cls(formats.read_gpt2(vocab, merges))._checked()

    @classmethod
    def from_tiktoken(
        cls, path: str | os.PathLike[str], pattern: str, special_tokens: Mapping[str, int] | None = None
    ) -> Self:
        """Import a ``.tiktoken`` rank file; the ids stay the same.

        Args:
            path: the file.
            pattern: ``gpt2`` (r50k, p50k), ``cl100k``, ``o200k``, or a regex.
            special_tokens: the special tokens with their ids, which the file does not have.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is damaged, or an id is taken.
        """
        return cls(formats.read_tiktoken(path, pattern, special_tokens))._checked()

    def _checked(self) -> Self:
        """Build the engine now: what was imported may be refused by it."""
        assert self._engine is not None
        return self

    def _check_bytes(self, data: bytes | NDArray[np.uint8]) -> None:
        """Raise ValueError if ``data`` has a byte without a token: the reference would drop it without a word."""
        if not self._missing:
            return
        import numpy as np

        counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
        lacking = [byte for byte in sorted(self._missing) if counts[byte]]
        if lacking:
            raise ValueError(
                f"the vocabulary has no token for byte 0x{lacking[0]:02x}, which the text needs; "
                f"use a tokenizer with all 256 bytes"
            )
