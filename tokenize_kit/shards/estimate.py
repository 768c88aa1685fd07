"""What a run would make and cost: a few blocks from the beginning, middle and end of the input are encoded and thrown away."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenize_kit.protocol import Tokenizer
from tokenize_kit.shards.recipe import Recipe
from tokenize_kit.shards.rows import Rows
from tokenize_kit.shards.unit import encode_block
from tokenize_kit.shards.writer import ShardWriter
from tokenize_kit.sources.blocks import count_incomplete, count_lost
from tokenize_kit.sources.planning import Unit
from tokenize_kit.sources.reading import read_unit

BLOCK_SAMPLES = 512
SECONDS_EACH = 2.0


@dataclass
class Seen:
    """What was encoded."""

    rows: int
    tokens: dict[str, int]
    failures: int
    bytes: int
    output_bytes: int
    seconds: float
    incomplete: int = 0
    first_seconds: float = 0.0
    """What the very first sample cost, and no later one does: tables that are built, engines that are chosen."""


def estimate(units: Sequence[Unit], tokenizers: Mapping[str, Tokenizer], recipe: Recipe) -> Seen:
    """Encode a little of up to three units; the result covers ``bytes`` of the input."""
    tokenizers = recipe.prepared(tokenizers)
    seen = Seen(0, dict.fromkeys(tokenizers, 0), 0, 0, 0, 0.0)
    for number in sorted({0, len(units) // 2, len(units) - 1} & set(range(len(units)))):
        _look(units[number], tokenizers, recipe, seen)
    return seen


def _look(unit: Unit, tokenizers: Mapping[str, Tokenizer], recipe: Recipe, seen: Seen) -> None:
    sink = io.BytesIO()
    writer = ShardWriter(sink, "estimate", recipe.streams, recipe.read.columns)
    rows = Rows(writer, recipe)
    began = time.monotonic()
    for block in read_unit(unit, recipe.read):
        if not seen.bytes:
            warm = time.monotonic()
            scratch = ShardWriter(io.BytesIO(), "first", recipe.streams, recipe.read.columns)
            encode_block(block.head(1), tokenizers, recipe, Rows(scratch, recipe), warm)
            seen.first_seconds = time.monotonic() - warm
            began += seen.first_seconds
        whole = len(block)
        if whole > BLOCK_SAMPLES:
            block = block.head(BLOCK_SAMPLES)
        seen.incomplete += count_incomplete(block.failures)
        failures, size = encode_block(block, tokenizers, recipe, rows, began + SECONDS_EACH)
        seen.failures += count_lost(block.failures) + count_lost(failures)
        seen.bytes += size * BLOCK_SAMPLES // whole if whole > BLOCK_SAMPLES else size
        if time.monotonic() - began > SECONDS_EACH or whole > BLOCK_SAMPLES:
            break
    rows.flush()
    seen.rows += writer.rows
    for name, count in writer.tokens.items():
        seen.tokens[name] += count
    writer.close()
    seen.output_bytes += writer.entry.bytes
    seen.seconds += time.monotonic() - began
