"""How tokenizers are found: by the name that they are registered under, in this process or as an entry point."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

from tokenize_kit.protocol.tokenizer import Tokenizer

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "tokenize_kit.tokenizers"

_registered: dict[str, type[Tokenizer]] = {}


def register_tokenizer(name: str, cls: type[Tokenizer]) -> None:
    """Make ``cls`` known as ``name`` in this process; packages use the entry point group ``tokenize_kit.tokenizers``.

    Raises:
        ValueError: the name belongs to another tokenizer.
    """
    if _registered.get(name, cls) is not cls or name in _entry_points():
        raise ValueError(f"a tokenizer named {name!r} is already registered; choose another name")
    _registered[name] = cls


def registered_tokenizers() -> list[str]:
    """Names of all tokenizers that can be loaded here, sorted."""
    return sorted({*_registered, *_entry_points()})


def tokenizer_class(name: str) -> type[Tokenizer]:
    """Return the tokenizer class that is registered as ``name``.

    Raises:
        ValueError: nothing is registered under that name; the message suggests the closest one.
    """
    if name in _registered:
        return _registered[name]
    points = _entry_points()
    if name not in points:
        close = get_close_matches(name, registered_tokenizers(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no tokenizer is named {name!r} (known: {', '.join(registered_tokenizers())}){hint}")
    loaded = points[name].load()
    assert isinstance(loaded, type), f"entry point {name} of {ENTRY_POINT_GROUP} is not a class"
    return loaded


def tokenizer_name(tokenizer: Tokenizer | type[Tokenizer]) -> str:
    """Return the name under which a tokenizer's class is registered.

    Raises:
        ValueError: its class is not registered.
    """
    cls = tokenizer if isinstance(tokenizer, type) else type(tokenizer)
    for name, known in _registered.items():
        if known is cls:
            return name
    for name, point in _entry_points().items():
        if point.value == f"{cls.__module__}:{cls.__qualname__}":
            return name
    raise ValueError(f"{cls.__qualname__} is not registered; call register_tokenizer or add an entry point")


@cache
def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
