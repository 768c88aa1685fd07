"""What is said of samples that had to be changed when they were read, see `Modality.read_noting`.

A note of the form ``A to B`` is a conversion (``48000 Hz stereo to 16000 Hz mono``, ``an Adobe RGB profile to sRGB``); any other
says what was done (``10-99 values beyond full scale clipped``).
"""

from __future__ import annotations

from tokenize_kit.progress import several


def announced(plural: str, note: str) -> str:
    """Return what is said when a note comes up for the first time; ``plural`` is what several samples are called."""
    if " to " in note:
        return f"{plural} of {note.replace(' to ', ' are converted to ', 1)}"
    return f"{plural}: {note}"


def counted(count: int, plural: str, note: str) -> str:
    """Return what is said of so many samples with one note."""
    one = count == 1 and " " not in plural
    shown = several(count, plural) if one else f"{count:,} {plural}"
    return f"{shown} {'was' if one else 'were'} converted from {note}" if " to " in note else f"{shown}: {note}"
