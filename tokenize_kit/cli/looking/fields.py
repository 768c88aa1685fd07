"""Which fields rows have, of what type, and the first rows in short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOOKED_AT = 100_000
"""Rows whose fields are looked at; those behind them are only counted."""

_SHORT = 60
_FIELDS = 100
_ITEMS = 4
_WORDS = {str: "string", bool: "bool", int: "int64", float: "float64", list: "list", dict: "object", type(None): "null"}


class Fields:
    """Counts the types of the fields of rows, and keeps the first of these.

    Args:
        shown: how many rows to keep.
    """

    def __init__(self, shown: int) -> None:
        self._shown = shown
        self._types: dict[str, dict[str, int]] = {}
        self._rows = 0
        self.first: list[dict[str, Any]] = []
        """The first rows, with long values cut."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Look at a row."""
        self._rows += 1
        for name, value in row.items():
            if name in self._types or len(self._types) < _FIELDS:
                types = self._types.setdefault(str(name), {})
                word = _WORDS.get(type(value), type(value).__name__)
                types[word] = types.get(word, 0) + 1
        if len(self.first) < self._shown:
            self.first.append({printed(name): short(value) for name, value in row.items()})

    def facts(self) -> dict[str, str]:
        """Return for each field its types, and in how many rows it is where it is not in all."""
        return {printed(name): self._said(types) for name, types in self._types.items()}

    def _said(self, types: dict[str, int]) -> str:
        words = " or ".join(word for word in types if word != "null") or "null"
        there = sum(count for word, count in types.items() if word != "null") or sum(types.values())
        return words if there == self._rows else f"{words}, in {there:,} of {self._rows:,}"


def short(value: Any) -> Any:
    """Return a value so that it fits into a line and into JSON."""
    if isinstance(value, str):
        text = printed(value)
        return f"{text[:_SHORT]}..." if len(text) > _SHORT else text
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value):,} bytes"
    if isinstance(value, Mapping):
        return {printed(name): short(item) for name, item in list(value.items())[:_ITEMS]}
    if isinstance(value, (list, tuple)):
        return [short(item) for item in value[:_ITEMS]] + (["..."] if len(value) > _ITEMS else [])
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    return str(value)[:_SHORT]


def printed(text: Any) -> str:
    """Return a text in one line that UTF-8 can hold."""
    from tokenize_kit.sources.names import without_surrogates

    return without_surrogates(str(text)).replace("\r", "\\r").replace("\n", "\\n")
