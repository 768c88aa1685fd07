"""Blocks of samples: what every reader gives, and the rules that all of them share.

A block is some hundred samples (or some megabytes) that are encoded together. What cannot be read becomes a `Failure` in the
block, and reading goes on behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenize_kit.media.subtitles import Subtitles
from tokenize_kit.sources.cutting import cut_record
from tokenize_kit.sources.json_values import LongInteger, as_float
from tokenize_kit.sources.names import without_surrogates
from tokenize_kit.sources.planning import Piece, ReadOptions
from tokenize_kit.sources.stored import StoredFile

MAX_MEMBER_BYTES = 1 << 30
"""A file of a sample above this is refused before it is read."""

MAX_BLOCK_SAMPLES = 256
MAX_BLOCK_BYTES = 8 << 20

COLUMN_TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
"""The types that an extra column may have."""

_SHOWN = 80
"""So much of a wrong value is quoted."""

Content: TypeAlias = str | bytes | NDArray[np.uint8] | StoredFile | Subtitles
"""What a sample has of one modality: text is decoded already, everything else is the bytes of a file.

A container that holds bare pixels hands on a picture as a uint8 array ``(C, H, W)``. A film, and the sound that goes with it, is
not read before it is decoded, and subtitles keep their times, for their film may be cut.
"""


@dataclass(frozen=True)
class Failure:
    """A sample that could not be read."""

    key: str
    reason: str
    at: int = 0
    """How many samples of its block stand before it."""
    samples: int = 1
    """How many samples are known to be lost by it: the rows of a table without the column, say."""
    incomplete: bool = False
    """Whether nothing is damaged, but a part of the sample is not there; such are counted apart."""

    def to_dict(self) -> dict[str, Any]:
        """Return its line of failures.jsonl; `from_dict` is its inverse."""
        values: dict[str, Any] = {"key": self.key, "reason": self.reason}
        if self.samples != 1:
            values["samples"] = self.samples
        return {**values, "incomplete": True} if self.incomplete else values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Failure:
        """Read a line of failures.jsonl."""
        samples, incomplete = values.get("samples", 1), values.get("incomplete", False)
        return cls(values["key"], values["reason"], samples=samples, incomplete=incomplete)


def count_lost(failures: Iterable[Failure]) -> int:
    """Return how many samples the failures stand for, without those that are only incomplete."""
    return sum(failure.samples for failure in failures if not failure.incomplete)


def count_incomplete(failures: Iterable[Failure]) -> int:
    """Return how many samples of them are incomplete and counted apart."""
    return sum(failure.samples for failure in failures if failure.incomplete)


@dataclass
class SampleBlock:
    """Consecutive samples."""

    keys: Sequence[str] | pa.Array
    """One a sample."""
    contents: dict[str, Sequence[Content] | pa.Array]
    """For each source one content a sample; an Arrow array of large strings if it came as one."""
    columns: dict[str, Sequence[Any] | pa.Array]
    """For each extra column one value a sample."""
    size: int
    """Bytes of input that were read for it."""
    failures: list[Failure] = field(default_factory=list)
    """Samples that are not in the block because they could not be read."""

    def __len__(self) -> int:
        return len(self.keys)

    def head(self, count: int) -> SampleBlock:
        """Return the block with only its first ``count`` samples, and the failures among them."""
        return SampleBlock(
            self.keys[:count],
            {name: values[:count] for name, values in self.contents.items()},
            {name: values[:count] for name, values in self.columns.items()},
            self.size,
            [failure for failure in self.failures if failure.at < count],
        )


class Collector:
    """Collects single samples and failures into blocks."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._clear()

    def _clear(self) -> None:
        self.size = 0
        """Bytes of input that were read; the readers add to it."""
        self._bytes = 0
        self._keys: list[str] = []
        self._contents: dict[str, list[Content]] = {source.name: [] for source in self._options.sources}
        self._columns: dict[str, list[Any]] = {name: [] for name in self._options.columns}
        self._failures: list[Failure] = []

    def add(self, key: str, contents: Mapping[str, Content], columns: Mapping[str, Any]) -> None:
        """Add a sample; raises ValueError if a column has a value of another type than the plan says."""
        ready = {name: as_column(name, columns.get(name), kind) for name, kind in self._options.columns.items()}
        self._keys.append(key)
        for name, values in self._contents.items():
            values.append(contents[name])
            self._bytes += size_of(contents[name])
        for name, value in ready.items():
            self._columns[name].append(value)

    def fail(self, key: str, reason: str, samples: int = 1, *, incomplete: bool = False) -> None:
        """Record a sample that cannot be read or is incomplete, or as many as are known to be lost."""
        apart = incomplete and self._options.incomplete == "skip"
        at = len(self._keys)
        self._failures.append(Failure(without_surrogates(key), without_surrogates(reason), at, samples, apart))

    @property
    def samples(self) -> int:
        """How many samples there are since the last `take`."""
        return len(self._keys)

    @property
    def full(self) -> bool:
        """Whether it is time for `take`."""
        samples = len(self._keys) + len(self._failures)
        return samples >= MAX_BLOCK_SAMPLES or self._bytes >= MAX_BLOCK_BYTES

    def take(self) -> SampleBlock:
        """Return what was collected and begin anew."""
        contents: dict[str, Sequence[Content] | pa.Array] = dict(self._contents)
        block = SampleBlock(self._keys, contents, dict(self._columns), self.size, self._failures)
        self._clear()
        return block

    @property
    def pending(self) -> bool:
        """Whether anything was collected or read since the last `take`."""
        return bool(self._keys or self._failures or self.size)


def size_of(content: Content) -> int:
    """Return how much a content weighs: its bytes or characters, also those that are not read yet."""
    if isinstance(content, np.ndarray):
        return int(content.nbytes)
    return content.size if isinstance(content, StoredFile) else len(content)


Reader: TypeAlias = Callable[[Piece, ReadOptions, Collector], Iterator[SampleBlock]]
"""Reads a piece: yields blocks, or leaves samples in the collector for a later block."""


def text_name(options: ReadOptions) -> str:
    """Return the name of the one source of samples that are one text each."""
    assert options.text_only, "whole files and lines are samples only where a sample is one text"
    return options.sources[0].name


def add_long_text(out: Collector, key: str, text: str, columns: Mapping[str, Any], options: ReadOptions) -> None:
    """Add a text, in parts if it is longer than the limit."""
    limit, name = options.max_document_bytes, text_name(options)
    if len(text) * 4 <= limit or len(data := text.encode()) <= limit:
        out.add(key, {name: text}, columns)
        return
    for number, part in enumerate(cut_record(data, limit)):
        out.add(f"{key}#{number:05}", {name: part.decode()}, columns)


def as_column(name: str, value: Any, kind: str) -> Any:
    """Return a value as the type of an extra column; None stays None.

    Raises:
        ValueError: it is of another type.
    """
    if value is None:
        return None
    if kind == "string":
        text = _as_text(value)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"column {name!r} has a lone surrogate") from None
        return text
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "int64" and isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    if kind == "float64" and isinstance(value, (int, float, LongInteger)) and not isinstance(value, bool):
        return as_float(value)
    raise ValueError(f"column {name!r} is {_shortened(value)}, expected {kind}")


def _as_text(value: Any) -> str:
    if isinstance(value, (str, LongInteger)):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _shortened(value: Any) -> str:
    text = str(value) if isinstance(value, LongInteger) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def fits(texts: pa.Array, limit: int, validate: bool = True) -> bool:
    """Whether an Arrow array of large strings is texts of at most ``limit`` bytes each: no nulls, UTF-8.

    ``validate`` False trusts that they are UTF-8.
    """
    if texts.null_count:
        return False
    if validate:
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid:
            return False
    longest = pc.max(pc.binary_length(texts)).as_py()
    return longest is None or bool(longest <= limit)


def read_sized(file: IO[bytes], size: int) -> bytes:
    """Read a file of ``size`` bytes.

    Raises:
        ValueError: it is larger than `MAX_MEMBER_BYTES`, or ends early.
    """
    if size > MAX_MEMBER_BYTES:
        raise ValueError(f"it has {size} bytes, the limit is {MAX_MEMBER_BYTES}")
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"it ends after {len(data)} of {size} bytes")
    return data


def one_line(error: Exception) -> str:
    """Return what an error says, as one line for the ledger."""
    return " ".join(str(error).split()) or type(error).__name__
