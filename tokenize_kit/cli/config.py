"""A YAML file as a prefix of the command line.

``--config run.yaml`` turns every entry of the file into the option it names, in front of the options that were typed, so
that types, defaults and suggestions for misspelt names are those of the command line, and what is typed wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenize_kit.errors import UsageError


def read_config_tokens(path: str) -> list[str]:
    """Read a YAML mapping as command-line tokens: ``{model: {layers: 4}}`` becomes ``--model.layers 4``.

    Raises:
        UsageError: the file is missing, is not YAML, or its top level is not a mapping.
    """
    import yaml

    file = Path(path)
    if not file.is_file():
        raise UsageError(f"--config {path}: there is no such file")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise UsageError(f"--config {path} must hold 'option: value' lines, got a {type(values).__name__}")
    return list(_tokens(values, "--"))


def merge_tokens(config: list[str], typed: list[str]) -> list[str]:
    """Join the options of a file and of the command line; an option that was typed replaces that of the file.

    Options given several times (``--tokenizer A --tokenizer B``) become one with all values, in order.
    """
    options = _grouped(config)
    for name, values in _grouped(typed).items():
        options[name] = values
        # --dry-run and --no-dry-run are one option: the typed one wins.
        options.pop(_opposite(name), None)
    positional = options.pop("", [])
    return [*positional, *(token for name, values in options.items() for token in (name, *values))]


def _opposite(name: str) -> str:
    head, dot, last = name[2:].rpartition(".")
    return f"--{head}{dot}{last[3:]}" if last.startswith("no-") else f"--{head}{dot}no-{last}"


def _grouped(tokens: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    name = ""
    for token in tokens:
        if token.startswith("--") and len(token) > 2:
            name, equals, value = token.partition("=")
            name = "--" + name[2:].replace("_", "-")
            groups.setdefault(name, [])
            if equals:
                groups[name].append(value)
        else:
            groups.setdefault(name, []).append(token)
    return groups


def _tokens(values: Mapping[Any, Any], prefix: str) -> list[str]:
    tokens: list[str] = []
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', '-')}"
        if isinstance(value, Mapping):
            tokens += _tokens(value, f"{name}.")
        elif value is True:
            tokens.append(name)
        elif value is False:
            tokens.append(_opposite(name))
        elif isinstance(value, list):
            tokens += [name, *map(str, value)]
        else:
            tokens += [name, str(value)]
    return tokens
