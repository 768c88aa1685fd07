"""Tar archives in WebDataset naming: their members in order, the index of an uncompressed archive, and which members are taken.

`tarfile` reads the headers, but is not let alone with them: it takes a damaged header, a missing end mark and the first empty
block for the end of the archive, goes round in circles where a size is below zero, and reads headers of any length.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self, cast

from tokenize_kit.errors import DamagedFileError
from tokenize_kit.opening import filesystem_of, open_source, read_exactly

_BLOCK = 512
_LONGEST_HEADER = 1 << 20
_LARGEST = 1 << 60
_LABEL = b"V"


@dataclass(frozen=True)
class TarEntry:
    """One file inside a tar."""

    name: str
    extension: str
    offset: int
    """Where its data begins."""
    size: int


@dataclass(frozen=True)
class TarSample:
    """The files of a tar that have one stem."""

    stem: str
    entries: tuple[TarEntry, ...]

    @property
    def size(self) -> int:
        """Bytes in the archive, headers included."""
        return sum(512 + entry.size for entry in self.entries)


@dataclass(frozen=True)
class TarIndex:
    """What an uncompressed tar holds, in the order in which the samples begin."""

    samples: tuple[TarSample, ...]
    failures: tuple[tuple[str, str], ...]
    """Members that are refused: name and reason. Without a name it is the archive itself that is damaged."""


def tar_index(url: str) -> TarIndex:
    """Scan the headers of an uncompressed tar; the indexes of the last few are kept.

    A damaged end is reported in ``failures``, and what stands before it can be read.
    """
    if "://" in url:
        filesystem, path = filesystem_of(url)
        return _scan(url, str(filesystem.ukey(path)))
    status = Path(url).stat()
    return _scan(url, f"{status.st_size} {status.st_mtime_ns}")


@lru_cache(maxsize=4)
def _scan(url: str, version: str) -> TarIndex:
    del version  # only there so that a file written anew is scanned anew
    samples: dict[str, dict[str, TarEntry]] = {}
    failures: list[tuple[str, str]] = []
    try:
        with open_source(url) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(0)
            for member in tar_members(file):
                name = member.name
                if reason := member_problem(member):
                    failures.append((name, reason))
                elif member.isreg() and not hidden_member(name) and member.offset_data + member.size <= end:
                    stem, extension = stem_of(name)
                    entries = samples.setdefault(stem, {})
                    if extension in entries:
                        failures.append((name, TWICE))
                    else:
                        entries[extension] = TarEntry(name, extension, member.offset_data, member.size)
    except (tarfile.TarError, DamagedFileError) as error:
        failures.append(("", f"the file is damaged: {error}"))
    return TarIndex(tuple(TarSample(stem, tuple(by.values())) for stem, by in samples.items()), tuple(failures))


TWICE = "a member of this name and ending stands before it in the archive, and was taken"
"""Why the second of two members of one name is not read."""

APART = "it stands apart from the other members of its sample; in a compressed tar they must follow one another"
"""Why a member is not read whose sample is over."""


def tar_members(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar in order; in between the caller may read the data of the last one, and nothing else.

    Empty blocks do not end the archive, since tars that were joined have them in the middle; its last block must be one.

    Args:
        file: the archive at its beginning. It need not be seekable backwards.

    Raises:
        tarfile.ReadError: it is no tar; also raised later, where a header is damaged or the end mark is missing.
        DamagedFileError: it is compressed, and damaged.
    """
    with _Archive(fileobj=file, tarinfo=_StrictHeader, encoding="utf-8", errors="surrogateescape") as archive:
        try:
            while (member := archive.next()) is not None:
                # tarfile would keep every header it has seen.
                archive.members.clear()  # type: ignore[attr-defined]
                archive.extended = 0
                yield member
        except tarfile.ReadError as error:
            cut = str(error) == "unexpected end of data"
            raise tarfile.ReadError("it is cut inside a member") if cut else error from None


class _Archive(tarfile.TarFile):
    ended = False
    """Whether the block before was an empty one."""
    extended = 0
    """Bytes of the headers that belong to the next member."""
    common = 0
    """Bytes of the headers that belong to all."""


class _Again:
    """A file whose last bytes are read once more, without going back."""

    def __init__(self, last: bytes, file: Any) -> None:
        self._last, self._file = last, file

    def read(self, size: int) -> bytes:
        last, self._last = self._last, b""
        return last or read_exactly(self._file, size)

    def tell(self) -> int:
        return int(self._file.tell())


class _StrictHeader(tarfile.TarInfo):
    """A header that is whole, or raises; the methods are those that `tarfile` calls."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Self:
        return cast("Self", _next_header(cls, tarfile))

    def _proc_member(self, archive: Any) -> Any:
        if self.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX):
            archive.extended += self.size
            archive.common += self.size if self.type == tarfile.XGLTYPE else 0
            if not 0 <= self.size <= max(archive.extended, archive.common) <= _LONGEST_HEADER:
                raise tarfile.ReadError(f"the name or the notes of a member take {archive.extended:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_pax(self, archive: Any) -> Any:
        file = archive.fileobj
        notes = read_exactly(file, -(-self.size // _BLOCK) * _BLOCK)
        _check_notes(notes[: self.size])
        archive.fileobj = _Again(notes, file)
        try:
            return super()._proc_pax(archive)  # type: ignore[misc]
        finally:
            archive.fileobj = file

    def _proc_sparse(self, archive: Any) -> Any:
        # Sparse files are refused, so it is enough to know where they end.
        more, size = self._sparse_structs[1:]  # type: ignore[attr-defined]
        while more:
            block = read_exactly(archive.fileobj, _BLOCK)
            if len(block) < _BLOCK:
                raise tarfile.ReadError("it is cut inside a header")
            more = bool(block[504])
        self.offset_data = archive.fileobj.tell()
        archive.offset = self.offset_data + -(-self.size // _BLOCK) * _BLOCK
        self.sparse, self.size = b"", size
        return self

    def _proc_gnusparse_10(self, following: Any, pax_headers: Any, archive: Any) -> None:  # noqa: ARG002
        following.sparse = b""


def _check_notes(notes: bytes) -> None:
    """Refuse a pax header that is not records of ``LENGTH KEY=VALUE``; `tarfile` reads as far as it can."""
    at = 0
    while at < len(notes):
        found = _NOTE.match(notes, at)
        end = at + int(found[1]) if found else 0
        if not found or not found.end() < end <= len(notes) or notes[end - 1] != _NEWLINE:
            raise ValueError("the pax header of a member is damaged")
        at = end


_NOTE = re.compile(rb"(\d{1,10}) [^=\n]+=")
_NEWLINE = 10
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


def _next_header(kind: type[_StrictHeader], archive: Any) -> Any:
    """Read one header with all that extends it.

    Raises:
        tarfile.EOFHeaderError: the archive ends here, as it should.
        tarfile.ReadError: it ends too early, or the header is damaged.
    """
    file = archive.fileobj
    began, behind = archive.offset == 0 and not file.tell(), archive.ended
    while len(block := read_exactly(file, _BLOCK)) == _BLOCK and not block.strip(b"\0"):
        archive.ended = behind = True
    if len(block) < _BLOCK:
        if behind and not block.strip(b"\0"):
            raise tarfile.EOFHeaderError("the end")  # type: ignore[attr-defined]
        if not block:
            raise tarfile.ReadError("it is empty" if began else "it has no end mark, so it was cut")
        raise tarfile.ReadError("it is cut inside a header")
    archive.ended = False
    try:
        header = kind.frombuf(block, archive.encoding, archive.errors)
        header.offset = file.tell() - _BLOCK
        member = header._proc_member(archive)
        if not 0 <= member.size <= _LARGEST or not header.offset < archive.offset <= _LARGEST:
            raise ValueError(f"a member of {member.size} bytes")
    except DamagedFileError:
        raise
    except RecursionError:
        raise tarfile.ReadError("its headers are nested too deeply") from None
    except (tarfile.HeaderError, ValueError, LookupError, ArithmeticError, TypeError) as error:
        if behind:
            raise tarfile.ReadError("its end mark is followed by something else") from None
        raise tarfile.ReadError(f"{error}; nothing after it can be read") from None
    return member


def stem_of(name: str) -> tuple[str, str]:
    """Split a member name as WebDataset does: ``a/b.seg.png`` is the stem ``a/b`` and the extension ``.seg.png``."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, dot, extension = base.partition(".")
    return folder + slash + stem, (dot + extension).lower()


def member_problem(member: tarfile.TarInfo) -> str:
    """Return why a tar member is refused, or nothing."""
    if member.islnk() or member.issym():
        return "it is a link, not a file"
    if member.isfifo():
        return "it is a named pipe, not a file"
    if member.ischr() or member.isblk():
        return "it is a device, not a file"
    if member.issparse():
        return "it is a sparse file"
    if member.isdir() and member.size:
        return "it is a folder, but has data"
    if not (member.isreg() or member.isdir() or member.type == _LABEL):
        return f"it is no file but a member of type {member.type.decode('ascii', 'backslashreplace')!r}"
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts or "\0" in member.name:
        return "its name points outside the archive"
    return ""


def hidden_member(name: str) -> bool:
    """Whether a member is passed over, as in folders: names that begin with a dot, such as ``._a.png`` of macOS."""
    return any(part.startswith(".") and part != "." for part in PurePosixPath(name).parts)
