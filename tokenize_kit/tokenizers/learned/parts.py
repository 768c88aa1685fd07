"""Configurations made of parts: dataclasses of options to plain data and back, whatever the modality.

Only the standard library is imported, so that a command line can show every option at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from tokenize_kit.errors import did_you_mean

LEFT_OUT_UNSET = {"left out unset": True}
"""Metadata of a field that came later: while it is None a saved configuration does not have it, and stays the same bytes."""


def parts_to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass whose fields are dataclasses of options as a JSON-ready dictionary of dictionaries."""
    return {part.name: _options_to_dict(getattr(config, part.name)) for part in fields(config)}


def _options_to_dict(options: Any) -> dict[str, Any]:
    """Return options as they are saved: lists for tuples, without those that are `LEFT_OUT_UNSET`."""
    values = asdict(options)
    return {
        item.name: list(value) if isinstance(value := values[item.name], tuple) else value
        for item in fields(options)
        if values[item.name] is not None or not item.metadata.keys() >= LEFT_OUT_UNSET.keys()
    }


def build_parts(what: str, parts: Mapping[str, type[Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """Build each part of a configuration from the form of `parts_to_dict`.

    Args:
        what: what the configuration is of, for the error message.
        parts: the dataclass of each part.
        values: the options of each part.

    Raises:
        ValueError: a part is missing or unknown, or as `build_options`.
    """
    if set(values) != set(parts):
        raise ValueError(f"{what}'s configuration has the parts {sorted(parts)}, got {sorted(values)}")
    return {name: build_options(kind, values[name]) for name, kind in parts.items()}


def build_options(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Build a dataclass of options from a dictionary, in which lists stand for tuples.

    Raises:
        ValueError: an option is unknown (the message suggests the closest one) or out of range.
    """
    known = [item.name for item in fields(kind)]
    for name in values:
        if name not in known:
            raise ValueError(f"unknown option {name!r} of {kind.__name__}{did_you_mean(name, known)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
