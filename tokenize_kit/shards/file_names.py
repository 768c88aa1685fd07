"""From the key of a sample to the name of its file: one that every file system takes, and no two samples share."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

LONGEST_PART = 180
"""Bytes of a part of a path; file systems take 255, and what is being written has a longer name than what is finished."""
LONGEST_PATH = 1000
"""Bytes of a whole path inside its folder; Linux takes 4,096 with what is before it."""
MOST_PARTS = 50
"""Folders in one another."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f<>:\"|?*\\]")
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])(\.|$)", re.I
)
"""Names of devices on Windows, whatever stands behind their first dot."""


class FileNames:
    """Gives each key the relative path of a file, in order.

    A path stays inside its folder and is none of those before, also where upper and lower case or composed and decomposed
    letters are the same; no file stands where another path has a folder. The name of a key depends on the keys before it alone.

    Args:
        suffix: ending of the files.
        extensions: endings that are replaced by it.
        reserved: names in the folder itself that no file may have.
    """

    def __init__(self, suffix: str, extensions: Iterable[str] = (), reserved: Iterable[str] = ()) -> None:
        self._suffix, self._extensions = suffix, tuple(extensions)
        self._files = {_folded(name) for name in reserved}
        self._folders: dict[str, str] = {}
        """What a folder is called, by the name that it would have."""
        self._taken_folders: set[str] = set()

    def name(self, key: str) -> str:
        """Return the path for a key, with ``/`` between its parts."""
        parts = [_safe(part) for part in key.split("/")]
        parts[-1] = self._bare(parts[-1])
        path = "/".join(parts)
        if len(path.encode()) > LONGEST_PATH or len(parts) > MOST_PARTS:
            parts = ["deep~" + _digest("/".join(key.split("/")[:-1])), parts[-1]]
        folder = ""
        for part in parts[:-1]:
            folder = self._folder(f"{folder}{part}") + "/"
        return self._file(folder + parts[-1])

    def _bare(self, name: str) -> str:
        for extension in self._extensions:
            if name.lower().endswith(extension) and len(name) > len(extension):
                return _safe(name[: -len(extension)])
        return name

    def _folder(self, wanted: str) -> str:
        known = _folded(wanted)
        if known not in self._folders:
            number, chosen = 2, wanted
            while _folded(chosen) in self._files:
                chosen, number = f"{wanted}~{number}", number + 1
            self._folders[known] = chosen
            self._taken_folders.add(_folded(chosen))
        return self._folders[known]

    def _file(self, wanted: str) -> str:
        number, chosen = 2, wanted + self._suffix
        while _folded(chosen) in self._files or _folded(chosen) in self._taken_folders:
            chosen, number = f"{wanted}~{number}{self._suffix}", number + 1
        self._files.add(_folded(chosen))
        return chosen


def _safe(part: str) -> str:
    """Return a part of a path that Linux, macOS and Windows take."""
    # Lone surrogates have no UTF-8.
    part = part.encode("utf-8", "replace").decode()
    part = _UNSAFE.sub("_", part).strip(" ")
    if part in ("", ".", ".."):
        part = "_" * max(1, len(part))
    if part.endswith("."):
        part = part[:-1] + "_"
    if _RESERVED.match(part):
        part = "_" + part
    if len(part.encode()) > LONGEST_PART:
        part = part.encode()[: LONGEST_PART - 20].decode(errors="ignore").rstrip(" ") + "~" + _digest(part)
    return part


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
