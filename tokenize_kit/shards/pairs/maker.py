"""The ids of samples and of what operations make of them: copied where the set has them, else made with its tokenizer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from tokenize_kit.protocol import Tokenizer, change_of, decode_sized, first_codebooks, load_tokenizer, modality_of
from tokenize_kit.protocol.views import AT, operations_of, view_streams
from tokenize_kit.sequences.vocabulary import unknown_stream
from tokenize_kit.shards.format import TOKENIZERS_FOLDER, StreamInfo
from tokenize_kit.shards.pairs.options import PairsOptions
from tokenize_kit.shards.preparation import Preparation
from tokenize_kit.shards.reader import ShardSet, StreamArray

Grid: TypeAlias = tuple[NDArray[np.integer[Any]], tuple[int, ...]]
"""Ids, and the true size of their sample where that is kept."""

_KEPT_IDS = 1 << 24
"""About so many ids of changed samples are kept, as they come again."""
_BATCH = 64
"""Samples that are encoded together."""


class Maker:
    """Gives the ids of samples, and of what operations make of them.

    Args:
        shards: the set that they are from.
        options: of the run.

    Raises:
        ValueError: there is no such stream, several could be meant, or its samples cannot be changed so.
    """

    def __init__(self, shards: ShardSet, options: PairsOptions) -> None:
        self._shards = shards
        first = options.streams[0] if options.streams else _stream_of(shards, options.stream)
        source = _known(shards, first)
        self._kind = modality_of(source.spec)
        self.info: StreamInfo = replace(source, name=first.rpartition(AT)[0] or first)
        """The stream of the new set."""
        if options.streams:
            second = _known(shards, options.streams[1])
            if second.fingerprint != source.fingerprint:
                raise ValueError(
                    f"the streams {first} and {second.name} have different tokenizers, so they cannot be one stream; the set can "
                    f"be trained on as it is, with a template such as {f'{first} {second.name} {first} -> {second.name}'!r}"
                )
            self.operations: tuple[str, ...] = (f"{first} -> {second.name}",)
            self._stored = {self.operations[0]: _Stored(shards.stream_arrays(second.name))}
        else:
            self.operations = (*options.operations, *options.held_out_operations)
            views = {
                what: name
                for name, what in shards.manifest.options.get("views", {}).items()
                if name.rpartition(AT)[0] == first and shards.streams[name].fingerprint == source.fingerprint
            }
            self._changes = {one: change_of(self._kind, one) for one in self.operations}
            self._stored = {one: _Stored(shards.stream_arrays(views[one])) for one in self.operations if one in views}
        self.kept = len(self.operations) - len(options.held_out_operations)
        """How many of the operations are for training."""
        self._own = _Stored(shards.stream_arrays(first))
        self.mean_ids = max(1, -(-shards.num_tokens[first] // max(1, shards.num_rows)))
        """Ids of a sample."""
        self._kept: dict[tuple[int, str], Grid] = {}
        self._kept_ids = 0
        self._first = first
        self._codebooks = Preparation.of_options(shards.manifest.options).codebooks
        self._loaded: Tokenizer | None = None

    @property
    def _tokenizer(self) -> Tokenizer:
        if self._loaded is None:
            self._loaded = load_tokenizer(self._shards.folder / TOKENIZERS_FOLDER / self._first)
        return self._loaded

    def save(self, out: Path) -> None:
        """Let the tokenizer travel with the ids."""
        self._tokenizer.save(out / TOKENIZERS_FOLDER / self.info.name)

    def grids(self, wanted: Sequence[tuple[int, str | None]]) -> dict[tuple[int, str | None], Grid]:
        """Return the grid of each sample, by its row and operation (None: as it is), and its true size where that is kept."""
        found: dict[tuple[int, str | None], Grid] = {}
        left: list[tuple[int, str]] = []
        for row, operation in dict.fromkeys(wanted):
            if operation is None:
                found[row, operation] = self._own.get(row)
            elif operation in self._stored:
                found[row, operation] = self._stored[operation].get(row)
            elif (row, operation) in self._kept:
                found[row, operation] = self._kept[row, operation]
            else:
                left.append((row, operation))
        for start in range(0, len(left), _BATCH):
            some = left[start : start + _BATCH]
            for one, made in zip(some, self._made(some), strict=True):
                if self._kept_ids > _KEPT_IDS:
                    self._kept.clear()
                    self._kept_ids = 0
                found[one] = self._kept[one] = made
                self._kept_ids += made[0].size
        return found

    def _made(self, some: Sequence[tuple[int, str]]) -> Iterator[Grid]:
        """Decode samples, change them, and encode what comes out."""
        stored = [self._own.get(row) for row, _ in some]
        grids = [torch.from_numpy(grid.astype(np.int64)) for grid, _ in stored]
        samples = decode_sized(self._tokenizer, grids, [size for _, size in stored])
        try:
            changed = [self._changes[operation](sample) for (_, operation), sample in zip(some, samples, strict=True)]
            made = self._tokenizer.encode_batch(changed)
        except (ValueError, TypeError) as error:
            used = ", ".join(dict.fromkeys(operation for _, operation in some))
            raise ValueError(f"samples cannot be changed by one of {used} and encoded: {error}") from None
        for grid, sample in zip(made, changed, strict=True):
            kept = first_codebooks(grid, self._codebooks) if self._codebooks else grid
            yield kept.numpy(), self._kind.size(sample) if self.info.spec.size_axes else ()


class _Stored:
    """The grids of a stream by the number of their sample."""

    def __init__(self, arrays: Sequence[StreamArray]) -> None:
        self._arrays = arrays
        self._starts = [0, *accumulate(map(len, arrays))]

    def get(self, row: int) -> Grid:
        """Return a grid, a view, and the true size of its sample where that is kept."""
        number = bisect_right(self._starts, row) - 1
        array, place = self._arrays[number], row - self._starts[number]
        return array.grid(place), () if array.sizes is None else tuple(array.sizes[place].tolist())


def _stream_of(shards: ShardSet, given: str | None) -> str:
    """Return the stream of the pictures."""
    if given is not None:
        return given
    views = view_streams(shards.streams)
    able = [
        name for name, info in shards.streams.items() if name not in views and operations_of(modality_of(info.spec))
    ]
    if len(able) != 1:
        what = f"the streams {', '.join(able)} can be changed" if able else "no stream can be changed"
        raise ValueError(f"{what} by operations; say which is meant with --stream ({', '.join(shards.streams)})")
    return able[0]


def _known(shards: ShardSet, name: str) -> StreamInfo:
    if name not in shards.streams:
        raise ValueError(f"{shards.folder}: {unknown_stream(name, shards.streams)}")
    return shards.streams[name]
