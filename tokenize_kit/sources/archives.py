"""Samples out of tar archives, read where they lie: nothing is extracted, and a damaged end does not take the rest along.

An uncompressed tar is indexed first, so the members of a sample may be anywhere in it; a compressed one is read forwards once, so
there they must follow one another. Both give the same samples and refuse the same members.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, cast

from tokenize_kit.compressed import Unpacked
from tokenize_kit.media.text import read_text
from tokenize_kit.modalities import modality_named
from tokenize_kit.opening import open_source, read_exactly
from tokenize_kit.sources.blocks import MAX_MEMBER_BYTES, Collector, SampleBlock, one_line, read_sized, text_name
from tokenize_kit.sources.cutting import cut_stream
from tokenize_kit.sources.members import add_fields
from tokenize_kit.sources.names import printable
from tokenize_kit.sources.planning import Piece, ReadOptions
from tokenize_kit.sources.stored import SPOOL_BYTES, LazyFile, StoredFile, spooled
from tokenize_kit.sources.tar import (
    APART,
    TWICE,
    TarEntry,
    hidden_member,
    member_problem,
    stem_of,
    tar_index,
    tar_members,
)

_BLOCK = 512
_PLAUSIBLE = 64 << 20
_MOST_TIMES = 200


def read_tar(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read the samples of a tar: members with one stem are one sample."""
    if piece.compression:
        yield from _read_forwards(piece, options, out)
        return
    index = tar_index(piece.url)
    if piece.start == 0:
        for name, reason in index.failures:
            lost = "" if name else "; the rest of the file" if index.samples else "; a whole file"
            out.fail(f"{piece.key}/{printable(name)}" if name else piece.key, reason + lost)
    with open_source(piece.url) as file:
        for sample in index.samples[piece.start : piece.stop]:
            # Members begin at whole blocks.
            out.size += sum(_BLOCK + -(-entry.size // _BLOCK) * _BLOCK for entry in sample.entries)
            fields: dict[str, Callable[[], bytes]] = {entry.extension: _Entry(file, entry) for entry in sample.entries}
            key = f"{piece.key}/{printable(sample.stem)}"
            long = [entry for entry in sample.entries if _is_long_text(entry.extension, entry.size, options)]
            if len(long) == 1 and len(_texts(fields, options)) == 1:
                file.seek(long[0].offset)
                try:
                    yield from _read_long_text(key, file, long[0].size, options, out)
                except tarfile.ReadError as error:
                    out.fail(key, str(error))
            else:
                add_fields(out, key, fields, options)
            if out.full:
                yield out.take()


class _Entry(LazyFile):
    """A member of an uncompressed tar that is open."""

    def __init__(self, file: IO[bytes], entry: TarEntry) -> None:
        self._file, self._entry = file, entry

    def __call__(self) -> bytes:
        self._file.seek(self._entry.offset)
        return read_sized(self._file, self._entry.size)

    def stored(self, name: str) -> StoredFile | None:
        if self._entry.size <= SPOOL_BYTES:
            return None
        self._file.seek(self._entry.offset)
        return spooled(name, self._file, self._entry.size)


def _read_forwards(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read a compressed tar, one sample after another."""
    sample = _Held("")
    over: set[int] = set()

    def finish() -> None:
        if sample.fields:
            add_fields(out, f"{piece.key}/{printable(sample.stem)}", sample.fields, options)

    with open_source(piece.url, piece.compression) as file:
        try:
            for member in tar_members(file):
                key, (stem, extension) = f"{piece.key}/{printable(member.name)}", stem_of(member.name)
                if reason := member_problem(member):
                    out.fail(key, reason)
                elif not member.isreg() or hidden_member(member.name):
                    continue
                elif stem != sample.stem and hash(stem) in over:
                    out.fail(key, APART)
                elif stem == sample.stem and extension in sample.names:
                    out.fail(key, TWICE)
                else:
                    if stem != sample.stem:
                        finish()
                        sample = _Held(stem)
                        over.add(hash(stem))
                        if out.full:
                            yield out.take()
                    sample.names.add(extension)
                    out.size += cast("Unpacked", file).compressed_size(_BLOCK + member.size)
                    if _is_long_text(extension, member.size, options) and not _texts(sample.fields, options):
                        place = f"{piece.key}/{printable(stem)}"
                        yield from _read_long_text(place, file, member.size, options, out)
                        continue
                    try:
                        data = sample.read(member.size, cast("Unpacked", file))
                    except _TooLargeError as error:
                        out.fail(key, str(error))
                        continue
                    sample.fields[extension] = lambda data=data: data  # type: ignore[misc]
        finally:
            # Also where the archive breaks off: the sample before the damage may be whole.
            finish()


class _TooLargeError(ValueError):
    """A member would fill the memory."""


class _Held:
    """The files of a sample of a compressed tar, as far as they came."""

    def __init__(self, stem: str) -> None:
        self.stem = stem
        self.fields: dict[str, Callable[[], bytes]] = {}
        self.names: set[str] = set()
        self._size = 0

    def read(self, size: int, file: Unpacked) -> bytes:
        """Read the next file of the sample, which has ``size`` bytes.

        Raises:
            _TooLargeError: it is too large, or so much larger than in the archive that it holds next to nothing.
            tarfile.ReadError: the archive ends inside it.
        """
        if self._size + size > MAX_MEMBER_BYTES:
            raise _TooLargeError(f"the sample has more than {MAX_MEMBER_BYTES:,} bytes")
        self._size += size
        before = file.taken
        data = read_exactly(cast("IO[bytes]", file), min(size, _PLAUSIBLE))
        if len(data) == _PLAUSIBLE < size:
            if (file.taken - before) * _MOST_TIMES < _PLAUSIBLE:
                raise _TooLargeError(f"it has {size:,} bytes, hundreds of times what the archive holds of it")
            held = io.BytesIO(data)
            held.seek(0, io.SEEK_END)
            while held.tell() < size and (part := file.read(min(size - held.tell(), _PLAUSIBLE // 4))):
                held.write(part)
            data = held.getvalue()
        if len(data) < size:
            raise tarfile.ReadError("it is cut inside a member")
        return data


def _is_long_text(extension: str, size: int, options: ReadOptions) -> bool:
    """Whether a member is a text that is cut into several samples, and need not be held as a whole for that."""
    if size <= options.max_document_bytes or not options.text_only or options.columns:
        return False
    # A text that was given a place of its own may be a part of the member.
    return options.field_of(options.sources[0]) == ReadOptions.text_field and bool(_texts([extension], options))


def _texts(extensions: Iterable[str], options: ReadOptions) -> list[str]:
    """Return those of the extensions that hold the one text of a sample."""
    endings = modality_named(options.sources[0].modality).extensions if options.text_only else ()
    return [name for name in extensions if "." + name.rpartition(".")[2] in endings]


def _read_long_text(
    key: str, file: IO[bytes], size: int, options: ReadOptions, out: Collector
) -> Iterator[SampleBlock]:
    """Read a text of ``size`` bytes in the parts that it is cut into."""
    for number, part in enumerate(cut_stream(cast("IO[bytes]", _Section(file, size)), options.max_document_bytes)):
        place = f"{key}#{number:05}"
        try:
            out.add(place, {text_name(options): read_text(part)}, {})
        except ValueError as error:
            out.fail(place, one_line(error))
        if out.full:
            yield out.take()


class _Section:
    """So many of the next bytes of a file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        if not data and size and self._left:
            raise tarfile.ReadError("it is cut inside a member")
        self._left -= len(data)
        return data
