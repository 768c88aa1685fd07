"""Samples out of whole files (a picture and its caption) and tar archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO

from tokenize_kit.opening import open_source
from tokenize_kit.sources.blocks import (
    MAX_MEMBER_BYTES,
    Collector,
    SampleBlock,
    read_sized,
)
from tokenize_kit.sources.members import add_fields
from tokenize_kit.sources.planning import Piece, ReadOptions
from tokenize_kit.sources.tar import hidden_member, member_problem, open_tar, stem_of, tar_index


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


def read_tar(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read the samples of a tar: members with one stem are one sample. Nothing is extracted to the disk.

    In an uncompressed tar the members of a sample may be anywhere; in a compressed one they must stand together.
    """
    if piece.compression:
        yield from _read_tar_stream(piece, options, out)
        return
    index = tar_index(piece.url)
    if piece.start == 0:
        for name, reason in index.failures:
            out.fail(f"{piece.key}/{name}" if name else piece.key, reason)
    with open_source(piece.url) as file:
        for sample in index.samples[piece.start : piece.stop]:
            fields: dict[str, Callable[[], bytes]] = {}
            for entry in sample.entries:

                def read(offset: int = entry.offset, size: int = entry.size) -> bytes:
                    file.seek(offset)
                    return read_sized(file, size)

                fields[entry.extension] = read
            out.size += sample.size
            add_fields(out, f"{piece.key}/{sample.stem}", fields, options)
            if out.full:
                yield out.take()


def _read_tar_stream(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    stem: str | None = None
    fields: dict[str, Callable[[], bytes]] = {}
    held = 0
    with open_source(piece.url, piece.compression) as file:
        try:
            for name, size, content in _stream_members(piece, file, out):
                next_stem, extension = stem_of(name)
                if next_stem != stem:
                    if stem is not None:
                        add_fields(out, f"{piece.key}/{stem}", fields, options)
                        if out.full:
                            yield out.take()
                    stem, fields, held = next_stem, {}, 0
                held += size
                if held > MAX_MEMBER_BYTES:
                    out.fail(f"{piece.key}/{name}", f"the sample has more than {MAX_MEMBER_BYTES} bytes")
                    continue
                data = content.read()
                out.size += size
                fields[extension] = lambda data=data: data  # type: ignore[misc]
        finally:
            # Also where the archive breaks off: the sample before the damage may be whole.
            if stem is not None:
                add_fields(out, f"{piece.key}/{stem}", fields, options)


def _stream_members(piece: Piece, file: IO[bytes], out: Collector) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and content of the members of a tar that can only be read forwards."""
    with open_tar(file, "r|") as archive:
        while (member := archive.next()) is not None:
            # tarfile would keep every header it has seen.
            archive.members.clear()  # type: ignore[attr-defined]
            if reason := member_problem(member):
                out.fail(f"{piece.key}/{member.name}", reason)
            elif member.isreg() and not hidden_member(member.name):
                content = archive.extractfile(member)
                assert content is not None, "a regular member has content"
                yield member.name, member.size, content
