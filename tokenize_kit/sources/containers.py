"""Samples out of whole files, such as a picture and its caption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tokenize_kit.opening import open_source
from tokenize_kit.sources.blocks import (
    Collector,
    SampleBlock,
    read_sized,
)
from tokenize_kit.sources.members import add_fields
from tokenize_kit.sources.planning import Member, Piece, ReadOptions
from tokenize_kit.sources.stored import SPOOL_BYTES, LazyFile, StoredFile, spooled


def read_files(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read one sample out of whole files."""
    fields: dict[str, Callable[[], bytes]] = {member.extension: _File(member) for member in piece.members}
    out.size += piece.size
    add_fields(out, piece.key, fields, options)
    if out.full:
        yield out.take()


class _File(LazyFile):
    def __init__(self, member: Member) -> None:
        self._member = member

    def __call__(self) -> bytes:
        with open_source(self._member.url) as file:
            return read_sized(file, self._member.size)

    def stored(self, name: str) -> StoredFile | None:
        url, size = self._member.url, self._member.size
        if "://" not in url:
            with open_source(url):  # what is not there or may not be read is said here, as of all other files
                return StoredFile(name, size, Path(url))
        if size <= SPOOL_BYTES:
            return None
        with open_source(url) as file:
            return spooled(name, file, size)
