"""Blocks of contents to chunks of samples: decoded as their tokenizers want them, a bounded number of bytes at a time.

A row of a block is one sample, or as many as its film has clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from tokenize_kit.protocol import modality_named
from tokenize_kit.shards.recipe import Recipe
from tokenize_kit.sources.blocks import one_line, size_of
from tokenize_kit.sources.decoding import Decoded
from tokenize_kit.sources.reading import Failure, SampleBlock

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample

CHUNK_BYTES = 16 << 20
"""How much is decoded and given to a tokenizer at a time, so that large pictures do not fill the memory."""

Values: TypeAlias = "Sequence[Sample] | pa.Array"
"""Samples of one modality; texts may come as an Arrow array."""


@dataclass
class Chunk:
    """Some samples of a block, decoded, or a whole block of texts that need no decoding."""

    keys: Sequence[str] | pa.Array
    samples: dict[str, Values]
    """By source, see `SampleBlock.contents`, and by view."""
    columns: dict[str, Sequence[Any] | pa.Array]
    read: int
    """How many samples were read for it: the rows, and those that could not be decoded."""
    failures: list[Failure]
    conversions: Counter[str]
    size: int = 0
    """Bytes of input."""

    def pick(self, places: Sequence[int]) -> Chunk:
        """Return the chunk with only some of its rows."""
        return Chunk(
            [self.keys[place] for place in places],
            {name: [values[place] for place in places] for name, values in self.samples.items()},
            {name: [values[place] for place in places] for name, values in self.columns.items()},
            self.read,
            self.failures,
            self.conversions,
            self.size,
        )

    def as_lists(self) -> Chunk:
        """Return the chunk with Python's own values, which `pick` needs."""
        return Chunk(
            as_list(self.keys),
            {name: as_list(values) for name, values in self.samples.items()},
            {name: as_list(values) for name, values in self.columns.items()},
            self.read,
            self.failures,
            self.conversions,
            self.size,
        )


def all_chunks(blocks: Iterable[SampleBlock], recipe: Recipe, limit: int | None) -> Iterator[Chunk]:
    """Yield the chunks of all blocks, up to ``limit`` samples."""
    for block in blocks:
        for chunk in chunks_of(block, recipe, limit):
            if limit is not None:
                limit -= chunk.read
            yield chunk
        if limit == 0:
            return


def chunks_of(block: SampleBlock, recipe: Recipe, limit: int | None = None) -> Iterator[Chunk]:
    """Decode a block chunk by chunk, up to ``limit`` samples; those that are not what their tokenizer wants become failures."""
    if limit is not None and len(block) > limit:
        # A row is one sample at least.
        block = block.head(limit)
    if (
        recipe.read.all_text
        and not recipe.views
        and not recipe.augment
        and all(isinstance(values, pa.Array) for values in block.contents.values())
    ):
        failures = list(block.failures)
        yield Chunk(block.keys, {**block.contents}, block.columns, len(block), failures, Counter(), block.size)
        return
    yield from _Chunker(block, recipe, limit).chunks()


class _Chunker:
    """Gathers the samples of one block."""

    def __init__(self, block: SampleBlock, recipe: Recipe, limit: int | None) -> None:
        self._block, self._decoder, self._limit = block, recipe.decoder(), limit
        self._changes = recipe.changes
        self._kinds = {source.name: modality_named(source.modality) for source in recipe.read.sources}
        self._kinds |= {view: self._kinds[source] for view, (source, _) in self._changes.items()}
        self._contents = {name: as_list(values) for name, values in block.contents.items()}
        self._columns = {name: as_list(values) for name, values in block.columns.items()}
        self._told = self._read_before = 0
        self._begin(list(block.failures))

    def _begin(self, failures: list[Failure]) -> None:
        self._failures, self._conversions = failures, Counter[str]()
        self._decoded: list[Decoded] = []
        self._rows: list[int] = []
        self._read = self._size = 0

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks; the bytes of the block are divided among them as far as its files were read."""
        weighed = done = 0
        for row, key in enumerate(as_list(self._block.keys)):
            contents = {name: values[row] for name, values in self._contents.items()}
            weight = sum(map(size_of, contents.values()))
            for decoded in map(self._viewed, self._decoder(key, contents)):
                if self._size >= CHUNK_BYTES:
                    yield self._take(done)
                self._add(decoded, row)
                done = min(self._block.size, weighed + round(weight * decoded.share))
                if self._read_before + self._read == self._limit:
                    break
            if self._read_before + self._read == self._limit:
                break
            weighed += weight
        yield self._take(self._block.size)

    def _viewed(self, decoded: Decoded) -> Decoded:
        """Add the views of a sample to it; one of which one cannot be made is a failure."""
        if not self._changes or not decoded.samples:
            return decoded
        try:
            views = {view: change(decoded.samples[source]) for view, (source, change) in self._changes.items()}
        except (ValueError, TypeError) as error:
            return Decoded(decoded.key, failure=Failure(decoded.key, one_line(error)), share=decoded.share)
        return replace(decoded, samples=decoded.samples | views)

    def _add(self, decoded: Decoded, row: int) -> None:
        self._conversions.update(decoded.notes)
        if decoded.failure is not None:
            self._failures.append(decoded.failure)
        elif not decoded.samples:  # what was left out is told, and is no sample
            return
        else:
            self._decoded.append(decoded)
            self._rows.append(row)
            self._size += sum(self._kinds[name].values(sample) for name, sample in decoded.samples.items())
        self._read += 1

    def _take(self, done: int) -> Chunk:
        chunk = Chunk(
            [decoded.key for decoded in self._decoded],
            {name: [decoded.samples[name] for decoded in self._decoded] for name in self._kinds},
            {name: [values[row] for row in self._rows] for name, values in self._columns.items()},
            self._read,
            self._failures,
            self._conversions,
            done - self._told,
        )
        self._told = done
        self._read_before += self._read
        self._begin([])
        return chunk


def as_list(values: Sequence[Any] | pa.Array) -> list[Any]:
    """Return Arrow values as Python's own, and other values as a list."""
    return list(values.to_pylist()) if isinstance(values, pa.Array) else list(values)
