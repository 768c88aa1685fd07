"""One registry for everything that a package of its own can bring: by name, in this process or as an entry point.

An entry point is loaded when it is asked for and not before, so that looking at the names costs nothing. Nothing below imports
what is registered; imports point down although names reach up.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tokenize_kit.errors import did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of plug-in.

    Args:
        group: the entry point group.
        what: what one of them is called in messages, such as ``tokenizer``.
    """

    def __init__(self, group: str, what: str) -> None:
        self.group = group
        """The entry point group that packages register in."""
        self.what = what
        """What one of them is called."""
        self._registered: dict[str, T] = {}

    def register(self, name: str, value: T) -> None:
        """Make ``value`` known as ``name`` in this process; packages use the entry point group.

        Raises:
            ValueError: the name belongs to something else.
        """
        if self._registered.get(name, value) is not value or name in self._points:
            raise ValueError(f"a {self.what} named {name!r} is already registered; choose another name")
        self._registered[name] = value

    def names(self) -> list[str]:
        """Return all names that can be asked for here, sorted."""
        return sorted({*self._registered, *self._points})

    def __contains__(self, name: str) -> bool:
        return name in self._registered or name in self._points

    def get(self, name: str) -> T:
        """Return what is registered as ``name``.

        Raises:
            ValueError: nothing is registered under that name; the message suggests the closest one.
        """
        self.check(name)
        return self._registered[name] if name in self._registered else self._loaded(name)

    def check(self, name: str) -> None:
        """Refuse a name under which nothing is registered, without loading what is.

        Raises:
            ValueError: as `get`.
        """
        if name not in self:
            names = self.names()
            raise ValueError(f"no {self.what} is named {name!r} (known: {', '.join(names)}){did_you_mean(name, names)}")

    def place_of(self, name: str) -> str:
        """Return ``module:attribute`` of what is registered as ``name``, without loading it.

        Raises:
            ValueError: as `get`.
        """
        if name in self._points and name not in self._registered:
            return self._points[name].value
        value: Any = self.get(name)
        return f"{value.__module__}:{value.__qualname__}"

    def name_of(self, value: T) -> str:
        """Return the name that a class or function is registered under.

        Raises:
            ValueError: it is not registered.
        """
        for name, known in self._registered.items():
            if known is value:
                return name
        thing: Any = value
        place = f"{thing.__module__}:{thing.__qualname__}"
        for name, point in self._points.items():
            if point.value == place:
                return name
        raise ValueError(
            f"{thing.__qualname__} is not registered; call register_{self.what} or add an entry point of {self.group}"
        )

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in _entry_points().select(group=self.group)}

    @cached_property
    def _cache(self) -> dict[str, T]:
        return {}

    def _loaded(self, name: str) -> T:
        if name not in self._cache:
            self._cache[name] = self._points[name].load()
        return self._cache[name]


@cache
def _entry_points() -> Any:
    # Reading what all installed packages declare takes tens of milliseconds, so it is read once for all registries.
    from importlib.metadata import entry_points

    return entry_points()


TOKENIZERS: Registry[Any] = Registry("tokenize_kit.tokenizers", "tokenizer")
"""Classes of tokenizers; see `tokenize_kit.protocol.tokenizer`."""

MODALITIES: Registry[Any] = Registry("tokenize_kit.modalities", "modality")
"""Declarations of kinds of data, one object each; see `tokenize_kit.protocol.modality`."""

TRAINERS: Registry[Any] = Registry("tokenize_kit.trainers", "trainer")
"""Functions of one options dataclass, ``tokenize-kit train NAME``."""

FORMS: Registry[Any] = Registry("tokenize_kit.forms", "form")
"""What a token of a Transformer sees, an object each; see `trainers.autoregressive.models.forms`."""

MODELS: Registry[Any] = Registry("tokenize_kit.models", "model")
"""Classes of sequence models, one a family."""

QUANTIZERS: Registry[Any] = Registry("tokenize_kit.quantizers", "quantizer")
"""Kinds of quantizers of learned tokenizers."""

EXECUTORS: Registry[Any] = Registry("tokenize_kit.executors", "executor")
"""Where the units of a run are encoded."""

ORDERS: Registry[Any] = Registry("tokenize_kit.orders", "order")
"""How the places of a grid follow each other in a sequence, one object each; see `tokenize_kit.sequences.orders`."""

TRACKERS: Registry[Any] = Registry("tokenize_kit.trackers", "tracker")
"""Where trainings are shown, a class each; see `trainers.trackers`."""

OBJECTIVES: Registry[Any] = Registry("tokenize_kit.objectives", "objective")
"""What sequence models are trained to predict, one object each; see `trainers.autoregressive.objectives`."""
