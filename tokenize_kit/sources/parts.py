"""Where a part of a sample is found: the one meaning of ``--field``, ``--media-field`` and ``--columns``.

A place is written the same way whatever holds the sample:

    caption          a field of a JSON object, a column of a table
    meta.text        a field inside another one; a field whose name has the dot wins
    messages.0.text  an item of a list, counted from 0
    captions:2       a line of a text, counted from 1, without its line end
    desc_fr.txt      the file of a sample (tar members or files of one stem) with this ending; see `members`
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from tokenize_kit.media.text import read_text
from tokenize_kit.sources.json_values import LongInteger

MISSING: Final = object()
"""What `value_at` returns where there is nothing."""

_LINE = re.compile(r"(.+):([1-9][0-9]{0,8})", re.DOTALL)
_INDEX = re.compile(r"[0-9]{1,9}")
_NAMED = 12


class MissingPartError(ValueError):
    """A sample lacks one of the parts that it should have."""


def value_at(row: Any, place: str) -> Any:
    """Return what a row has at a place, or `MISSING`.

    A name as it stands wins over one that is taken apart: ``a.b`` is first the field ``a.b``, then ``b`` in ``a``, and
    ``a:2`` is first the field ``a:2``, then the second line of ``a``.

    Args:
        row: a JSON object, or a row of a table as a mapping.
        place: see the module.
    """
    found = _inside(row, place)
    if found is MISSING and (match := _LINE.fullmatch(place)):
        text = _inside(row, match[1])
        if isinstance(text, (str, bytes)):
            return line_of(text if isinstance(text, str) else read_text(text), int(match[2]))
    return found


def _inside(value: Any, place: str) -> Any:
    if isinstance(value, list):
        head, dot, tail = place.partition(".")
        if not _INDEX.fullmatch(head) or int(head) >= len(value):
            return MISSING
        return _inside(value[int(head)], tail) if dot else value[int(head)]
    if not isinstance(value, Mapping):
        return MISSING
    if place in value:
        return value[place]
    for name, rest in _divisions(place):
        if name in value and (found := _inside(value[name], rest)) is not MISSING:
            return found
    return MISSING


def _divisions(place: str) -> Iterable[tuple[str, str]]:
    """Yield a place taken apart at each of its dots, the last one first."""
    at = place.rfind(".")
    while at > 0:
        yield place[:at], place[at + 1 :]
        at = place.rfind(".", 0, at)


def line_of(text: str, number: int) -> Any:
    r"""Return one line of a text, counted from 1, without its line end, or `MISSING`; only ``\n`` and ``\r\n`` end one."""
    lines = text.split("\n", number)
    # What follows the last newline is a line only if it has characters.
    if len(lines) < number or (len(lines) == number and not lines[-1]):
        return MISSING
    return lines[number - 1].removesuffix("\r")


def column_of(names: Collection[str], place: str) -> str | None:
    """Return which of the columns of a table a place is in, or None."""
    if place in names:
        return place
    for name, _ in _divisions(place):
        if name in names:
            return name
    match = _LINE.fullmatch(place)
    return column_of(names, match[1]) if match else None


def text_of(row: Any, place: str, *, values: bool = False) -> str:
    """Return the text that a row has at a place; bytes, as binary columns have them, are taken as UTF-8.

    With ``values`` numbers and truth values are texts too, as JSON writes them.

    Raises:
        ValueError: there is none, or it is not a string, or one that UTF-8 cannot hold.
    """
    text = value_at(row, place)
    if text is MISSING:
        raise ValueError(f"no field {place!r}; it has {names_of(row)}")
    if isinstance(text, (bytes, bytearray)):
        try:
            return read_text(bytes(text))
        except ValueError as error:
            raise ValueError(f"field {place!r} is {error}") from None
    if values and isinstance(text, (bool, int, float, LongInteger)):
        return str(text) if isinstance(text, LongInteger) else json.dumps(text)
    if not isinstance(text, str):
        kind = "null" if text is None else f"a JSON {type(text).__name__}"
        raise ValueError(f"field {place!r} is {kind}, expected a string")
    check_text(text, place)
    return text


def check_text(text: str, place: str) -> None:
    """Refuse a text that UTF-8 cannot hold.

    Raises:
        ValueError: JSON may escape half of a surrogate pair, which is no character.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"field {place!r} has a lone surrogate at character {error.start}") from None


def names_of(row: Any) -> str:
    """Return the names of the fields of a row for a message: the first of them, as JSON where they are odd."""
    if not isinstance(row, Mapping):
        return "none"
    return listed(map(str, row))


def listed(names: Iterable[str]) -> str:
    """Return names for a message, in alphabetical order and a dozen at most."""
    every = sorted(names)
    shown = [name if name.isprintable() and name.strip() == name else json.dumps(name) for name in every[:_NAMED]]
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(shown) + more or "none"
