"""The kinds of data of the house, one file each: what its files are, how they become samples and back, what is true of samples.

Each file holds one `tokenize_kit.protocol.Modality`, registered in the entry point group ``tokenize_kit.modalities``; a new
kind of data is one file and one registration. Only the standard library is imported until a sample is read, so that a command
line can look at the table at once. Finding samples (folders, archives, tables) is `tokenize_kit.sources`.
"""

from __future__ import annotations

from pathlib import Path

from tokenize_kit.protocol.modality import Modality, modality_named
from tokenize_kit.protocol.registry import MODALITIES

__all__ = ["Modality", "all_modalities", "modality_named", "modality_of_file"]


def all_modalities() -> list[Modality]:
    """Return every kind of data that is known here, in the order of the names."""
    return [modality_named(name) for name in MODALITIES.names()]


def modality_of_file(path: Path) -> Modality | None:
    """Return what a file is first of all by its ending, and by what is in it where several kinds of data share that."""
    sharing = [kind for kind in all_modalities() if path.suffix.lower() in kind.extensions]
    first = sharing[0] if sharing else None
    return next((kind for kind in sharing if len(sharing) > 1 and kind.recognises(path)), first)
