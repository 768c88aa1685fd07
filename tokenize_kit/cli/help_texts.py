"""The help of options as paragraphs: the lines of a docstring are those of the source, not of the terminal."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from types import MappingProxyType
from typing import Any, get_type_hints


def join_lines(kind: type[Any]) -> None:
    """Give each field of a dataclass, and of the dataclasses in it, its docstring as one line for the help.

    A class that has no source to read keeps what it has.
    """
    documents: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        documents |= _documents(base)
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in documents:
            field.metadata = MappingProxyType({**field.metadata, "help": documents[field.name]})
        if isinstance(inner := hints[field.name], type) and dataclasses.is_dataclass(inner):
            join_lines(inner)


def paragraphs(text: str) -> str:
    """Return a docstring with one line a paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


def _documents(kind: type[Any]) -> dict[str, str]:
    """Return the docstring under each field of a class, in one line."""
    if not dataclasses.is_dataclass(kind):
        return {}
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError, SyntaxError):  # made while the program runs, or typed at a prompt
        return {}
    if not isinstance(body, ast.ClassDef):
        return {}
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            value = after.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[field.target.id] = " ".join(value.value.split())
    return found
