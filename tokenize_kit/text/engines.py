"""The engines that turn text into ids, and the gate that a fast one must pass.

``tokenizers`` is the reference. gigatoken is many times as fast, tiktoken a few times; either is used for a vocabulary only
after it gave the same ids as the reference on `probe_texts` for this very vocabulary, and else not at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tokenize_kit.text.formats import PATTERNS, Definition, merges_of_ranks, to_bytes
from tokenize_kit.text.probe import probe_texts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer as ReferenceTokenizer

    Ragged: TypeAlias = tuple[NDArray[np.uint32], NDArray[np.int64]]

log = logging.getLogger(__name__)


class Texts:
    """A batch of texts as one UTF-8 buffer and its offsets: the form that fast engines and Arrow share."""

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.data = data
        self.offsets = offsets

    @classmethod
    def of(cls, texts: Any) -> Texts:
        """Take a sequence of str, or a pyarrow string array (no copy for a large_string one).

        Raises:
            TypeError: it is something else; names the first place.
            ValueError: a text has a lone surrogate, or is null; names the place.
        """
        import numpy as np
        import pyarrow as pa

        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks()
        if not isinstance(texts, pa.Array):
            texts = _to_arrow(texts)
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            raise TypeError(f"texts are a sequence of str or an Arrow string array, got an array of {texts.type}")
        if texts.null_count:
            row = next(i for i, scalar in enumerate(texts) if not scalar.is_valid)
            raise ValueError(f"text {row} is null; drop it or make it an empty string")
        # An array that nothing was ever put into may have no buffers at all.
        if len(texts) == 0:
            return cls(np.zeros(0, np.uint8), np.zeros(1, np.int64))
        _, offsets, data = texts.buffers()
        kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
        places = np.frombuffer(offsets, kind)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64, copy=False)
        content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
        return cls(content[places[0] : places[-1]], places - places[0])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """Put batches one after another."""
        import numpy as np

        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(np.concatenate([part.data for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))

    def head(self, count: int) -> Texts:
        """Return the first ``count`` texts, or all if there are fewer."""
        offsets = self.offsets[: count + 1]
        return Texts(self.data[: offsets[-1]], offsets)

    def one(self, index: int) -> Texts:
        """Return a batch of one text."""
        offsets = self.offsets[index : index + 2]
        return Texts(self.data[offsets[0] : offsets[1]], offsets - offsets[0])

    def separated_by(self, byte: int) -> bytes:
        """Return all texts with ``byte`` after each."""
        import numpy as np

        out = np.full(len(self.data) + len(self), byte, dtype=np.uint8)
        kept = np.ones(len(out), dtype=bool)
        kept[self.offsets[1:] + np.arange(len(self))] = False
        out[kept] = self.data
        return out.tobytes()

    def strings(self) -> list[str]:
        """Return the texts as str objects, for engines that take nothing else."""
        content = self.data.tobytes()
        places = self.offsets.tolist()
        return [content[a:b].decode("utf-8") for a, b in pairwise(places)]


class Engine(Protocol):
    """Turns text into ids, special tokens being text."""

    name: str

    def encode(self, text: bytes) -> NDArray[np.uint32]:
        """Encode one UTF-8 text."""
        ...

    def encode_ragged(self, texts: Texts) -> Ragged:
        """Encode a batch; returns all ids in one array, and the number of ids of each text."""
        ...


class Reference:
    """The ``tokenizers`` package."""

    name = "tokenizers"

    def __init__(self, tokenizer: ReferenceTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: bytes) -> NDArray[np.uint32]:
        """See `Engine.encode`."""
        import numpy as np

        return np.array(self._tokenizer.encode(text.decode("utf-8"), add_special_tokens=False).ids, dtype=np.uint32)

    def encode_ragged(self, texts: Texts) -> Ragged:
        """See `Engine.encode_ragged`."""
        encodings = self._tokenizer.encode_batch_fast(texts.strings(), add_special_tokens=False)
        return _join([encoding.ids for encoding in encodings])


class GigaToken:
    """The gigatoken package; inside a worker process it keeps to the calling thread by itself."""

    name = "gigatoken"

    def __init__(self, definition: Definition) -> None:
        import gigatoken

        self._tokenizer = gigatoken.Tokenizer.from_json(json.dumps(definition, ensure_ascii=False))

    def encode(self, text: bytes) -> NDArray[np.uint32]:
        """See `Engine.encode`."""
        ids: NDArray[np.uint32] = self._tokenizer.encode(text)
        return ids

    def encode_ragged(self, texts: Texts) -> Ragged:
        """See `Engine.encode_ragged`."""
        import awkward as ak
        import numpy as np

        if len(texts) == 0:
            return np.zeros(0, np.uint32), np.zeros(0, np.int64)
        content = ak.contents.NumpyArray(texts.data, parameters={"__array__": "char"})
        lists = ak.contents.ListOffsetArray(
            ak.index.Index64(texts.offsets), content, parameters={"__array__": "string"}
        )
        layout = self._tokenizer.encode_batch(ak.Array(lists)).layout
        offsets = np.asarray(layout.offsets.data, dtype=np.int64)
        values = np.asarray(layout.content.data, dtype=np.uint32)
        return values[offsets[0] : offsets[-1]], np.diff(offsets)


class TikToken:
    """The tiktoken package, for vocabularies whose merges are what tiktoken derives from the ids."""

    name = "tiktoken"

    def __init__(self, definition: Definition) -> None:
        import tiktoken

        ranks, pattern = _ranks_and_pattern(definition)
        self._encoding = tiktoken.Encoding("tokenize-kit", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: bytes) -> NDArray[np.uint32]:
        """See `Engine.encode`."""
        return self._encoding.encode_to_numpy(text.decode("utf-8"), disallowed_special=())

    def encode_ragged(self, texts: Texts) -> Ragged:
        """See `Engine.encode_ragged`."""
        return _join(self._encoding.encode_ordinary_batch(texts.strings()))


def best_engine(definition: Definition, reference: Reference, fast: bool = True) -> Engine:
    """Return the fastest engine that agrees with ``reference`` on `probe_texts`, which may be the reference itself.

    Args:
        definition: the tokenizer, without its special tokens.
        reference: the ``tokenizers`` engine of the same definition.
        fast: False takes the reference at once.
    """
    if not fast:
        return reference
    texts: Texts | None = None
    expected: Ragged | None = None
    candidates: tuple[Callable[[Definition], Engine], ...] = (GigaToken, TikToken)
    for candidate in candidates:
        try:
            engine = candidate(definition)
        except Exception as error:
            # Not installed, or it does not know this pattern or normalizer: every package has its own errors.
            log.debug("engine %s does not apply: %s", getattr(candidate, "name", candidate), error)
            continue
        if texts is None or expected is None:
            texts = Texts.of(probe_texts(definition))
            expected = reference.encode_ragged(texts)
        if _agrees(engine, texts, expected):
            return engine
        log.info("engine %s gives other ids than tokenizers for this vocabulary and is not used", engine.name)
    return reference


def _agrees(engine: Engine, texts: Texts, expected: Ragged) -> bool:
    import numpy as np

    try:
        values, lengths = engine.encode_ragged(texts)
        if not (np.array_equal(values, expected[0]) and np.array_equal(lengths, expected[1])):
            return False
        # The path for one text is another one than that for a batch.
        whole = texts.data.tobytes()
        ends = np.concatenate([[0], np.cumsum(lengths)])
        return all(
            np.array_equal(engine.encode(whole[texts.offsets[i] : texts.offsets[i + 1]]), values[ends[i] : ends[i + 1]])
            for i in range(0, len(texts), 7)
        )
    except Exception as error:
        log.info("engine %s failed on the probe: %s", engine.name, error)
        return False


def _ranks_and_pattern(definition: Definition) -> tuple[dict[bytes, int], str]:
    """Return what tiktoken needs, or raise ValueError where it would not mean the same as ``definition``."""
    model = definition["model"]
    splitter = definition.get("pre_tokenizer") or {}
    if definition.get("normalizer") or definition.get("added_tokens") or not model.get("ignore_merges"):
        raise ValueError("a normalizer, added tokens or merges that are not ignored")
    if splitter.get("type") == "ByteLevel" and splitter.get("use_regex", True) and not splitter.get("add_prefix_space"):
        pattern = PATTERNS["gpt2"]
    else:
        steps = splitter.get("pretokenizers") or []
        if (
            len(steps) != 2
            or steps[0].get("type") != "Split"
            or steps[0].get("behavior") != "Isolated"
            or steps[0].get("invert")
            or steps[1].get("type") != "ByteLevel"
            or steps[1].get("use_regex", True)
            or steps[1].get("add_prefix_space", True)
        ):
            raise ValueError("other pre-tokenisation than one regex")
        pattern = steps[0]["pattern"]["Regex"]
    ranks = {to_bytes(token): rank for token, rank in model["vocab"].items()}
    # A probe cannot find every difference here, so the merges themselves are compared.
    if [tuple(pair) for pair in model["merges"]] != merges_of_ranks(ranks):
        raise ValueError("merges that do not follow from the ids")
    return ranks, pattern


def _join(rows: Sequence[Sequence[int]]) -> Ragged:
    import numpy as np

    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    values = np.empty(int(lengths.sum()), dtype=np.uint32)
    start = 0
    for row in rows:
        values[start : start + len(row)] = row
        start += len(row)
    return values, lengths


def _to_arrow(texts: Sequence[str]) -> Any:
    import pyarrow as pa

    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise TypeError(f"texts are a sequence of str, got one {type(texts).__name__}")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {row} is a {type(text).__name__}, expected str")
    try:
        return pa.array(texts, type=pa.large_string())
    except (UnicodeEncodeError, pa.ArrowException):
        for row, text in enumerate(texts):
            utf8(text, f"text {row}")
        raise


def utf8(text: str, what: str = "the text") -> bytes:
    """Return ``text`` as UTF-8.

    Raises:
        ValueError: it has a lone surrogate; names ``what`` and the position, in characters.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} has a lone surrogate U+{ord(text[error.start]):04X} at position {error.start}, which is no character; "
            f"remove or repair it, for example text.encode('utf-8', 'replace').decode()"
        ) from None
