r"""Rows of csv and tsv files, with the csv module of Python: quotes, line ends inside them, and what is damaged.

The first row names the columns. A row of another number of fields, or with quotes that do not work, is a damaged row and no
more than that: reading goes on at the next line. Where quotes leave several readings, a tsv line that has the right number of
fields as it stands is a row, because most programs that write tsv know no quotes; unless the first row has some.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

MAX_ROW_CHARACTERS = 64 << 20
"""A row above this is refused: a quote is most likely not closed, and the file would fill the memory."""

_MAX_READ_AGAIN = 1 << 30
"""Lines that were taken for a part of a damaged row are read again; a file that asks for more of this is given up."""

_COMMA_SEPARATED = (",", ";", "\t", "|")
_TAB = "\t"
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Row:
    """One row of a table, or a damaged place."""

    offset: int
    """The byte at which it begins."""
    fields: tuple[str, ...] | None
    """As many as there are columns; None if they cannot be told."""
    reason: str = ""
    """Why not."""


class _Line(NamedTuple):
    offset: int
    text: str
    whole: bool = True
    """False for the beginning of a line that is too long, of which the rest is passed over."""


class DelimitedReader:
    """Reads the rows of one file in order.

    Args:
        file: at its beginning; UTF-8, with or without a byte order mark. What is no UTF-8 comes as surrogates (PEP 383).
        tabs: whether fields are separated by tabs; otherwise the first row tells whether by commas, semicolons, tabs or bars.

    Raises:
        ValueError: the first row cannot be read.
    """

    def __init__(self, file: IO[bytes], tabs: bool) -> None:
        self._lines = _Lines(file)
        csv.field_size_limit(MAX_ROW_CHARACTERS)
        if not tabs and (first := self._lines.peek()).lower().startswith("sep=") and len(first.rstrip("\r\n")) == 5:
            # As Excel writes and reads it.
            self.delimiter = first[4]
            next(self._lines)
        else:
            self.delimiter = _TAB if tabs else _delimiter(self._lines.peek())
        self._no_quotes = self.delimiter == _TAB and '"' not in self._lines.peek()
        self._reader = csv.reader(self._lines, delimiter=self.delimiter, strict=True)
        self.columns: tuple[str, ...] = ()
        """The names in the first row; none if the file is empty."""
        for header in self._rows():
            if header.fields is None:
                raise ValueError(f"its first row, which names the columns, cannot be read: {header.reason}")
            self.columns = header.fields
            break

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows behind the first one; blank lines are none."""
        wanted = len(self.columns)
        for row in self._rows(wanted):
            if row.fields is not None and len(row.fields) != wanted:
                yield Row(row.offset, None, f"it has {len(row.fields)} fields, the first row has {wanted}")
            else:
                yield row

    def _rows(self, wanted: int | None = None) -> Iterator[Row]:
        lines = self._lines
        while True:
            lines.taken.clear()
            try:
                fields = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield self._only_first(wanted, str(error))
            else:
                if not all(line.whole for line in lines.taken):
                    yield self._only_first(None, f"it has more than {MAX_ROW_CHARACTERS} characters")
                elif len(lines.taken) > 1 and wanted and (len(fields) != wanted or self._are_rows(wanted)):
                    # What a quote has taken in may be rows of their own.
                    yield self._only_first(wanted, f"it has {len(fields)} fields, the first row has {wanted}")
                elif fields:
                    yield Row(lines.taken[0].offset, tuple(fields))
            if lines.given_up:
                yield Row(lines.offset, None, "its quotes do not work; the rest of the file")
                return

    def _are_rows(self, wanted: int) -> bool:
        """Whether the lines that were taken for one row of a tsv are a row each, as they stand."""
        return self._no_quotes and all(line.text.count(_TAB) == wanted - 1 for line in self._lines.taken)

    def _only_first(self, wanted: int | None, reason: str) -> Row:
        """Take only the first of the lines of this row, and leave the others to be read again."""
        first = self._lines.put_back_all_but_one()
        fields = first.text.rstrip("\r\n").split(_TAB)
        if self._no_quotes and len(fields) == wanted and first.whole:
            return Row(first.offset, tuple(fields))
        return Row(first.offset, None, reason)


class _Lines:
    """The lines of a file with their ends, in any of the three ways; those that were taken can be put back."""

    def __init__(self, file: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        self._waiting: deque[_Line] = deque()
        self._again = 0
        self.offset = 0
        """The byte behind the last line that was read."""
        self.taken: list[_Line] = []
        """The lines that were handed out since this was cleared."""
        self.given_up = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else self._read()
        if line is None or self.given_up:
            raise StopIteration
        self.taken.append(line)
        return line.text

    def peek(self) -> str:
        """Return the next line, and leave it there; empty at the end."""
        if not self._waiting and (line := self._read()):
            self._waiting.append(line)
        return self._waiting[0].text if self._waiting else ""

    def put_back_all_but_one(self) -> _Line:
        """Return the first of the lines that were taken; the others are read again."""
        first, *others = self.taken
        self._waiting.extendleft(reversed(others))
        self._again += sum(len(line.text) for line in others)
        self.given_up = self._again > _MAX_READ_AGAIN
        return first

    def _read(self) -> _Line | None:
        text = self._text.readline(MAX_ROW_CHARACTERS)
        if not text:
            return None
        offset = self.offset
        self.offset += _bytes_of(text)
        whole = len(text) < MAX_ROW_CHARACTERS or text.endswith(("\n", "\r"))
        while not whole:
            rest = self._text.readline(MAX_ROW_CHARACTERS)
            self.offset += _bytes_of(rest)
            if len(rest) < MAX_ROW_CHARACTERS or rest.endswith(("\n", "\r")):
                # A line of its own, so that no quote in it goes on to the next.
                return _Line(offset, "", whole=False)
        if offset == 0:
            text = text.removeprefix("\ufeff")
        return _Line(offset, text)


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def _delimiter(first: str) -> str:
    """Return what separates the fields of a first line: the first of the usual ones that gives more than one of them."""
    for delimiter in _COMMA_SEPARATED:
        try:
            if len(next(csv.reader([first], delimiter=delimiter, strict=True))) > 1:
                return delimiter
        except (csv.Error, StopIteration):
            continue
    return ","


def checked_fields(fields: Sequence[str], delimiter: str) -> None:
    """Refuse a row that is no UTF-8.

    Raises:
        ValueError: says which byte is not.
    """
    from tokenize_kit.media.text import read_text

    whole = delimiter.join(fields)
    if not whole.isascii():
        read_text(whole.encode("utf-8", "surrogateescape"))


def typed(value: str, kind: str) -> Any:
    """Return a field of a table as a column of some type holds it; an empty field is null, except as a string.

    A value that is none of that type stays as it is, so that the column refuses it by name.
    """
    if kind == "string":
        return value
    if value == "":
        return None
    try:
        if kind == "int64":
            number = int(value)
            return number if str(number) == value and -(2**63) <= number < 2**63 else value
        if kind == "float64":
            return float(value)
    except ValueError:
        return value
    return {"true": True, "false": False}.get(value.lower(), value) if kind == "bool" else value


def kind_of_fields(values: Sequence[str]) -> str | None:
    """Return of what type the fields of a column are: the narrowest that keeps all; None if all of them are empty.

    Numbers that would be written otherwise, such as ``007``, are strings.
    """
    there = [value for value in values if value != ""]
    if not there:
        return None
    for kind, accepted in (("int64", int), ("float64", float)):
        if all(isinstance(typed(value, kind), accepted) and not _odd_number(value) for value in there):
            return kind
    if all(value.lower() in ("true", "false") for value in there):
        return "bool"
    return "string"


def _odd_number(value: str) -> bool:
    """Whether a number is written as Python alone reads it, or with zeros in front that would be lost."""
    bare = value.lstrip("-")
    zeros = bare[:1] == "0" and bare[1:2].isdigit()
    return zeros or not _NUMBER.fullmatch(value)
