"""Fields of a configuration as words: ``NAME=VALUE`` becomes a value of the field's type, and all fields become a listing.

It is for configurations that are not known before the command runs, such as that of a model family that a package brings. Where
the class is known, `trainers.overrides` makes an option of each field.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tokenize_kit.errors import did_you_mean
from trainers.overrides import field_documents

OPTION = "--set"


def read_settings(
    kind: type[Any], words: Iterable[str], of: str, elsewhere: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the values that words such as ``width=256`` give to fields of a dataclass, by name.

    A value is written as in Python, without quotes: ``3``, ``0.1``, ``true``, ``None``, a name; several whole numbers have commas
    between them, ``8,5,5``.

    Args:
        kind: the dataclass.
        words: ``NAME=VALUE`` each.
        of: whose configuration it is, for messages.
        elsewhere: fields that are not to be given so, and what is true of them instead.

    Raises:
        ValueError: a word has no equals sign, names no field (the message suggests the closest one) or one twice or one of
            ``elsewhere``, or its value is not of the field's type.
    """
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind) if field.name not in (elsewhere or {})]
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{OPTION} {word}: write NAME=VALUE, such as {known[0] if known else 'width'}=3")
        if elsewhere and name in elsewhere:
            raise ValueError(f"{OPTION} {word}: {name} {elsewhere[name]}; leave it out")
        if name not in known:
            raise ValueError(
                f"{OPTION} {word}: {of} has no {name!r} (it has {', '.join(known)}){did_you_mean(name, known)}"
            )
        if name in found:
            raise ValueError(f"{OPTION} {word}: {name} is given twice; give it once")
        try:
            found[name] = _value(value, hints[name])
        except ValueError:
            hint = did_you_mean(value, [str(one) for one in _choices(hints[name])])
            raise ValueError(f"{OPTION} {word}: {name} is {words_of_type(hints[name])}, not {value!r}{hint}") from None
    return found


def listing(kind: type[Any], without: Iterable[str] = (), width: int = 100) -> str:
    """Return the fields of a dataclass for a reader: a line each with type and default, and its docstring below.

    Args:
        kind: the dataclass.
        without: fields to leave out.
        width: of a line, in characters.
    """
    hints, documents, left_out = get_type_hints(kind), field_documents(kind), set(without)
    shown = [field for field in fields(kind) if field.name not in left_out]
    indent = 2 + max((len(field.name) for field in shown), default=0) + 2
    lines = []
    for field in shown:
        default = field.default if field.default_factory is MISSING else field.default_factory()
        said = "" if default is MISSING else f", {_spelt(default)} by default"
        lines.append(f"  {field.name:<{indent - 2}}{words_of_type(hints[field.name])}{said}")
        text = " ".join(documents.get(field.name, "").split())
        lines += textwrap.wrap(text, max(40, width), initial_indent=" " * indent, subsequent_indent=" " * indent)
    return "\n".join(lines)


def words_of_type(hint: Any) -> str:
    """Return what a value of a type is, such as ``a whole number or None``."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(words_of_type(member) for member in members)
    if origin is Literal:
        return ", ".join(map(str, members[:-1])) + (" or " if len(members) > 1 else "") + str(members[-1])
    if origin is tuple and set(members) <= {int, Ellipsis}:
        many = "" if Ellipsis in members else f"{len(members)} "
        return f"{many}whole numbers with commas between them"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a name", NoneType: "None"}
    return plain.get(hint, "no single value: it can be given in a file only")


def _value(word: str, hint: Any) -> Any:
    """Return a word as a value of a type.

    Raises:
        ValueError: it is none.
    """
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        # Every word is a text, so that is tried last.
        for member in sorted(members, key=lambda one: one is str):
            try:
                return _value(word, member)
            except ValueError:
                continue
    elif origin is Literal:
        return {str(member): member for member in members}[_one_of(word, list(map(str, members)))]
    elif origin is tuple and set(members) <= {int, Ellipsis}:
        numbers = tuple(int(part) for part in word.split(",") if part or "," in word)
        if Ellipsis in members or len(numbers) == len(members):
            return numbers
    elif hint is bool:
        return _one_of(word.lower(), ["false", "true"]) == "true"
    elif hint is int:
        return int(word)
    elif hint is float:
        number = float(word)
        if math.isfinite(number):
            return number
    elif hint is NoneType:
        return {"None": None}[_one_of(word, ["None"])]
    elif hint is str:
        return word
    raise ValueError(word)


def _one_of(word: str, known: list[str]) -> str:
    if word not in known:
        raise ValueError(word)
    return word


def _choices(hint: Any) -> list[Any]:
    """Return the values that a type names one by one."""
    if get_origin(hint) in (Union, UnionType):
        return [choice for member in get_args(hint) for choice in _choices(member)]
    return list(get_args(hint)) if get_origin(hint) is Literal else []


def _spelt(value: Any) -> str:
    """Return a value as it may be written behind the equals sign."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
