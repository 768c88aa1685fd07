"""Blocks of contents to chunks of samples: decoded as their tokenizers want them, a bounded number of bytes at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenize_kit.protocol import Modality, modality_named
from tokenize_kit.shards.recipe import Recipe
from tokenize_kit.sources.blocks import Content, one_line
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
    """By source, see `SampleBlock.contents`."""
    columns: dict[str, Sequence[Any] | pa.Array]
    read: int
    """How many samples were read for it: the rows, and those that could not be decoded."""
    failures: list[Failure]
    conversions: Counter[str]
    size: int = 0
    """Bytes of input; the last chunk has those of its block."""

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
        if limit is not None:
            if len(block) > limit:
                block = block.head(limit)
            limit -= len(block)
        yield from chunks_of(block, recipe)
        if limit == 0:
            return


def chunks_of(block: SampleBlock, recipe: Recipe) -> Iterator[Chunk]:
    """Decode a block chunk by chunk; samples that are not what their tokenizer wants become failures."""
    if recipe.read.all_text and all(isinstance(values, pa.Array) for values in block.contents.values()):
        failures = list(block.failures)
        yield Chunk(block.keys, {**block.contents}, block.columns, len(block), failures, Counter(), block.size)
        return
    kinds = {source.name: modality_named(source.modality) for source in recipe.read.sources}
    decoders = {name: _decoder(kind, name, recipe) for name, kind in kinds.items()}
    keys, columns = as_list(block.keys), {name: as_list(values) for name, values in block.columns.items()}
    contents = {name: as_list(values) for name, values in block.contents.items()}
    failures, conversions = list(block.failures), Counter[str]()
    decoded: list[dict[str, Sample]] = []
    kept: list[int] = []
    start = size = 0

    def chunk(stop: int) -> Chunk:
        return Chunk(
            [keys[row] for row in kept],
            {name: [samples[name] for samples in decoded] for name in contents},
            {name: [values[row] for row in kept] for name, values in columns.items()},
            stop - start,
            failures,
            conversions,
        )

    for row, key in enumerate(keys):
        if size >= CHUNK_BYTES:
            yield chunk(row)
            failures, conversions, decoded, kept = [], Counter(), [], []
            start, size = row, 0
        try:
            samples = {name: decoders[name](values[row], conversions) for name, values in contents.items()}
        except (ValueError, TypeError) as error:
            failures.append(Failure(key, one_line(error)))
            continue
        decoded.append(samples)
        kept.append(row)
        size += sum(kinds[name].values(sample) for name, sample in samples.items())
    last = chunk(len(keys))
    last.size = block.size
    yield last


def as_list(values: Sequence[Any] | pa.Array) -> list[Any]:
    """Return Arrow values as Python's own, and other values as a list."""
    return list(values.to_pylist()) if isinstance(values, pa.Array) else list(values)


def _decoder(kind: Modality, source: str, recipe: Recipe) -> Callable[[Content, Counter[str]], Sample]:
    """Return what makes a sample of a content, and counts what had to be done to it."""
    if kind.textual:
        return lambda content, _: cast("str", content)
    # Streams of one source share the sample, so their specs agree in what it must look like; the run checked that.
    spec = next(stream.spec for stream in recipe.streams if recipe.sources[stream.name] == source)
    size = recipe.image_size if kind.resizable else None
    # With padding it is the long side that has the size, and that of a picture which is too large is long enough.
    at_least = 1 if size and recipe.pad else size

    def decode(content: Content, conversions: Counter[str]) -> Sample:
        sample, notes = kind.read_noting(cast("bytes | NDArray[np.uint8]", content), spec, at_least=at_least)
        if size is not None:
            sample = kind.resize(sample, size, crop=recipe.crop, pad=recipe.pad)
        conversions.update(notes)
        return sample

    return decode
