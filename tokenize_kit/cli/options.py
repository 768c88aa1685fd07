"""Which options a command has, by the dataclasses that it takes, and how often and with what each may be given."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tokenize_kit.cli.tokens import NULL, Given, opposite, spelt_as_option
from tokenize_kit.errors import UsageError

Kind = Literal["flag", "optional flag", "several", "phrase", "value"]
"""flag: ``--x`` and ``--no-x``; optional flag: these, and ``--x True``, ``--x False``; several: names, which may be given
in turn (``--tokenizer A --tokenizer B``); phrase: a name or a text, such as a prompt; value: anything else.
The last two are given once."""


class CommandOptions:
    """The options of one command.

    Args:
        command: its words, such as ``train image``.
        kinds: the dataclasses that it takes.
    """

    def __init__(self, command: str, *kinds: type[Any]) -> None:
        self.command = command
        self.flags: dict[str, Kind] = {}
        """Everything that may be typed, with ``--no-`` forms; an option of a dataclass in a dataclass has its name first."""
        self._hints: dict[str, Any] = {}
        for kind in kinds:
            self._hints |= _hints(kind, "--")
        for name, hint in self._hints.items():
            self.flags[name] = _kind_of(hint)
            if self.flags[name] in ("flag", "optional flag"):
                self.flags[opposite(name)] = self.flags[name]

    def takes(self, name: str, word: str) -> bool:
        """Return whether a word that begins with two hyphens is the value of the option before it, which has none yet.

        What cannot be an option by its spelling is (``--prompt "-- a dash"``). So is, for a text, a word that is no option of
        this command and not nearly one, which would be a misspelt option.
        """
        kind = self.flags.get(name)
        if kind not in ("several", "phrase", "value"):
            return False
        option = spelt_as_option(word)
        if option is None:
            return True
        return kind == "phrase" and option not in self._typed() and not get_close_matches(option, self._typed(), n=1)

    def _typed(self) -> set[str]:
        """Return all that may be typed, with the help that every command has and with ``--no-a.b`` for ``--a.no-b``."""
        denied = {f"--no-{flag[2:]}" for flag, kind in self.flags.items() if kind in ("flag", "optional flag")}
        return {*self.flags, *denied, "--help"}

    def checked(self, given: list[Given], where: str = "") -> list[Given]:
        """Return what was given under the names of the options: ``--no-a.b`` is ``--a.no-b``, and optional flags have values.

        Args:
            given: by one source, a file or the command line.
            where: the source, for messages.

        Raises:
            UsageError: an option is unknown (the message suggests the closest one), or is given twice and takes one value.
        """
        found = [self._named(one) for one in given]
        seen: dict[str, Given] = {}
        for one in found:
            name = self._option(one.name)
            if name in seen and self.flags.get(name) != "several":
                first = seen[name]
                both = f"{one} is given twice" if str(first) == str(one) else f"{first} and {one} are both given"
                raise UsageError(f"{where}{both}; give {name} once")
            seen[name] = one
        return [self._valued(one) for one in found if one.values != (NULL,) or self._may_be_none(one.name)]

    def _option(self, flag: str) -> str:
        """Return the option that a flag belongs to: ``--a.b`` for ``--a.no-b``."""
        head, dot, last = flag[2:].rpartition(".")
        bare = f"--{head}{dot}{last.removeprefix('no-')}"
        return bare if self.flags.get(flag) in ("flag", "optional flag") and bare in self.flags else flag

    def _named(self, one: Given) -> Given:
        if not one.name or one.name in self.flags:
            return one
        head, dot, last = one.name.removeprefix("--no-").rpartition(".")
        if one.name.startswith("--no-") and dot and f"--{head}.no-{last}" in self.flags:
            return dataclasses.replace(one, name=f"--{head}.no-{last}")
        # tyro suggests too, but not when a required option is missing as well, which is what a misspelt one looks like.
        close = get_close_matches(one.name, self.flags, n=1)
        close = close or [flag for flag in self.flags if flag.endswith(f".{one.name[2:]}")]
        hint = f"; did you mean {close[0]}?" if close else ""
        command = self.command
        raise UsageError(f"'{command}' has no option {one.name}{hint} ('tokenize-kit {command} --help' lists all)")

    def _may_be_none(self, name: str) -> bool:
        return NoneType in get_args(self._hints.get(self._option(name)))

    def _valued(self, one: Given) -> Given:
        """Return an optional flag with the value that it stands for, a null as the parser knows it, anything else as it is."""
        if one.values == (NULL,) and not holds_texts(self._hints.get(one.name)):
            return dataclasses.replace(one, values=("None",))
        if self.flags.get(one.name) != "optional flag":
            return one
        name = self._option(one.name)
        if name == one.name:
            return one if one.values else dataclasses.replace(one, values=("True",))
        if one.values:
            raise UsageError(f"{one.name} takes no value; leave out {one.values[0]}, or give {name} {one.values[0]}")
        return dataclasses.replace(one, name=name, values=("False",))


def _hints(kind: type[Any], prefix: str) -> dict[str, Any]:
    """Return the type of each option of a dataclass."""
    found: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for name in (field.name for field in dataclasses.fields(kind)):
        hint, word = hints[name], name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            found |= _hints(hint, f"{prefix}{word}.")  # type: ignore[arg-type]
        else:
            found[f"{prefix}{word}"] = hint
    return found


def holds_texts(hint: Any) -> bool:
    """Whether a type is that of a text, or of several, which may be None: any word is a text, and None is no word."""
    members = get_args(hint)
    return len(members) == 2 and NoneType in members and (str in members or tuple[str, ...] in members)


def _kind_of(hint: Any) -> Kind:
    if hint is bool:
        return "flag"
    members = [member for member in get_args(hint) if member is not NoneType]
    if members == [bool]:
        return "optional flag"
    alone = members[0] if len(members) == 1 else hint
    if alone is str:
        return "phrase"
    return "several" if get_origin(alone) is tuple and get_args(alone) == (str, ...) else "value"
