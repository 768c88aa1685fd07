"""Which input files there are: local paths, folders, globs, pipes and fsspec URLs, listed in one fixed order.

What is in the files is not looked at here; only their names say what kind they are. What a folder or a glob holds and is not
read is listed too, with the reason, so that nothing is left out without a word.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tokenize_kit.compressed import ARCHIVED
from tokenize_kit.opening import filesystem_of, url_in
from tokenize_kit.partial import is_partial
from tokenize_kit.progress import several
from tokenize_kit.sources.endings import ARCHIVES, PLAIN, ending_of, kind_of, why_not
from tokenize_kit.sources.names import printable
from tokenize_kit.sources.spool import STANDARD_INPUT, is_kept, spooled

_SHOWN = 3
"""So many names stand for all that are passed over for one reason."""
_STDIN = "stdin"


@dataclass(frozen=True)
class SourceFile:
    """One input file."""

    url: str
    """Local path or fsspec URL."""
    key: str
    """Its name in keys and ledgers: relative to the folder or glob that was given, and `printable`."""
    size: int
    """Bytes, compressed if it is compressed."""
    kind: str
    """``text``, ``jsonl``, ``json``, ``csv``, ``tsv``, ``parquet``, ``tar``, ``idx``, or the modality of a media file such as
    ``image``."""
    compression: str = ""
    """``gz``, ``zst``, ``bz2``, ``xz``, ``zip`` (inside an archive) or nothing."""
    version: str = ""
    """Changes when the file is written again (its modification time or tag), so that a resumed run can tell."""

    @property
    def called(self) -> str:
        """What to call it in a message: where it is, or how it came in if that is a file nobody has named."""
        if not is_kept(self.url):
            return printable(self.url)
        return "standard input" if self.key == _STDIN else f"the pipe {self.key}"


@dataclass
class PassedOver:
    """Names that a folder or glob has and that are not read, for one reason."""

    ending: str
    """Of all of them; nothing where the reason has nothing to do with it."""
    why: str
    count: int = 0
    names: list[str] = field(default_factory=list)
    """The first of them."""

    def __str__(self) -> str:
        names = [_shown(name) for name in self.names]
        more = [f"{self.count - len(names):,} more"] if self.count > len(names) else []
        what = f"{self.count:,} {self.ending}" if self.ending else several(self.count, "others")
        return f"{what} ({', '.join([*names, *more])}): {self.why}"


class Listing(list[SourceFile]):
    """The input files, and what is to be said about them."""

    def __init__(self, files: Sequence[SourceFile] = ()) -> None:
        super().__init__(files)
        self.passed_over: list[PassedOver] = []
        """What folders and globs hold and is not read."""
        self.remarks: list[str] = []
        """What else should be known, such as which links were followed; one line each."""

    def pass_over(self, name: str, why: str, ending: str = "") -> None:
        """Count a name that is not read; it is `printable`."""
        for group in self.passed_over:
            if (group.ending, group.why) == (ending, why):
                break
        else:
            group = PassedOver(ending, why)
            self.passed_over.append(group)
        group.count += 1
        if len(group.names) < _SHOWN:
            group.names.append(name)

    def lines(self) -> list[str]:
        """Return what is to be said, for a person: one line for all that is passed over, and the remarks."""
        if not self.passed_over:
            return self.remarks
        groups = sorted(self.passed_over, key=lambda group: (-group.count, group.ending, group.why))
        return [f"not read: {'; '.join(map(str, groups))}", *self.remarks]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return what is passed over, JSON-ready."""
        return [asdict(group) for group in self.passed_over]


def list_files(
    inputs: Sequence[str | os.PathLike[str]],
    kinds: Collection[str],
    *,
    captions: Collection[str] | None = None,
    leave_out: Sequence[str | os.PathLike[str]] = (),
) -> Listing:
    """List the files that ``inputs`` name: input by input, each in the order of the keys, no file twice.

    Args:
        inputs: files, folders (searched recursively, also behind links; no names that begin with a dot), globs, pipes,
            ``-`` for standard input, or fsspec URLs.
        kinds: the kinds that are wanted. A folder or glob gives only these; a file that is named must be one of them,
            except that a file of unknown ending is read as ``text`` where text is wanted.
        captions: the endings that a plain text must have; None takes all of them.
        leave_out: folders that are not looked into, such as the one that a run writes to.

    Raises:
        FileNotFoundError: nothing is there, or a folder holds no file of these kinds.
        ValueError: a named file is of another kind, or is none.
        OSError: there is no room for standard input.
    """
    search = _Search(kinds, captions, frozenset(_identity(folder) for folder in leave_out if os.path.isdir(folder)))  # noqa: PTH112
    found: list[list[SourceFile]] = []
    seen: set[str] = set()
    for given in inputs:
        files = [file for file in search.expand(os.fspath(given)) if not (file.url in seen or seen.add(file.url))]  # type: ignore[func-returns-value]
        found.append(files)
    keys = [file.key for files in found for file in files]
    if len(set(keys)) < len(keys):
        # Two inputs have files of one name: number the inputs, so that every key names one file.
        found = [[replace(file, key=f"{number}/{file.key}") for file in files] for number, files in enumerate(found)]
    search.listing += [file for files in found for file in files]
    return search.listing


class _Identity(NamedTuple):
    device: int
    inode: int


def _identity(folder: str | os.PathLike[str]) -> _Identity:
    status = os.stat(folder)  # noqa: PTH116
    return _Identity(status.st_dev, status.st_ino)


class _Search:
    """Finds the files of some kinds, input by input."""

    def __init__(
        self, kinds: Collection[str], captions: Collection[str] | None, left_out: frozenset[_Identity]
    ) -> None:
        self.listing = Listing()
        self._kinds, self._captions, self._left_out = kinds, captions, left_out

    def expand(self, given: str) -> list[SourceFile]:
        """List the files of one input."""
        for scheme in ("file://", "local://"):
            given = given.removeprefix(scheme)
        if given in STANDARD_INPUT:
            return [self._pipe(given, _STDIN)]
        if "://" in given:
            return self._expand_url(given)
        try:
            status = os.stat(given)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError, ValueError):
            status = None
        path = Path(given)
        if status is None:
            if not glob.has_magic(given):
                raise FileNotFoundError(f"there is no file or folder at {printable(given)}")
            root = _glob_root(given)
            if not os.path.isdir(root):  # noqa: PTH112
                raise FileNotFoundError(f"there is no file at {printable(given)}")
            pattern = PurePosixPath(given).relative_to(root).parts
            return self._wanted(map(self._as_text, self._walk(root, pattern)), printable(given))
        if stat.S_ISREG(status.st_mode):
            return [self._named(self._file(given, path.name, path.name, status))]
        if stat.S_ISDIR(status.st_mode):
            return self._wanted(self._walk(given), f"the folder {printable(given)}")
        if stat.S_ISFIFO(status.st_mode):
            # Where the shell made it, its name is a number that changes.
            return [self._pipe(given, "pipe" if given.startswith(("/dev/", "/proc/")) else path.name)]
        raise ValueError(f"{printable(given)} is {_special(status.st_mode)}; give a file, a folder or a pipe")

    def _pipe(self, given: str, name: str) -> SourceFile:
        kept = spooled(given)
        kind, compression = kind_of(name, self._kinds)
        if kind is None:
            kind, compression = kept.kind or PLAIN, kept.compression
        self.listing.remarks.append(
            f"{name} was kept in {kept.path} for as long as this runs; a run that stops continues if the same is piped in again"
        )
        return self._named(SourceFile(kept.path, printable(name), kept.size, kind, compression, kept.digest), given)

    def _walk(self, root: str, pattern: Sequence[str] = ()) -> Iterator[SourceFile]:
        """Yield the files below a folder, or those of them that fit a pattern, in any order; what is no file is passed over.

        A folder is read once, however many links lead there: first what lies in the root itself, then what links lead to.
        """
        seen, around = {_identity(root)}, set(map(_identity, Path(root).resolve().parents))
        waiting = [(root, "")]
        links: list[tuple[str, str]] = []
        while waiting or links:
            if not waiting:
                path, name = min(links, key=lambda link: link[1])
                links.remove((path, name))
                if not self._enter(path, name, seen, around):
                    continue
                goal = _shown(printable(os.readlink(path)))  # noqa: PTH115
                self.listing.remarks.append(f"the link {_shown(printable(name))} to the folder {goal} was followed")
                waiting.append((path, name + "/"))
            folder, above = waiting.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                self._pass_over(above or folder, f"a folder that cannot be opened ({error.strerror})")
                continue
            for entry in entries:
                name = above + entry.name
                fits, inside = _fits(name, pattern) if pattern else (True, True)
                if not fits and not inside:
                    continue
                if entry.name.startswith("."):
                    self._pass_over(name, "the name begins with a dot")
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    self._pass_over(name, "a link that leads nowhere")
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if not inside:
                        self._pass_over(name, "a folder; a pattern that ends in /** reads what is in it")
                    elif entry.is_symlink():
                        links.append((entry.path, name))
                    elif self._enter(entry.path, name, seen, set()):
                        waiting.append((entry.path, name + "/"))
                elif not fits:
                    continue
                elif not stat.S_ISREG(status.st_mode):
                    self._pass_over(name, f"{_special(status.st_mode)}, no file")
                elif is_partial(entry.name):
                    self._pass_over(name, "half written by this package")
                else:
                    yield self._file(entry.path, entry.name, name, status)

    def _enter(self, path: str, name: str, seen: set[_Identity], around: set[_Identity]) -> bool:
        """Whether to look into a folder."""
        identity = _identity(path)
        if identity in self._left_out:
            self._pass_over(name, "the --out of this run")
        elif is_partial(name):
            self._pass_over(name, "half written by this package")
        elif identity in around:
            self._pass_over(name, "a link to a folder around this one")
        elif identity in seen:
            self._pass_over(name, "leads to a folder that is read anyway")
        else:
            seen.add(identity)
            return True
        return False

    def _pass_over(self, name: str, why: str) -> None:
        self.listing.pass_over(printable(name), why)

    def _file(self, path: str, name: str, key: str, status: os.stat_result) -> SourceFile:
        kind, compression = kind_of(name, self._kinds)
        return SourceFile(path, printable(key), status.st_size, kind or "", compression, str(status.st_mtime_ns))

    def _named(self, file: SourceFile, given: str = "") -> SourceFile:
        """Return a file that was named itself, if it is of a kind that is wanted."""
        file = self._as_text(file)
        if file.kind not in self._kinds:
            why = why_not(file.key, file.kind)
            what = why if file.kind else f"of unknown kind ({why})"
            wanted = ", ".join(sorted(self._kinds))
            raise ValueError(f"{printable(given) if given else file.called} is {what}; these tokenizers read {wanted}")
        return file

    def _as_text(self, file: SourceFile) -> SourceFile:
        may_be = file.kind == "" and PLAIN in self._kinds and ending_of(file.key) not in ARCHIVES
        return replace(file, kind=PLAIN) if may_be else file

    def _wanted(self, files: Iterable[SourceFile], where: str) -> list[SourceFile]:
        """Return the files of the kinds that are wanted, sorted; the others are passed over."""
        wanted, endings = [], set()
        for file in files:
            if not file.kind and ending_of(file.key) in (self._captions or ()):
                file = self._as_text(file)
            if file.kind in self._kinds and self._may_be_caption(file):
                wanted.append(file)
                continue
            ending = ending_of(file.key)
            endings.add(ending or file.key)
            why = why_not(file.key, file.kind) if file.kind not in self._kinds else "a text, but no caption"
            self.listing.pass_over(file.key, why, ending)
        if not wanted:
            there = ", ".join(sorted(map(_shown, endings))[:8]) or "nothing"
            needs = "; ".join(group.why for group in self.listing.passed_over if group.why.startswith("needs "))
            raise FileNotFoundError(
                f"{where} holds no file of the kinds {', '.join(sorted(self._kinds))} (there is: {there}{needs and '; '}{needs})"
            )
        return sorted(wanted, key=lambda file: file.key)

    def _may_be_caption(self, file: SourceFile) -> bool:
        if self._captions is None or file.kind != PLAIN:
            return True
        return file.compression in ("", ARCHIVED) and ending_of(file.key) in self._captions

    def _expand_url(self, given: str) -> list[SourceFile]:
        filesystem, path = filesystem_of(given)
        if glob.has_magic(path):
            entries, root = filesystem.glob(path, detail=True), _glob_root(path)
        elif filesystem.isfile(path):
            name = PurePosixPath(path).name
            return [self._named(self._remote(given, filesystem, path, filesystem.info(path), name))]
        else:
            entries, root = filesystem.find(path, detail=True), path
        files = []
        for name, info in entries.items():
            key = name.removeprefix(root).lstrip("/")
            if info.get("type") != "file":
                continue
            if any(part.startswith(".") for part in PurePosixPath(key).parts):
                self._pass_over(key, "the name begins with a dot")
            else:
                files.append(self._remote(given, filesystem, name, info, key))
        if not files:
            raise FileNotFoundError(f"there is no file at {given}")
        return self._wanted(map(self._as_text, files) if glob.has_magic(path) else files, given)

    def _remote(self, given: str, filesystem: Any, path: str, info: dict[str, Any], key: str) -> SourceFile:
        kind, compression = kind_of(path, self._kinds)
        tags = ("ETag", "etag", "mtime", "LastModified", "created", "CRC")
        tag = next((info[name] for name in tags if info.get(name)), "")
        if "::" in given and not compression:
            # To seek in such a file is to read it again from its beginning, and nothing would check what is read.
            compression = ARCHIVED
        size = int(info.get("size") or 0)
        return SourceFile(url_in(given, filesystem, path), printable(key), size, kind or "", compression, str(tag))


def _special(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _shown(name: str) -> str:
    """Return a printable name on one line."""
    return name if name.isprintable() else json.dumps(name, ensure_ascii=False)


def _fits(name: str, pattern: Sequence[str]) -> tuple[bool, bool]:
    """Return whether a path fits a pattern, and whether one below it could."""
    return _match(name.split("/"), pattern, False), _match(name.split("/"), pattern, True)


def _match(names: Sequence[str], pattern: Sequence[str], inside: bool) -> bool:
    if not pattern:
        return not names and not inside
    if not names:
        return inside or all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _match(names, pattern[1:], inside) or _match(names[1:], pattern, inside)
    return fnmatch.fnmatchcase(names[0], pattern[0]) and _match(names[1:], pattern[1:], inside)


def _glob_root(pattern: str) -> str:
    """Return the part of a glob above its first wildcard."""
    fixed: list[str] = []
    for part in pattern.split("/")[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return "/".join(fixed) or ("/" if pattern.startswith("/") else ".")
