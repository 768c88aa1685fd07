"""What the name of a file says: its kind, how it is compressed, and why it is not read."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

from tokenize_kit.media.subtitles import ENDINGS as SUBTITLES
from tokenize_kit.opening import COMPRESSIONS

PLAIN = "text"
"""The kind of files that are nothing but text, to be divided into samples."""

ENDINGS = {
    PLAIN: (".txt", ".text", ".md"),
    "jsonl": (".jsonl", ".ndjson", ".jsonlines", ".ldjson", ".jl"),
    "json": (".json",),
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "tar": (".tar",),
}
"""The kinds that may be compressed, and how their names end."""

PARQUET = (".parquet", ".parq", ".pq")
"""Parquet is compressed inside, page by page."""

ARCHIVES = (".zip", ".7z", ".rar")
"""Endings of archives that are no text whoever names them."""

_SHORT = {".tgz": "gz", ".taz": "gz", ".tbz": "bz2", ".tbz2": "bz2", ".tb2": "bz2", ".txz": "xz", ".tzst": "zst"}
_KINDS = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}
_IDX_PICTURES = re.compile(r"[-.]idx[34]-ubyte$")


def kind_of(name: str, kinds: Collection[str] = ()) -> tuple[str | None, str]:
    """Return what kind a file is by its name (None if unknown) and its compression (nothing, or a value of `COMPRESSIONS`).

    A name that fits several media, such as a video with its sound track, is of the one among ``kinds``.
    """
    from tokenize_kit.modalities import all_modalities

    bare, suffix = posixpath.splitext(name.lower())
    if suffix in _SHORT:
        return "tar", _SHORT[suffix]
    compression = COMPRESSIONS.get(suffix, "")
    if compression:
        suffix = posixpath.splitext(bare)[1]
    else:
        bare += suffix
    if suffix in _KINDS:
        return _KINDS[suffix], compression
    if _IDX_PICTURES.search(bare):
        return "idx", compression
    if not compression:
        if suffix in PARQUET:
            return "parquet", ""
        found = [PLAIN if kind.textual else kind.name for kind in all_modalities() if suffix in kind.extensions]
        if found:
            return next((kind for kind in found if kind in kinds), found[0]), ""
    return None, compression


def ending_of(name: str) -> str:
    """Return the ending by which a file that is not read is counted, with that of its compression; nothing if there is none."""
    bare, suffix = posixpath.splitext(name.lower())
    return posixpath.splitext(bare)[1] + suffix if suffix in COMPRESSIONS else suffix


def why_not(name: str, kind: str) -> str:
    """Return why a file of this kind (nothing if it is unknown) is not among those that are read."""
    from tokenize_kit.modalities import all_modalities

    ending = ending_of(name)
    if kind:
        return f"of the kind {kind}"
    if ending in SUBTITLES:
        return "subtitles, read as the text of films"
    for modality in all_modalities():
        if ending in modality.extras:
            return f"needs {modality.extras[ending]}"
    return f"read it as zip://*::{name}" if ending == ".zip" else "unknown ending" if ending else "no ending"
