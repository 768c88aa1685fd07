"""What the configurations of the families share: sizes, checks that name the field, a plain form, and what follows from the data.

A family's configuration is a frozen dataclass that inherits from `FamilyConfig`; its fields, with a docstring under each, are
what ``train sequence --set NAME=VALUE`` may change and what its help lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol, Self, get_args, get_type_hints, runtime_checkable

from tokenize_kit.errors import did_you_mean


@dataclass(frozen=True)
class FamilyConfig:
    """Sizes that every family has. A subclass checks its own fields in ``__post_init__`` after ``super().__post_init__()``."""

    of_the_data: ClassVar[Mapping[str, str]] = {}
    """Fields that training sets, and what they follow from: no option may."""
    vocab_size: int = 256
    """Number of ids."""
    context: int = 256
    """Longest sequence in tokens."""

    def __post_init__(self) -> None:
        self.at_least(1, "vocab_size", "context")
        for name, kind in get_type_hints(type(self)).items():
            choices = get_args(kind)
            if choices and isinstance(choices[0], str) and (value := getattr(self, name)) not in choices:
                raise ValueError(
                    f"{name} {value!r} is not one of {', '.join(choices)}{did_you_mean(str(value), choices)}"
                )

    def at_least(self, least: float, *names: str) -> None:
        """Refuse fields below ``least``; None is let through.

        Raises:
            ValueError: names the first such field.
        """
        for name in names:
            if (value := getattr(self, name)) is not None and not value >= least:
                raise ValueError(f"{name} {value} must be at least {least:g}")

    def probability(self, *names: str) -> None:
        """Refuse fields that are not in [0, 1).

        Raises:
            ValueError: names the first such field.
        """
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be in [0, 1)")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from `to_dict`'s form.

        Raises:
            ValueError: a field is unknown (the message suggests the closest one) or out of range.
        """
        known = tuple(field.name for field in fields(cls))
        for name in values:
            if name not in known:
                raise ValueError(f"unknown field {name!r} (known: {', '.join(known)}){did_you_mean(name, known)}")
        given: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()}
        return cls(**given)


@dataclass(frozen=True)
class TemplatePart:
    """What a family is told of a part of a template that it shall serve."""

    name: str
    """As the template has it."""
    predicted: bool
    """Whether it is right of the arrow."""
    axes: tuple[str, ...]
    """Of the places of its grids, without codebooks and channels."""
    depth: int
    """The most ids of a place: codebooks or channels."""
    is_open: bool
    """Whether the first axis has no end."""
    in_grid_order: bool
    """Whether its ids come as they stand in the grid."""


@runtime_checkable
class FitsTemplates(Protocol):
    """A family of which some settings follow from the templates, or that does not serve all of them; a model class may be one."""

    @classmethod
    def settings_for(cls, templates: Sequence[Sequence[TemplatePart]]) -> dict[str, Any]:
        """Return the fields of the configuration that follow from the parts of the templates.

        Raises:
            ValueError: it cannot serve one of them; says which part, and what to do.
        """
        ...
