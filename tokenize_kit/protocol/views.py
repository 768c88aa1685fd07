"""Views: changed forms of a sample that are made when it is encoded, each a stream of its own.

    image@small       the stream of the view ``small`` of the stream ``image``
    grey+resize:16    what is done to a sample, one operation after another, each NAME or NAME:ARGUMENT

Which operations there are is declared by the kind of data (`Modality.operations`); a package adds one of its own with
`register_operation` or in the entry point group ``tokenize_kit.operations``, as ``image.sepia``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

from tokenize_kit.protocol.modality import Modality, modality_named, resolved
from tokenize_kit.protocol.registry import Registry

if TYPE_CHECKING:
    from tokenize_kit.protocol.spec import Sample

    Change: TypeAlias = Callable[[Any], Any]

AT = "@"
"""Between the name of a stream and that of a view of it."""
JOIN = "+"
"""Between two operations."""
VIEW_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
"""What a view may be called."""

_STREAM = re.compile(rf"([^@=]+)@({VIEW_NAME})")
_OPERATIONS: Registry[Operation] = Registry("tokenize_kit.operations", "operation")


@dataclass(frozen=True)
class Operation:
    """Something that can be done to the samples of a kind of data.

    A sample is not changed in place, and the same sample gives the same result on every machine.
    """

    usage: str
    """How it is written, such as ``blur:SIGMA``."""
    make: Callable[[str], Change]
    """Given the argument (empty if there is none), returns what is done to a sample; raises ValueError if it is none."""


@dataclass(frozen=True)
class View:
    """A changed form of the samples of a stream."""

    of: str
    """The stream."""
    name: str
    """Its own name."""
    operations: str
    """What is done, such as ``grey+resize:16``."""

    @classmethod
    def named(cls, stream: str, operations: str) -> View:
        """Return the view that is stored as a stream such as ``image@small``."""
        of, _, name = stream.rpartition(AT)
        return cls(of, name, operations)

    @property
    def stream(self) -> str:
        """The stream that it is stored as, such as ``image@small``."""
        return f"{self.of}{AT}{self.name}"


def register_operation(modality: str, name: str, operation: Operation) -> None:
    """Make an operation of a kind of data known in this process; packages use the entry point group.

    Raises:
        ValueError: there is one of that name, or it cannot name one.
    """
    if not re.fullmatch(VIEW_NAME, name):
        raise ValueError(f"an operation cannot be named {name!r}; use letters, digits, '_' and '-'")
    if name in operations_of(modality_named(modality)):
        raise ValueError(f"{modality} has an operation {name!r} already; choose another name")
    _OPERATIONS.register(f"{modality}.{name}", operation)


def operations_of(kind: Modality) -> dict[str, Operation]:
    """Return the operations of a kind of data, by name."""
    prefix = f"{kind.name}."
    further = [name for name in _OPERATIONS.names() if name.startswith(prefix)]
    return {**resolved(kind.operations), **{name.removeprefix(prefix): _OPERATIONS.get(name) for name in further}}


def change_of(kind: Modality, operations: str) -> Callable[[Sample], Sample]:
    """Return what operations such as ``grey+resize:16`` make of a sample of a kind.

    Raises:
        ValueError: one is not among those of the kind (the message lists them), or its argument is wrong.
    """
    steps: list[Change] = parse_operations(kind, operations, operations_of(kind), "operation")
    return lambda sample: reduce(lambda changed, step: step(changed), steps, sample)


def no_argument(argument: str) -> tuple[()]:
    """Read the argument of an operation that has none.

    Raises:
        ValueError: there is one.
    """
    if argument:
        raise ValueError("it takes no argument")
    return ()


def parse_operations(kind: Modality, text: str, known: Mapping[str, Any], called: str) -> list[Any]:
    """Return what is made of the arguments of operations that are joined, ``grey+resize:16``.

    Args:
        kind: of the samples, for messages.
        text: the operations.
        known: each with its ``usage``, and ``make`` for an argument.
        called: what one is.

    Raises:
        ValueError: one is not known (the message lists those that are), or its argument is wrong.
    """
    steps: list[Any] = []
    for part in text.split(JOIN):
        name, colon, argument = part.partition(":")
        if name not in known:
            there = ", ".join(known[one].usage for one in sorted(known)) or "none"
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{kind.plural} have no {called} {name!r} (there is {there}){hint}")
        try:
            if colon and not argument:
                raise ValueError("nothing stands after the colon")
            steps.append(known[name].make(argument))
        except ValueError as error:
            raise ValueError(f"{part!r} is not {known[name].usage}: {error}") from None
    return steps


def views_of(given: Sequence[str], streams: Mapping[str, Modality]) -> tuple[View, ...]:
    """Read what ``--view`` says: ``NAME=OPERATIONS`` for the one stream that has operations, ``STREAM@NAME=OPERATIONS`` else.

    Args:
        given: one for each view.
        streams: the streams that views may be of, and their kinds of data.

    Raises:
        ValueError: it is of another form, is of no stream or of one of several, comes twice, or has an unknown operation.
    """
    found: dict[str, View] = {}
    for text in given:
        name, equals, operations = text.partition("=")
        if not equals or not operations:
            raise ValueError(f"--view {text} says not what is done; write NAME=OPERATIONS, such as small=resize:16")
        stream, at, own = name.rpartition(AT)
        if not re.fullmatch(VIEW_NAME, own):
            raise ValueError(f"--view {text}: {own!r} cannot name a view; use letters, digits, '_' and '-'")
        if at and stream not in streams:
            raise ValueError(f"--view {text}: there is no stream {stream!r}; there is {', '.join(streams)}")
        view = View(stream if at else _only_one(text, streams), own, operations)
        try:
            change_of(streams[view.of], operations)
        except ValueError as error:
            raise ValueError(f"--view {text}: {error}") from None
        # Of some file systems upper and lower case are the same, and each stream has a folder.
        if view.stream.lower() in map(str.lower, found):
            raise ValueError(f"--view gives {view.stream} twice; call one of them otherwise")
        found[view.stream] = view
    return tuple(found.values())


def view_streams(streams: Collection[str]) -> list[str]:
    """Return those of the names that are of views."""
    return [name for name in streams if _STREAM.fullmatch(name)]


def _only_one(text: str, streams: Mapping[str, Modality]) -> str:
    able = [name for name, kind in streams.items() if operations_of(kind)]
    if len(able) == 1:
        return able[0]
    if able:
        raise ValueError(
            f"--view {text} does not say which of the streams {', '.join(able)} it is of; write {able[0]}{AT}{text}"
        )
    kinds = " and ".join(dict.fromkeys(kind.plural for kind in streams.values()))
    raise ValueError(f"--view {text}: {kinds} have no operations; leave it out")
