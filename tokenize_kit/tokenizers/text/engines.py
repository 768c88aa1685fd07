"""The engines that turn text into ids, and the gate that a fast one must pass.

``tokenizers`` is the reference. gigatoken is many times as fast (18 to 25 times with everything around it,
``benchmarks/bpe_encoding.py``), and takes and gives ragged arrays as awkward has them; it is used for a vocabulary only
after it gave the same ids as the reference on `probe_texts` for this very vocabulary, and else not at all. (tiktoken would
be in between, but fails on a long run of spaces, and the patterns that it alone knows are rare.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tokenize_kit.tokenizers.text.characters import has_unassigned
from tokenize_kit.tokenizers.text.formats import Definition, dump_definition, reference_tokenizer
from tokenize_kit.tokenizers.text.probe import probe_texts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ragged: TypeAlias = tuple[NDArray[np.uint32], NDArray[np.int64]]

PART_BYTES = 1 << 20
"""How much text numpy is given at a time: about what the processor's cache holds with all that is noted of it."""

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

    @classmethod
    def one_text(cls, text: bytes) -> Texts:
        """Make a batch of one text."""
        import numpy as np

        return cls(np.frombuffer(text, np.uint8), np.array([0, len(text)], dtype=np.int64))

    def part(self, start: int, stop: int) -> Texts:
        """Return the texts from ``start`` to before ``stop``."""
        offsets = self.offsets[start : stop + 1]
        return Texts(self.data[offsets[0] : offsets[-1]], offsets - offsets[0])

    def parts(self, size: int) -> Iterator[Texts]:
        """Yield the texts in order, as many at a time as have about ``size`` bytes, one at least."""
        start = 0
        while start < len(self):
            stop = max(start + 1, int(self.offsets.searchsorted(self.offsets[start] + size, "right")) - 1)
            yield self.part(start, stop)
            start = stop

    def only(self, chosen: NDArray[np.bool_]) -> Texts:
        """Return the texts where ``chosen`` is true."""
        import numpy as np

        lengths = np.diff(self.offsets)
        return Texts(self.data[np.repeat(chosen, lengths)], np.concatenate([[0], np.cumsum(lengths[chosen])]))

    def unassigned(self) -> NDArray[np.bool_]:
        """Return for each text whether engines may disagree on a character of it, see `characters`."""
        return has_unassigned(self.data, self.offsets)

    def code_points(self) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return all characters as numbers, one text after another, and how many each text has."""
        import numpy as np

        points = np.frombuffer(self.data.tobytes().decode("utf-8").encode("utf-32-le"), "<u4")
        if len(points) == len(self.data):
            return points, np.diff(self.offsets)
        ends = np.concatenate([[0], np.cumsum((self.data & 0xC0) != 0x80, dtype=np.int64)])
        return points, np.diff(ends[self.offsets])

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

    def __init__(self, content: bytes) -> None:
        """Take the text of a ``tokenizer.json``; ValueError if the package refuses it."""
        self._tokenizer = reference_tokenizer(content)

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

    def __init__(self, content: bytes, reference: Engine) -> None:
        """Take the text of a ``tokenizer.json``; it must not have special tokens, which would be found in any text."""
        import gigatoken

        self._tokenizer = gigatoken.Tokenizer.from_json(content)
        self._reference = reference

    def encode(self, text: bytes) -> NDArray[np.uint32]:
        """See `Engine.encode`."""
        if not text.isascii() and Texts.one_text(text).unassigned().any():
            return self._reference.encode(text)
        ids: NDArray[np.uint32] = self._tokenizer.encode(text)
        return ids

    def encode_ragged(self, texts: Texts) -> Ragged:
        """See `Engine.encode_ragged`."""
        import numpy as np

        if len(texts) == 0:
            return np.zeros(0, np.uint32), np.zeros(0, np.int64)
        unassigned = texts.unassigned()
        if unassigned.any():
            return self._mixed(texts, unassigned)
        return self._encode_known(texts)

    def _mixed(self, texts: Texts, unassigned: NDArray[np.bool_]) -> Ragged:
        """Leave some texts to the reference."""
        import numpy as np

        parts = []
        borders = np.flatnonzero(unassigned[1:] != unassigned[:-1]) + 1
        for start, stop in pairwise([0, *borders.tolist(), len(texts)]):
            part = texts.part(start, stop)
            parts.append(self._reference.encode_ragged(part) if unassigned[start] else self._encode_known(part))
        return np.concatenate([values for values, _ in parts]), np.concatenate([lengths for _, lengths in parts])

    def _encode_known(self, texts: Texts) -> Ragged:
        import awkward as ak
        import numpy as np

        content = ak.contents.NumpyArray(texts.data, parameters={"__array__": "char"})
        lists = ak.contents.ListOffsetArray(
            ak.index.Index64(texts.offsets), content, parameters={"__array__": "string"}
        )
        layout = self._tokenizer.encode_batch(ak.Array(lists)).layout
        offsets = np.asarray(layout.offsets.data, dtype=np.int64)
        values = np.asarray(layout.content.data, dtype=np.uint32)
        return values[offsets[0] : offsets[-1]], np.diff(offsets)


def best_engine(definition: Definition, fast: bool = True) -> Engine:
    """Return gigatoken if it agrees with ``tokenizers`` on `probe_texts`, else ``tokenizers``.

    Args:
        definition: the tokenizer, without its special tokens.
        fast: False takes the reference at once.

    Raises:
        ValueError: ``tokenizers`` refuses the definition.
    """
    content = dump_definition(definition)
    reference = Reference(content)
    if not fast:
        return reference
    try:
        engine = GigaToken(content, reference)
    except Exception as error:
        # It does not know this pattern or normalizer.
        log.debug("gigatoken does not apply: %s", error)
        return reference
    if agrees(engine, reference, Texts.of(probe_texts(definition))):
        return engine
    log.info("gigatoken gives other ids than tokenizers for this vocabulary and is not used")
    return reference


def agrees(engine: Engine, reference: Engine, texts: Texts) -> bool:
    """Return whether two engines give the same ids for texts, all at once and one by one."""
    import numpy as np

    expected_values, expected_lengths = reference.encode_ragged(texts)
    try:
        values, lengths = engine.encode_ragged(texts)
        if not (np.array_equal(values, expected_values) and np.array_equal(lengths, expected_lengths)):
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


def encoded_in_parts(texts: Any, encode: Callable[[Texts], Ragged]) -> Ragged:
    """Encode texts (see `Texts.of`) some at a time: what is noted of each character is many times as large as the text."""
    import numpy as np

    parts = [encode(part) for part in Texts.of(texts).parts(PART_BYTES)]
    if not parts:
        return np.zeros(0, np.uint32), np.zeros(0, np.int64)
    return np.concatenate([values for values, _ in parts]), np.concatenate([lengths for _, lengths in parts])


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
