"""Encoded samples to rows of a shard, in record batches of a bounded size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenize_kit.shards.format import COLUMN_TYPES
from tokenize_kit.shards.recipe import Recipe
from tokenize_kit.shards.writer import Ids, ShardWriter

BATCH_BYTES = 4 << 20
"""A record batch is written when it holds this many bytes of ids."""

Ragged: TypeAlias = tuple[Ids, NDArray[np.int64]]
"""Flat ids, and the shape of each grid (with the true size of its sample behind it)."""
Encoded: TypeAlias = dict[str, Ragged]
"""Some samples by stream."""


class Rows:
    """Collects encoded rows into record batches of a bounded size."""

    def __init__(self, writer: ShardWriter, recipe: Recipe) -> None:
        self._writer = writer
        self.recipe = recipe
        self.tokens = {stream.name: 0 for stream in recipe.streams}
        self.conversions: Counter[str] = Counter()
        """What was done to files that were not as their tokenizer wants them, and to how many."""
        self._clear()

    def _clear(self) -> None:
        self._bytes = 0
        self._keys: list[pa.Array] = []
        self._ids: dict[str, list[tuple[Ids, NDArray[np.int64]]]] = {name: [] for name in self.tokens}
        self._columns: dict[str, list[pa.Array]] = {name: [] for name in self.recipe.read.columns}

    def add(
        self, keys: Sequence[str] | pa.Array, encoded: Encoded, columns: Mapping[str, Sequence[Any] | pa.Array]
    ) -> int:
        """Add rows and return how many ids they have; every `BATCH_BYTES` of ids they are written."""
        if len(keys) == 0:
            return 0
        tokens = 0
        self._keys.append(_as_array(keys, pa.string()))
        for stream in self.recipe.streams:
            values, shapes = encoded[stream.name]
            if self.recipe.codebooks is not None and stream.spec.axes[-1] == "codebook":
                values, shapes = _first_codebooks(values, shapes, stream.num_axes - 1, self.recipe.codebooks)
            self._ids[stream.name].append((values, shapes))
            self.tokens[stream.name] += len(values)
            tokens += len(values)
            self._bytes += len(values) * np.dtype(stream.dtype).itemsize
        for name, kind in self.recipe.read.columns.items():
            self._columns[name].append(_as_array(columns[name], COLUMN_TYPES[kind]))
        if self._bytes >= BATCH_BYTES:
            self.flush()
        return tokens

    def flush(self) -> None:
        """Write what was collected as one record batch."""
        if not self._keys:
            return
        ids = {}
        for name, parts in self._ids.items():
            one = len(parts) == 1
            values = parts[0][0] if one else np.concatenate([values for values, _ in parts])
            ids[name] = values, parts[0][1] if one else np.concatenate([shapes for _, shapes in parts])
        columns = {name: pa.concat_arrays(arrays) for name, arrays in self._columns.items()}
        self._writer.write(pa.concat_arrays(self._keys), ids, columns)
        self._clear()


def _first_codebooks(values: Ids, shapes: NDArray[np.int64], axis: int, count: int) -> Ragged:
    """Keep the ids of the first ``count`` codebooks of flat grids whose axis number ``axis``, the last one, is the codebook."""
    stored = shapes[:, axis]
    if len(stored) and int(stored.min()) < count:
        raise ValueError(
            f"the tokenizer gave a grid of {stored.min()} codebooks, fewer than --codebooks {count}; use {stored.min()} or fewer"
        )
    sizes = shapes[:, : axis + 1].prod(1)
    within = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    shapes = shapes.copy()
    shapes[:, axis] = count
    return values[within % np.repeat(stored, sizes) < count], shapes


def _as_array(values: Sequence[Any] | pa.Array, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)
