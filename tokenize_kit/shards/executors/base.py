"""What an executor is, what it is told, and how one is found by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from tokenize_kit.protocol import EXECUTORS, Placement, Tokenizer
from tokenize_kit.shards.ledger import UnitResult
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.shards.recipe import Recipe
from tokenize_kit.shards.unit import Report
from tokenize_kit.sources.planning import Unit


@dataclass(frozen=True)
class Setup:
    """What every worker of a run is told once: plain data."""

    recipe: Recipe
    """How to read and encode."""
    folders: dict[str, str]
    """Folder of the tokenizer of each stream, inside ``out``."""
    modules: tuple[str, ...]
    """Modules to import first: those that register the tokenizers."""
    out: str
    """Folder of the shard set."""
    max_failures: int
    """A unit alone may have so many samples that cannot be read."""
    placement: Placement
    """Where learned tokenizers compute."""

    def to_json(self) -> str:
        """Return the message to a worker; `from_json` is its inverse."""
        plain = {"recipe": self.recipe.to_dict(), "placement": self.placement.to_dict()}
        return json.dumps({**self.__dict__, **plain})

    @classmethod
    def from_json(cls, data: str | bytes) -> Setup:
        """Read the message of `to_json`."""
        values = json.loads(data)
        return cls(
            Recipe.from_dict(values["recipe"]),
            values["folders"],
            tuple(values["modules"]),
            values["out"],
            values["max_failures"],
            Placement(**values["placement"]),
        )


@dataclass(frozen=True)
class Job:
    """A run as its executor sees it."""

    setup: Setup
    """What it tells its workers."""
    tokenizers: Mapping[str, Tokenizer]
    """The tokenizer of each stream, in this process and in its usual place."""
    saved: Callable[[], None]
    """Returns when the folders of `Setup.folders` are there; to be called before a worker loads them."""
    report: Report
    """To be called now and then while units are encoded; see `encode_unit`."""
    done: Callable[[UnitResult], None]
    """To be called with each finished unit, in any order; an error that it raises ends the run."""
    left: Callable[[], tuple[int | None, int]]
    """How many samples, if there is a limit, and how many failures the next unit may have, once those before are done."""


class Executor(Protocol):
    """Encodes units, each of them once or more often: the result is the same."""

    def __init__(self, options: EncodeOptions) -> None:
        """Take what it needs of the options.

        Raises:
            MissingPackageError: it needs a package that is not installed.
            ValueError: an option does not fit it.
        """
        ...

    def run(self, units: Iterable[Unit], job: Job) -> None:
        """Encode all units. When it returns or raises, whatever still worked on them has been told to stop.

        Raises:
            RuntimeError: a worker died.
            FailureLimitError: one unit has more failures than allowed.
            OSError, ValueError: as `encode_unit` raised it, wherever that was.
        """
        ...


def executor_named(name: str) -> type[Executor]:
    """Return the executor that is registered under a name.

    Raises:
        ValueError: there is none; the message names those that there are.
    """
    return cast("type[Executor]", EXECUTORS.get(name))
