"""The words of a command line as options with their values, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tokenize_kit.errors import UsageError

NULL = "\0null"
"""What stands for ``null`` of a YAML file; nobody can type it, as a word of a command line has no NUL."""

_OPTION = re.compile(r"--[A-Za-z][\w.-]*(=.*)?", re.DOTALL)


@dataclass(frozen=True)
class Given:
    """An option with the values that were given for it at one place."""

    name: str
    """With the hyphens before it; empty for what comes before the first option."""
    values: tuple[str, ...] = ()
    """As they were typed."""

    def __str__(self) -> str:
        return " ".join((self.name, *self.values))

    def words(self) -> list[str]:
        """Return it as the words of a command line.

        Raises:
            UsageError: a value that is not the first looks like an option.
        """
        for value in self.values[1:]:
            if value.startswith("--"):
                raise UsageError(
                    f"{self.name} {value}: of several values only the first may begin with '--'; write ./{value} for a file"
                )
        # However it was typed, what stands here as a value is one; attached, the parser cannot take it for an option.
        if self.name and self.values and self.values[0].startswith("-"):
            return [f"{self.name}={self.values[0]}", *self.values[1:]]
        return [self.name, *self.values] if self.name else list(self.values)


def given(words: Iterable[str], takes: Callable[[str, str], bool] = lambda _name, _word: False) -> list[Given]:
    """Return the options of a command line with their values, in order; ``--x=VALUE`` and ``--x VALUE`` are the same.

    A word that begins with two hyphens is an option, unless it is attached to one (``--prompt=--x``) or is the value that the
    option before it lacks.

    Args:
        words: of the command line.
        takes: called with an option that has no value yet and such a word behind it; whether the word is its value.
    """
    found: list[Given] = [Given("")]
    for word in words:
        last = found[-1]
        lacking = bool(last.name) and not last.values
        if word.startswith("--") and len(word) > 2 and not (lacking and takes(last.name, word)):
            name, equals, value = word.partition("=")
            found.append(Given("--" + name[2:].replace("_", "-"), (value,) if equals else ()))
        else:
            found[-1] = Given(last.name, (*last.values, word))
    return found if found[0].values else found[1:]


def spelt_as_option(word: str) -> str | None:
    """Return the name of the option that a word may be by its spelling; None for one with a space before any equals sign."""
    if not _OPTION.fullmatch(word):
        return None
    return "--" + word.partition("=")[0][2:].replace("_", "-")


def merged(config: Iterable[Given], typed: Iterable[Given]) -> list[Given]:
    """Join the options of a file and of the command line; an option that was typed replaces that of the file.

    Options given several times (``--tokenizer A --tokenizer B``) become one with all values, in order.
    """
    options = _joined(config)
    for name, one in _joined(typed).items():
        options[name] = one
        # --dry-run and --no-dry-run are one option: the typed one wins.
        options.pop(opposite(name), None)
    return sorted(options.values(), key=lambda one: bool(one.name))  # what has no option comes first


def opposite(name: str) -> str:
    """Return ``--a.no-b`` for ``--a.b``, and the other way."""
    head, dot, last = name[2:].rpartition(".")
    return f"--{head}{dot}{last[3:]}" if last.startswith("no-") else f"--{head}{dot}no-{last}"


def _joined(options: Iterable[Given]) -> dict[str, Given]:
    groups: dict[str, Given] = {}
    for one in options:
        before = groups.get(one.name, Given(one.name))
        groups[one.name] = Given(one.name, (*before.values, *one.values))
    return groups
