"""JSON as it lies on disks: one object of a line, or the values of a file one after another in bounded memory.

A file of values holds an array of objects, one object, or several after another, on one line or on many. What each value comes to
does not depend on the others: where one is damaged, reading goes on at the next one that can be told.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from tokenize_kit.media.text import read_text
from tokenize_kit.opening import read_up_to_damage

MAX_DEPTH = 500
"""An object that is nested deeper is refused, by whatever parser; that of Python gives up somewhere below 1,000."""

MAX_VALUE_CHARACTERS = 64 << 20
"""A value of a file of values above this is refused: it would fill the memory."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_BLOCK = 256 << 10
"""How much of a file of values is looked at at a time; an error in it costs Python a count of its lines."""
_LOOK = 1 << 20
_DEEPEST_INDENT = 256
_HOPELESS = 100_000
"""So many brackets that are open belong to no data; looking for their ends takes longer than all else."""
_NEVER = -1
_BETWEEN = re.compile("[ \t\r\n,\x1e\ufeff]*")
"""What may stand between values; a comma too many loses nothing. U+001E begins each value of RFC 7464."""
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\]]', re.DOTALL)
_BARE = re.compile(r"[^,\]}\n]*")
_DECODER = json.JSONDecoder()


class LongInteger:
    """An integer of more digits than Python turns into an ``int``."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __float__(self) -> float:
        return float(self.text)


def parse_json_object(line: bytes) -> dict[str, Any]:
    """Parse one JSON object, such as a line of a jsonl file.

    Raises:
        ValueError: it is not UTF-8, not JSON, not an object, or nested deeper than `MAX_DEPTH`.
    """
    text = read_text(line)
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH and depth_of(line) > MAX_DEPTH:
        raise ValueError(_too_deep())
    try:
        return _object(_loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError(_too_deep()) from None


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more than 4,300 digits
        return json.loads(text, parse_int=_integer)


def _integer(text: str) -> int | LongInteger:
    try:
        return int(text)
    except ValueError:
        return LongInteger(text)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {'null' if value is None else type(value).__name__}, expected an object")
    return value


def _too_deep() -> str:
    return f"it is nested deeper than {MAX_DEPTH} levels"


def depth_of(data: bytes) -> int:
    """Return how deep JSON is nested at most."""
    # Strings are taken out, because they may hold brackets of their own.
    codes = np.frombuffer(_STRING.sub(b"", data), np.uint8)
    steps = np.zeros(256, np.int64)
    steps[[ord("{"), ord("[")]], steps[[ord("}"), ord("]")]] = 1, -1
    return int(np.cumsum(steps[codes]).max(initial=0))


def as_float(value: float | LongInteger) -> float:
    """Return a JSON number as a float; one that is too large is infinite, as ``1e400`` is."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def holds_lines(file: IO[bytes]) -> bool:
    """Whether the bytes of a JSON file are one object a line, by its first line; the file is read on."""
    head = read_up_to_damage(file, _LOOK).removeprefix(BYTE_ORDER_MARK).lstrip(b"\r\n")
    line, newline, _ = head.partition(b"\n")
    if not newline and len(head) > _LOOK // 2:
        return False
    try:
        parse_json_object(line)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class JsonPlace:
    """One value of a file, or a damaged place."""

    offset: int
    """The byte at which it begins."""
    value: dict[str, Any] | None
    """The object; None if there is none."""
    reason: str = ""
    """Why there is none."""


def read_values(file: IO[bytes]) -> Iterator[JsonPlace]:
    """Yield the objects of a file of values in order, and what is damaged.

    Args:
        file: at its beginning. UTF-8, with or without a byte order mark.
    """
    window = _Window(file)
    inside = False
    while window.skip_between():
        first = window.text[window.at]
        if not inside and first == "[":
            inside = True
            window.take(1)
        elif inside and first == "]":
            inside = False
            window.take(1)
        else:
            yield window.next_value()
    if inside and not window.given_up:
        yield JsonPlace(window.offset, None, "it ends inside its array; the rest of the file")


class _Window:
    """The part of a file that is being looked at, decoded, with what is no UTF-8 as surrogates (PEP 383)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.text = ""
        self.at = 0
        self.offset = 0
        """The byte of the file at which `at` is."""
        self.ended = self.given_up = False

    def skip_between(self) -> bool:
        """Go to the next value; False if there is none."""
        while True:
            found = _BETWEEN.match(self.text, self.at)
            assert found is not None, "nothing is a match too"
            self.take(found.end() - self.at)
            if self.at < len(self.text):
                return True
            if not self._more():
                return False

    def take(self, characters: int) -> bytes:
        """Go on by so many characters and return their bytes."""
        part = self.text[self.at : self.at + characters]
        data = part.encode("ascii") if part.isascii() else part.encode("utf-8", "surrogateescape")
        self.at += characters
        self.offset += len(data)
        return data

    def _more(self) -> bool:
        """Read more behind what is left; False at the end of the file."""
        if self.ended:
            return False
        # A value that is longer than a block is parsed again whenever it has doubled, and no more often.
        data = read_up_to_damage(self._file, max(_BLOCK, min(len(self.text) - self.at, MAX_VALUE_CHARACTERS)))
        self.ended = not data
        kept = self.at - len(self._indent())
        self.text, self.at = self.text[kept:] + self._decode(data, final=not data), self.at - kept
        return True

    def _indent(self) -> str:
        """Return what stands before the value on its line."""
        start = max(self.text.rfind("\n", 0, self.at) + 1, self.at - _DEEPEST_INDENT)
        return self.text[start : self.at]

    def next_value(self) -> JsonPlace:
        """Take the value that begins here, or the damaged place."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                if found := self._damaged(error):
                    return found
            else:
                # A number at the end of the window may go on behind it.
                if end < len(self.text) or self.ended or self.text[end - 1] in '}]"':
                    return self._taken(end, value)
            if len(self.text) - self.at > MAX_VALUE_CHARACTERS:
                return self._give_up(f"it is longer than {MAX_VALUE_CHARACTERS} characters")
            self._more()

    def _taken(self, end: int, value: Any) -> JsonPlace:
        offset, brackets = self.offset, self.text.count("{", self.at, end) + self.text.count("[", self.at, end)
        data = self.take(end - self.at)
        try:
            if not data.isascii():
                read_text(data)
            if brackets > MAX_DEPTH and depth_of(data) > MAX_DEPTH:
                raise ValueError(_too_deep())
            return JsonPlace(offset, _object(value))
        except ValueError as error:
            return JsonPlace(offset, None, str(error))

    def _damaged(self, error: Exception) -> JsonPlace | None:
        """Take a value that is no JSON, up to where the next one is told; None if more must be read for that."""
        # The next object that is indented as this one is; inside this one, nothing is.
        indent = self._indent()
        next_one = -1 if indent.strip(" \t") else self.text.find(f"\n{indent}{{", self.at)
        end = _balanced_end(self.text, self.at, next_one if next_one >= 0 else len(self.text))
        if end == _NEVER:
            return self._give_up(_too_deep())
        if end is None and next_one >= 0:
            end = next_one
        if end is None or (end == len(self.text) and not self.ended):
            return self._give_up(_said(error, self.at)) if self.ended else None
        start, offset = self.at, self.offset
        data = self.take(max(end - start, 1))
        try:
            # What the line readers say of it; an integer too long for the usual parser is no damage.
            return JsonPlace(offset, parse_json_object(data.strip()))
        except ValueError as reason:
            return JsonPlace(offset, None, str(reason))

    def _give_up(self, reason: str) -> JsonPlace:
        offset = self.offset
        self.ended, self.given_up, self.text, self.at = True, True, "", 0
        return JsonPlace(offset, None, f"{reason}; the rest of the file")


def _said(error: Exception, start: int) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg.removesuffix(' at')} at character {max(0, error.pos - start)} of the value"
    return _too_deep()


def _balanced_end(text: str, start: int, stop: int) -> int | None:
    """Return where the brackets that open at ``start`` are closed before ``stop``; a bare word ends with its line.

    None if they are not, and `_NEVER` if there are too many to look further.
    """
    if text[start] not in '{["':
        found = _BARE.match(text, start, stop)
        assert found is not None, "nothing is a match too"
        return max(found.end(), start + 1)
    depth = 0
    for found in _TOKEN.finditer(text, start, stop):
        token = found[0]
        if token == '"':  # it is not closed
            return None
        depth += (token in ("{", "[")) - (token in ("}", "]"))
        if depth == 0:
            return found.end()
        if depth > _HOPELESS:
            return _NEVER
    return None
