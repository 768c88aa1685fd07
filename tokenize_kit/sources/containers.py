"""Samples out of whole files, such as a picture and its caption."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tokenize_kit.opening import open_source
from tokenize_kit.sources.blocks import (
    Collector,
    SampleBlock,
    read_sized,
)
from tokenize_kit.sources.members import add_fields
from tokenize_kit.sources.planning import Piece, ReadOptions


def read_files(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read one sample out of whole files."""
    fields: dict[str, Callable[[], bytes]] = {}
    for member in piece.members:

        def read(url: str = member.url, size: int = member.size) -> bytes:
            with open_source(url) as file:
                return read_sized(file, size)

        fields[member.extension] = read
    out.size += piece.size
    add_fields(out, piece.key, fields, options)
    if out.full:
        yield out.take()
