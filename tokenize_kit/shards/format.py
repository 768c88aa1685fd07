"""The shard format: which columns a shard has, which dtype the ids get, and what `dataset.json` says.

A shard is an Arrow IPC file with one row a sample. This module knows the layout and nothing of how samples are read or
encoded; `writer` writes the files, `reader` maps them into memory, `manifest` facts are checked here on the way in.

    key      string
    NAME     large_list<uint8 | uint16 | uint32>     the ids of stream NAME, in grid order (last axis fastest)
    NAME.shape  fixed_size_list<int32>[axes]         the shape of the grid
    NAME.size   fixed_size_list<int32>[2, 3 or 1]    the true size of the sample (H, W; T, H, W; samples), where one step of
                                                     the grid covers more than a pixel, frame or audio sample
    ...      the extra columns (label, caption, ...)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokenize_kit.errors import MissingPackageError, VerificationError
from tokenize_kit.files import read_signed, signed
from tokenize_kit.protocol import TokenSpec
from tokenize_kit.protocol.views import AT, VIEW_NAME

FORMAT_VERSION = 1
MANIFEST_FILE = "dataset.json"
PLAN_FILE = "plan.json"
FAILURES_FILE = "failures.jsonl"
INCOMPLETE_FILE = "incomplete.jsonl"
TOKENIZERS_FOLDER = "tokenizers"
"""Holds a copy of the tokenizer of each stream, by its name."""
KEY = "key"
SHAPE_SUFFIX = ".shape"
SIZE_SUFFIX = ".size"

COLUMN_TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
"""The types that an extra column may have, by the name that `dataset.json` uses."""

_FIX = "restore it from a copy or run 'encode' again"
_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_-]*({AT}{VIEW_NAME})?")


def dtype_for(vocab_size: int) -> str:
    """Return the smallest of ``uint8``, ``uint16``, ``uint32`` that holds every id below ``vocab_size``.

    Raises:
        ValueError: the vocabulary has no id, or more than 2**32.
    """
    for bits in (8, 16, 32):
        if 1 <= vocab_size <= 2**bits:
            return f"uint{bits}"
    raise ValueError(f"a vocabulary of {vocab_size} ids cannot be stored; it must have between 1 and 2**32")


@dataclass(frozen=True)
class StreamInfo:
    """One stream of a shard set: whose ids they are and how they are stored."""

    name: str
    """The column of the ids."""
    spec: TokenSpec
    """What the tokenizer says of itself."""
    fingerprint: str
    """The fingerprint of the tokenizer; another tokenizer is refused."""
    dtype: str
    """``uint8``, ``uint16`` or ``uint32``."""
    tokenizer: str
    """The name under which the tokenizer is registered."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == KEY:
            raise ValueError(
                f"{self.name!r} cannot name a stream; use letters, digits, '_' and '-', beginning with a letter, not 'key'"
            )
        if self.dtype != dtype_for(self.spec.max_vocab_size):
            raise ValueError(
                f"stream {self.name!r} is stored as {self.dtype}, but a vocabulary of {self.spec.max_vocab_size} "
                f"needs {dtype_for(self.spec.max_vocab_size)}; the manifest is damaged"
            )

    @property
    def num_axes(self) -> int:
        """Number of grid axes."""
        return len(self.spec.axes)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of `dataset.json`, without the name."""
        return {
            "tokenizer": self.tokenizer,
            "fingerprint": self.fingerprint,
            "dtype": self.dtype,
            "spec": self.spec.to_dict(),
        }

    def unlike(self, tokenizer: str, fingerprint: str, spec: Mapping[str, Any]) -> str:
        """Return what differs between this stream and a tokenizer that shall have made it; nothing if it is that one.

        Args:
            tokenizer: the name under which it is registered.
            fingerprint: its own.
            spec: its spec as a dictionary.
        """
        if fingerprint != self.fingerprint:
            return f"fingerprint {fingerprint[:12]}, not {self.fingerprint[:12]}"
        if tokenizer != self.tokenizer:
            return f"a {tokenizer!r} tokenizer, not a {self.tokenizer!r} one"
        own = self.spec.to_dict()
        differing = [name for name in sorted({*own, *spec}) if own.get(name) != spec.get(name)]
        return f"{differing[0]} {spec.get(differing[0])}, not {own.get(differing[0])}" if differing else ""

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> StreamInfo:
        """Read an entry of `dataset.json`."""
        return cls(
            name,
            TokenSpec.from_dict(values["spec"]),
            str(values["fingerprint"]),
            str(values["dtype"]),
            str(values["tokenizer"]),
        )


@dataclass(frozen=True)
class FileEntry:
    """One shard file as `dataset.json` lists it."""

    name: str
    """File name inside the folder."""
    rows: int
    """Number of samples."""
    tokens: dict[str, int]
    """Number of ids of each stream."""
    sha256: str
    """Hexadecimal digest of the whole file."""
    bytes: int
    """Size of the file."""


@dataclass(frozen=True)
class Manifest:
    """What `dataset.json` says of a finished shard set."""

    streams: dict[str, StreamInfo]
    """The streams, in column order."""
    columns: dict[str, str]
    """Type of each extra column: ``string``, ``int64``, ``float64`` or ``bool``."""
    files: tuple[FileEntry, ...]
    """The shards, in sample order."""
    options: dict[str, Any]
    """Those options of the run that determine its bytes."""
    inputs: dict[str, Any]
    """Number of input files, their bytes and a digest over their names and sizes."""
    failures: int
    """How many samples `failures.jsonl` lists."""
    incomplete: int = 0
    """How many samples `incomplete.jsonl` lists."""

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of every shard."""
        return shard_schema(list(self.streams.values()), self.columns)

    @property
    def totals(self) -> dict[str, Any]:
        """``rows``, and the ``tokens`` of each stream, of all shards."""
        tokens = {name: sum(file.tokens[name] for file in self.files) for name in self.streams}
        return {"rows": sum(file.rows for file in self.files), "tokens": tokens}

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `dataset.json`, with a digest of itself."""
        return signed(self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            **self.totals,
            "failures": self.failures,
            **({"incomplete": self.incomplete} if self.incomplete else {}),
            "streams": {name: stream.to_dict() for name, stream in self.streams.items()},
            "columns": self.columns,
            "options": self.options,
            "inputs": self.inputs,
            "files": [asdict(file) for file in self.files],
        }


def read_manifest(folder: Path, problems: list[str] | None = None) -> Manifest:
    """Read and check the `dataset.json` of a shard set.

    Args:
        folder: of the set.
        problems: where given, it is told there that the manifest was edited, and what it says now is returned if it can be.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no finished shard set, or one of a newer format.
        VerificationError: the manifest is not what was written.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no shard folder at {folder}; make one with 'tokenize-kit encode'")
    path = folder / MANIFEST_FILE
    if not path.is_file():
        if (folder / PLAN_FILE).is_file():
            raise ValueError(f"the run that writes {folder} is not finished; run the same 'encode' command again")
        raise ValueError(f"{folder} is not a shard set: it has no {MANIFEST_FILE}")
    values = read_signed(path, _FIX, problems)
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version!r}, this tokenize-kit reads {FORMAT_VERSION}; upgrade it")
    try:
        files = tuple(FileEntry(**entry) for entry in values["files"])
        streams = {str(name): StreamInfo.from_dict(name, entry) for name, entry in values["streams"].items()}
        columns = {str(name): str(kind) for name, kind in values["columns"].items()}
        manifest = Manifest(
            streams,
            columns,
            files,
            dict(values["options"]),
            dict(values["inputs"]),
            int(values["failures"]),
            int(values.get("incomplete", 0)),
        )
        if any(Path(file.name).name != file.name or set(file.tokens) != set(streams) for file in files):
            raise ValueError("a file entry names another folder or other streams")
        for name, total in manifest.totals.items():
            if (said := values[name]) == total:
                continue
            if problems is None:
                raise ValueError(f"{name} is {said}, its files have {total}")
            problems.append(f"{MANIFEST_FILE}: {name} is {said}, its files have {total}")
        shard_schema(list(streams.values()), columns)
    except MissingPackageError as error:
        raise MissingPackageError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(f"{path} is damaged ({error}); {_FIX}") from None
    return manifest


def shard_schema(streams: Sequence[StreamInfo], columns: Mapping[str, str]) -> pa.Schema:
    """Return the Arrow schema of a shard with these streams and extra columns (name to a key of `COLUMN_TYPES`).

    Raises:
        ValueError: two columns have one name, or a column has an unknown type.
    """
    fields = [pa.field(KEY, pa.string(), nullable=False)]
    for stream in streams:
        ids = pa.large_list(pa.field("item", pa.type_for_alias(stream.dtype), nullable=False))
        shape = pa.list_(pa.field("item", pa.int32(), nullable=False), stream.num_axes)
        fields += [
            pa.field(stream.name, ids, nullable=False),
            pa.field(stream.name + SHAPE_SUFFIX, shape, nullable=False),
        ]
        if axes := stream.spec.size_axes:
            size = pa.list_(pa.field("item", pa.int32(), nullable=False), axes)
            fields.append(pa.field(stream.name + SIZE_SUFFIX, size, nullable=False))
    for name, kind in columns.items():
        if kind not in COLUMN_TYPES:
            raise ValueError(f"column {name!r} has the type {kind!r}, expected one of {', '.join(COLUMN_TYPES)}")
        fields.append(pa.field(name, COLUMN_TYPES[kind]))
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two columns of a shard would be named {name!r}; rename the stream or leave the column out"
            )
    return pa.schema(fields)
