"""Archives and folders of data: how many samples of which files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from tokenize_kit.cli.looking.damage import up_to_damage
from tokenize_kit.cli.looking.fields import printed

_ENDINGS = 20
_FIRST = ("image", "video")
"""What a file is called whose ending several kinds of data share: a film rather than its sound, a picture rather than a film."""


def look_tar(url: str, compression: str, shown: int) -> dict[str, Any]:
    """Return how many samples a tar has (members of one stem), of which endings, and what in it is refused."""
    from tokenize_kit.sources.tar import hidden_member, member_problem, stem_of, tar_members

    endings: Counter[str] = Counter()
    samples: dict[str, list[str]] = {}
    stems: set[int] = set()
    refused: list[str] = []
    members = size = 0

    def work(file: IO[bytes]) -> None:
        nonlocal members, size
        for member in tar_members(file):
            if reason := member_problem(member):
                refused.append(f"{printed(member.name)}: {reason}")
            elif member.isreg() and not hidden_member(member.name):
                members, size = members + 1, size + member.size
                stem, extension = stem_of(member.name)
                endings[extension] += 1
                # Hashes, because the names of ten million members would fill the memory.
                stems.add(hash(stem))
                if stem in samples or len(samples) < shown:
                    samples.setdefault(stem, []).append(extension)

    damaged = up_to_damage(url, compression, work)
    facts: dict[str, Any] = {"samples": len(stems), "members": members, "member_bytes": size}
    facts["endings"] = _most(endings)
    if refused:
        facts |= {"refused": len(refused), "first_of_them": refused[0]}
    if damaged:
        facts["damaged"] = damaged
    if samples:
        facts["first_samples"] = [{"key": printed(stem), "files": found} for stem, found in samples.items()]
    return facts


def look_zip(url: str, shown: int) -> dict[str, Any]:
    """Return what files a zip archive has; it is read where it lies, as ``zip://*::PATH``."""
    import zipfile

    facts: dict[str, Any] = {}

    def work(file: IO[bytes]) -> None:
        try:
            with zipfile.ZipFile(file) as archive:
                files = [entry for entry in archive.infolist() if not entry.is_dir()]
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from None
        endings = Counter(_ending(entry.filename) for entry in files)
        facts.update({"files": len(files), "file_bytes": sum(entry.file_size for entry in files)})
        facts["endings"] = _most(endings)
        facts["first_files"] = [printed(entry.filename) for entry in files[:shown]]
        facts["next"] = f"its files are read as --data 'zip://*::{url}'"

    damaged = up_to_damage(url, "", work)
    return {**facts, **({"damaged": damaged} if damaged else {})}


def look_idx(url: str, compression: str, shown: int) -> dict[str, Any]:  # noqa: ARG001
    """Return how many pictures of which size an idx file has, and whether there are labels beside it."""
    from tokenize_kit.opening import read_exactly
    from tokenize_kit.sources.idx import labels_url, read_header

    facts: dict[str, Any] = {}

    def work(file: IO[bytes]) -> None:
        header = read_header(file)
        facts.update({"samples": header.count, "shape": list(header.shape)})
        there = 0
        while part := read_exactly(file, 1 << 20):
            there += len(part)
        if there != header.count * header.picture_bytes:
            whole = there // header.picture_bytes
            raise ValueError(f"its header says {header.count:,} pictures, but {whole:,} are there ({there:,} bytes)")

    damaged = up_to_damage(url, compression, work)
    labels = labels_url(url)
    facts["labels"] = None if labels is None else Path(labels).name
    return {**facts, **({"damaged": damaged} if damaged else {})}


def look_folder(folder: Path, shown: int) -> dict[str, Any] | None:
    """Return what a folder of data holds, by kind and ending; None if there is nothing that could be data.

    JSON alone is none: every program leaves some. Of an ending that several kinds of data share the first file says which it is.
    """
    from tokenize_kit.modalities import modality_of_file
    from tokenize_kit.sources.endings import kind_of

    of_ending: dict[str, str | None] = {}
    kinds: Counter[str] = Counter()
    others: Counter[str] = Counter()
    size = 0
    first: list[str] = []
    for name, path in _files(folder):
        kind, _ = kind_of(name, _FIRST)
        if kind is None:
            others[_ending(name)] += 1
            continue
        if (ending := path.suffix.lower()) not in of_ending:
            found = modality_of_file(path)
            of_ending[ending] = found.name if found else None
        kinds[of_ending[ending] or kind] += 1
        size += path.stat().st_size
        if len(first) < shown:
            first.append(printed(name))
    if not set(kinds) - {"json"}:
        return None
    facts: dict[str, Any] = {"files": dict(kinds.most_common()), "bytes": size, "first_files": first}
    if others:
        facts["other_files"] = _most(others)
    return facts


def _files(folder: Path) -> Iterable[tuple[str, Path]]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(where, name)
            if not name.startswith(".") and path.is_file():
                yield str(path.relative_to(folder)), path


def _ending(name: str) -> str:
    return printed(Path(name).suffix.lower()) or "none"


def _most(counts: Counter[str]) -> dict[str, int]:
    """Return the most frequent entries, with names that fit into a line."""
    found = {printed(name) or "none": count for name, count in counts.most_common(_ENDINGS)}
    rest = counts.total() - sum(found.values())
    return {**found, **({"others": rest} if rest > 0 else {})}
