"""Options that are derived from a configuration: each field once more, but None where the preset's value stays.

A configuration dataclass with a docstring under each field is the one place where a value is declared. From it follow what
may be changed from Python and on the command line (`Overrides`), what the help says of it (those docstrings), and how the
changes are put upon a preset (`changed`). Only the standard library is needed besides the container of help texts, so that a
command line can show its options at once.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, cast, get_type_hints

from typing_extensions import Doc

C = TypeVar("C")


class Overrides:
    """Base of options that shall differ from those of a preset.

    A subclass names the configuration and gets its fields, all None at first; what it leaves out is what other options
    say already:

        class NetworkOverrides(Overrides, of=NetworkConfig, without=("channels",)):
            \"\"\"Parts of the network.\"\"\"

        NetworkOverrides(width=64).given()  # {"width": 64}

    It is a frozen dataclass, and a field that the configuration does not have is a TypeError.
    """

    configuration: ClassVar[type[Any]]
    """The class that the fields are of."""
    left_out: ClassVar[tuple[str, ...]]
    """Its fields that have no override."""

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    def __init_subclass__(cls, *, of: type[Any], without: tuple[str, ...] = ()) -> None:
        super().__init_subclass__()
        hints = get_type_hints(of)
        names = [field.name for field in fields(of)]
        unknown = [name for name in without if name not in names]
        assert not unknown, f"{of.__name__} has no {unknown}"
        documents = field_documents(of)
        cls.configuration, cls.left_out = of, without
        cls.__annotations__ = {
            name: Annotated[hints[name] | None, Doc(" ".join(documents.get(name, "").split()))]
            for name in names
            if name not in without
        }
        for name in cls.__annotations__:
            setattr(cls, name, None)
        dataclass(frozen=True)(cls)

    def given(self) -> dict[str, Any]:
        """Return what was given, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(cast("Any", self))}
        return {name: value for name, value in values.items() if value is not None}


def changed(
    kind: type[C],
    preset: Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    dial: str | None = None,
    kept: tuple[str, ...] = (),
) -> C:
    """Return the configuration of a preset with some of its values changed.

    Args:
        kind: class of the configuration.
        preset: what differs from the class's defaults.
        changes: fields that shall differ from the preset.
        dial: the field on which the meaning of others depends. If a change turns it, the preset's values are left behind,
            and what is not changed has the class's default.
        kept: fields whose preset does not depend on the dial.

    Raises:
        TypeError: a change is of no field; the message suggests the closest one.
        ValueError: a value is out of range.
    """
    wanted = dict(changes or {})
    known = [field.name for field in fields(cast("Any", kind))]
    for name in wanted:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"unknown option {name!r} of {kind.__name__}{hint}")
    if dial is not None and wanted.get(dial, preset[dial]) != preset[dial]:
        preset = {name: preset[name] for name in kept if name in preset}
    return kind(**{**preset, **wanted})


def field_documents(kind: type[Any]) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, by name; none where there is no source to read."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found |= _documents_of_module(base.__module__).get(base.__qualname__, {})
    return found


@lru_cache(maxsize=64)
def _documents_of_module(name: str) -> dict[str, dict[str, str]]:
    """Return for each class at the top of a module the docstrings under its fields."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[name]))
    except (OSError, TypeError, KeyError):  # built in, frozen, or typed at a prompt
        return {}
    return {node.name: dict(_documents(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _documents(node: ast.ClassDef) -> list[tuple[str, str]]:
    pairs = []
    for field, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            value = after.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                pairs.append((field.target.id, inspect.cleandoc(value.value)))
    return pairs
