"""From one unit to one shard: read, encode, write, and leave the proof that it is done.

`encode_unit` is all that a worker, or a machine of a cluster, has to run. It depends on the unit, the recipe and the
tokenizers alone, so the same bytes come out wherever and however often it runs. A unit is done when its ledger
``NNNNN.json`` stands beside its shard ``NNNNN.arrow``.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from tokenize_kit.files import signed, write_json
from tokenize_kit.protocol import PipelinedEncoder, Placement, RaggedEncoder, Tokenizer, modality_named
from tokenize_kit.shards.chunks import Chunk, Values, all_chunks, as_list, chunks_of
from tokenize_kit.shards.ledger import FailureLimitError, UnitResult, ledger_path
from tokenize_kit.shards.prefetch import read_ahead
from tokenize_kit.shards.provenance import made_with
from tokenize_kit.shards.recipe import Recipe, unit_digest
from tokenize_kit.shards.rows import Encoded, Ragged, Rows
from tokenize_kit.shards.writer import open_shard
from tokenize_kit.sources.blocks import count_lost, one_line
from tokenize_kit.sources.planning import Unit
from tokenize_kit.sources.reading import Failure, SampleBlock, read_unit

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.protocol import Sample

USUAL = Placement()
"""The CPU in float32."""

Report: TypeAlias = Callable[[int, int, int], None]
"""Called now and then with the samples, tokens and input bytes that were added since."""


def encode_unit(
    unit: Unit,
    tokenizers: Mapping[str, Tokenizer],
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    limit: int | None = None,
    max_failures: int | None = None,
    report: Report | None = None,
    placement: Placement = USUAL,
) -> UnitResult:
    """Make one shard and its ledger.

    Args:
        unit: what to read.
        tokenizers: the tokenizer of each stream.
        recipe: how to read and encode.
        out: folder of the shard set.
        limit: take only this many samples.
        max_failures: stop when more samples than this cannot be read.
        report: called after each chunk.
        placement: where the tokenizers were placed, for the ledger.

    Raises:
        TooManyFailuresError: more than ``max_failures`` samples failed.
        OSError: the disk is full, or an input file cannot be read.
    """
    failures: list[Failure] = []
    samples = lost = 0
    tokenizers = recipe.prepared(tokenizers)
    path = Path(out) / f"{unit.index:05}.arrow"
    try:
        with (
            # The ledger follows in the same folder, and counts only if the shard is there.
            open_shard(path, recipe.streams, recipe.read.columns, durable_name=False) as writer,
            read_ahead(read_unit(unit, recipe.read)) as blocks,
            # While chunks go through a network the next one is decoded.
            read_ahead(all_chunks(blocks, recipe, limit)) as chunks,
        ):
            rows = Rows(writer, recipe)
            for done in _encode_chunks(chunks, tokenizers, rows):
                failures += done.failures
                lost += count_lost(done.failures)
                samples += done.samples
                if report:
                    report(done.samples, done.tokens, done.size)
                if max_failures is not None and lost > max_failures:
                    raise FailureLimitError(failures)
            rows.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message = "the disk is full; finished shards are kept, so make room and run the same command again"
            raise OSError(error.errno, message, str(path)) from None
        raise
    digest = unit_digest(unit, recipe, limit)
    conversions, made = dict(sorted(rows.conversions.items())), made_with(placement)
    result = UnitResult(unit.index, digest, samples, writer.entry, tuple(failures), conversions, made)
    write_json(ledger_path(out, unit.index), signed(result.to_dict()))
    return result


def encode_block(
    block: SampleBlock, tokenizers: Mapping[str, Tokenizer], recipe: Recipe, rows: Rows, until: float | None = None
) -> tuple[list[Failure], int]:
    """Encode a block into rows.

    Args:
        block: the samples.
        tokenizers: of each stream.
        recipe: how they are encoded.
        rows: where to.
        until: when to stop between the clips of a film, by `time.monotonic`; None encodes all.

    Returns:
        The failures of samples that could be read but not encoded, and how many bytes of input were encoded.
    """
    failures: list[Failure] = []
    size = 0
    for done in _encode_chunks(chunks_of(block, recipe), tokenizers, rows):
        failures += done.failures
        size += done.size
        if until is not None and recipe.clips is not None and time.monotonic() > until:
            break
    return failures[len(block.failures) :], size


def encode_samples(tokenizers: Mapping[str, Tokenizer], samples: Mapping[str, Values], recipe: Recipe) -> Encoded:
    """Encode samples, given by source or view, with the tokenizer of each stream: flat ids, and shapes.

    Shapes are (samples, axes), or with the true sizes of the samples beside them (samples, axes + size_axes).
    """
    return {name: _encode_values(tokenizers[name], samples[source]) for name, source in recipe.samples.items()}


def _encode_values(tokenizer: Tokenizer, values: Values) -> Ragged:
    if isinstance(tokenizer, RaggedEncoder):
        ids, lengths = tokenizer.encode_ragged(values)
        return ids, np.asarray(lengths, np.int64)[:, None]
    samples = as_list(values)
    return _flat(tokenizer, samples, tokenizer.encode_batch(samples))


def _flat(tokenizer: Tokenizer, samples: Sequence[Sample], grids: Sequence[Tensor]) -> Ragged:
    """Return grids as flat ids and shapes."""
    spec = tokenizer.spec
    axes = len(spec.axes)
    name = type(tokenizer).__qualname__
    assert len(grids) == len(samples), f"{name} gave {len(grids)} grids for {len(samples)} samples"
    assert all(grid.ndim == axes for grid in grids), f"the grids of {name} must have {axes} axes"
    flat = [grid.detach().cpu().numpy().reshape(-1) for grid in grids]
    rows = [tuple(grid.shape) for grid in grids]
    if size_axes := spec.size_axes:
        kind = modality_named(spec.modality)
        rows = [(*row, *kind.size(sample)) for row, sample in zip(rows, samples, strict=True)]
    shapes = np.array(rows, np.int64).reshape(len(grids), axes + size_axes)
    return np.concatenate(flat) if flat else np.zeros(0, np.int64), shapes


@contextmanager
def _encoders(
    tokenizers: Mapping[str, Tokenizer], recipe: Recipe
) -> Iterator[Callable[[Mapping[str, Values]], Callable[[], Encoded]]]:
    """Yield a function that begins to encode samples and returns another one, which waits for what `encode_samples` gives."""
    with ExitStack() as stack:
        begins = {
            name: stack.enter_context(tokenizer.encode_ahead())
            for name, tokenizer in tokenizers.items()
            if isinstance(tokenizer, PipelinedEncoder)
        }

        def begin_one(name: str, tokenizer: Tokenizer, values: Values) -> Callable[[], Ragged]:
            if name not in begins:
                return partial(_encode_values, tokenizer, values)
            grids = begins[name](as_list(values))
            return lambda: _flat(tokenizer, values, grids())

        def begin(samples: Mapping[str, Values]) -> Callable[[], Encoded]:
            waits = {
                name: begin_one(name, tokenizers[name], samples[source]) for name, source in recipe.samples.items()
            }
            return lambda: {name: wait() for name, wait in waits.items()}

        yield begin


class _Done(NamedTuple):
    """What became of a chunk."""

    samples: int
    tokens: int
    size: int
    """Bytes of input."""
    failures: list[Failure]


def _encode_chunks(chunks: Iterable[Chunk], tokenizers: Mapping[str, Tokenizer], rows: Rows) -> Iterator[_Done]:
    """Encode chunks into rows, in order; pipelined tokenizers have begun with a chunk before the one before is done."""
    ahead = any(isinstance(tokenizer, PipelinedEncoder) for tokenizer in tokenizers.values())
    running: deque[tuple[Chunk, Callable[[], Encoded] | None]] = deque()
    with _encoders(tokenizers, rows.recipe) as begin:
        for chunk in chunks:
            try:
                running.append((chunk, begin(chunk.samples)))
            except (ValueError, TypeError):
                running.append((chunk, None))
            if len(running) > ahead:
                yield _finish(*running.popleft(), tokenizers, rows)
        while running:
            yield _finish(*running.popleft(), tokenizers, rows)


def _finish(chunk: Chunk, wait: Callable[[], Encoded] | None, tokenizers: Mapping[str, Tokenizer], rows: Rows) -> _Done:
    """Wait for what becomes of a chunk and add it to the rows; ``wait`` is None if the tokenizers refused at once."""
    encoded = None
    with suppress(ValueError, TypeError):
        encoded = wait() if wait else None
    if encoded is None:  # one of the samples is refused: find out which
        chunk = _without_refused(chunk.as_lists(), tokenizers, rows.recipe)
        encoded = encode_samples(tokenizers, chunk.samples, rows.recipe)
    tokens = rows.add(chunk.keys, encoded, chunk.columns)
    rows.conversions.update(chunk.conversions)
    return _Done(chunk.read, tokens, chunk.size, chunk.failures)


def _without_refused(chunk: Chunk, tokenizers: Mapping[str, Tokenizer], recipe: Recipe) -> Chunk:
    """Return the chunk without the samples that a tokenizer refuses; they are added to its failures."""

    def accepted(places: range) -> list[int]:
        try:
            encode_samples(tokenizers, chunk.pick(places).samples, recipe)
        except (ValueError, TypeError) as error:
            if len(places) == 1:
                chunk.failures.append(Failure(chunk.keys[places[0]], one_line(error)))
                return []
            middle = len(places) // 2
            return accepted(places[:middle]) + accepted(places[middle:])
        return list(places)

    return chunk.pick(accepted(range(len(chunk.keys))))
