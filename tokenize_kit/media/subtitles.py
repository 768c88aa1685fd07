r"""Subtitles: SubRip (``.srt``) and WebVTT (``.vtt``) to cues, and the words that belong to a span of time.

Times are seconds from the beginning of the film. A cue is said from its first time up to its second, without that; it belongs to
a span that it shares a moment with, so a cue across the border of two clips belongs to both. Tags (``<i>``, ``<v Ann>``,
``{\an8}``) are no words, entities (``&amp;``) are what they stand for, and the lines of a cue stay lines.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tokenize_kit.media.text import read_text

ENDINGS = (".srt", ".vtt")

_TIME = r"(?:(\d{1,6}):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:[ \t].*)?")
_TAG = re.compile(r"<[^<>\n]*>|\{\\[^{}\n]*\}")
_NO_CUES = ("NOTE", "STYLE", "REGION")


class Cue(NamedTuple):
    """What is said for a while."""

    start: float
    """Seconds."""
    stop: float
    """Seconds; it is not said any more then."""
    text: str
    """Without tags."""


@dataclass(frozen=True)
class Subtitles:
    """The cues of a file in the order of their times."""

    cues: tuple[Cue, ...]

    def words(self, start: float, stop: float) -> str:
        """Return the text of the cues that share a moment with a span of time, joined by newlines; there may be none."""
        return "\n".join(cue.text for cue in self.cues if cue.start < stop and cue.stop > start)

    def __str__(self) -> str:
        """Return the text of all cues, joined by newlines."""
        return "\n".join(cue.text for cue in self.cues)

    def __len__(self) -> int:
        """Return the number of characters."""
        return sum(len(cue.text) for cue in self.cues)


def read_subtitles(data: bytes) -> Subtitles:
    """Read the bytes of a ``.srt`` or ``.vtt`` file; which of both it is need not be known.

    Raises:
        ValueError: it is not UTF-8, has no cue, or a line with an arrow is no pair of times.
    """
    lines = read_text(data).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    cues = sorted(_cues(lines), key=lambda cue: (cue.start, cue.stop))
    if not cues:
        raise ValueError("no subtitles: there is no line such as 00:00:01,000 --> 00:00:02,500")
    return Subtitles(tuple(cues))


def _cues(lines: list[str]) -> Iterator[Cue]:
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.split(" ")[0] in _NO_CUES and "-->" not in line:
            while number < len(lines) and lines[number].strip():
                number += 1
            continue
        if "-->" not in line:
            continue  # the number or the name of a cue, or what stands before the first
        times = _TIMES.fullmatch(line)
        if times is None:
            raise ValueError(f"line {number} of the subtitles is no pair of times: {line.strip()[:80]}")
        start, stop = _seconds(*times.groups()[:4]), _seconds(*times.groups()[4:])
        if stop < start:
            raise ValueError(f"line {number} of the subtitles ends before it begins: {line.strip()[:80]}")
        said = []
        while number < len(lines) and lines[number].strip():
            said.append(lines[number])
            number += 1
        if text := html.unescape(_TAG.sub("", "\n".join(said))).strip():
            yield Cue(start, stop, text)


def _seconds(hours: str | None, minutes: str, seconds: str, thousandths: str) -> float:
    return 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds) + int(thousandths.ljust(3, "0")) / 1000
