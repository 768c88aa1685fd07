"""Tar archives in WebDataset naming: the index of an uncompressed archive, and which members are taken."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Self

from tokenize_kit.opening import filesystem_of, open_source


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
    """Members that are refused: name and reason."""


def tar_index(url: str) -> TarIndex:
    """Scan the headers of an uncompressed tar; the indexes of the last few are kept.

    A damaged end is reported in ``failures``, and what stands before it can be read.
    """
    if "://" in url:
        filesystem, path = filesystem_of(url)
        return _scan(url, str(filesystem.ukey(path)))
    status = Path(url).stat()
    return _scan(url, f"{status.st_size} {status.st_mtime_ns}")


def open_tar(file: IO[bytes], mode: Literal["r:", "r|"]) -> tarfile.TarFile:
    """Open a tar so that a damaged header raises; by itself `tarfile` takes one for the end of the archive.

    Raises:
        tarfile.ReadError: it is no tar; also raised later, where a header is damaged.
    """
    return tarfile.open(fileobj=file, mode=mode, tarinfo=_StrictHeader)


class _StrictHeader(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.strip(b"\0"):
                raise tarfile.ReadError(f"{error}; nothing after it can be read") from None
            raise  # zeros are the end


@lru_cache(maxsize=4)
def _scan(url: str, version: str) -> TarIndex:
    del version  # only there so that a file written anew is scanned anew
    samples: dict[str, dict[str, TarEntry]] = {}
    failures: list[tuple[str, str]] = []
    try:
        with open_source(url) as file, open_tar(file, "r:") as archive:
            while (member := archive.next()) is not None:
                name, reason = member.name, member_problem(member)
                if reason:
                    failures.append((name, reason))
                elif member.isreg() and not hidden_member(name):
                    stem, extension = stem_of(name)
                    # As in tar itself, a later member of the same name replaces the earlier one.
                    entry = TarEntry(name, extension, member.offset_data, member.size)
                    samples.setdefault(stem, {})[extension] = entry
                # tarfile would keep every header it has seen.
                archive.members.clear()  # type: ignore[attr-defined]
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        failures.append(("", f"the tar is damaged: {error}"))
    return TarIndex(tuple(TarSample(stem, tuple(by.values())) for stem, by in samples.items()), tuple(failures))


def stem_of(name: str) -> tuple[str, str]:
    """Split a member name as WebDataset does: ``a/b.seg.png`` is the stem ``a/b`` and the extension ``.seg.png``."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, dot, extension = base.partition(".")
    return folder + slash + stem, (dot + extension).lower()


def member_problem(member: tarfile.TarInfo) -> str:
    """Return why a tar member is refused, or nothing."""
    if member.islnk() or member.issym():
        return "it is a link, not a file"
    if member.issparse():
        return "it is a sparse file"
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts or "\0" in member.name:
        return "its name points outside the archive"
    try:
        member.name.encode("utf-8")
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return ""


def hidden_member(name: str) -> bool:
    """Whether a member is passed over, as in folders: names that begin with a dot, such as ``._a.png`` of macOS."""
    return any(part.startswith(".") and part != "." for part in PurePosixPath(name).parts)
