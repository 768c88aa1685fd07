"""A YAML file as a prefix of the command line.

``--config run.yaml`` turns every entry of the file into the option it names, in front of the options that were typed, so
that types, defaults and suggestions for misspelt names are those of the command line, and what is typed wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenize_kit.cli.options import CommandOptions
from tokenize_kit.cli.tokens import given, merged, opposite
from tokenize_kit.errors import UsageError


def read_config_tokens(path: str) -> list[str]:
    """Read a YAML mapping as command-line tokens: ``{model: {layers: 4}}`` becomes ``--model.layers 4``.

    Raises:
        UsageError: the file is missing, is not YAML, its top level is not a mapping, or an option is in it twice.
    """
    import yaml

    file = Path(path)
    if not file.is_file():
        raise UsageError(f"--config {path}: there is no such file")
    try:
        text = file.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise UsageError(f"--config {path} must hold 'option: value' lines, got a {type(values).__name__}")
    _refuse_repeated(node, path, "--", {})
    return list(_tokens(values, "--"))


def merge_tokens(config: list[str], typed: list[str], known: CommandOptions | None = None) -> list[str]:
    """Join the options of a file and of the command line, as `tokenize_kit.cli.tokens.merged` does.

    Args:
        config: of the file; see `read_config_tokens`.
        typed: of the command line.
        known: the options of the command, by which both are checked; None takes all as they come.

    Raises:
        UsageError: an option is unknown, or is given twice and takes one value.
    """
    sources = given(config), given(typed, known.takes) if known is not None else given(typed)
    if known is not None:
        sources = known.checked(sources[0], "in the file of --config: "), known.checked(sources[1])
    return [word for one in merged(*sources) for word in one.words()]


def _refuse_repeated(node: Any, path: str, prefix: str, lines: dict[str, int]) -> None:
    """Refuse an option that the nodes of a YAML mapping name twice, of which the loader would take the last."""
    for key, value in node.value:
        name = f"{prefix}{str(key.value).replace('_', '-')}"
        if value.id == "mapping":
            _refuse_repeated(value, path, f"{name}.", lines)
            continue
        line = key.start_mark.line + 1
        if name in lines:
            raise UsageError(f"--config {path} gives {name} twice (lines {lines[name]} and {line})")
        lines[name] = line


def _tokens(values: Mapping[Any, Any], prefix: str) -> list[str]:
    tokens: list[str] = []
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', '-')}"
        if isinstance(value, Mapping):
            tokens += _tokens(value, f"{name}.")
        elif value is True:
            tokens.append(name)
        elif value is False:
            tokens.append(opposite(name))
        elif isinstance(value, list):
            tokens += _option(name, [str(item) for item in value])
        else:
            tokens += _option(name, [str(value)])
    return tokens


def _option(name: str, values: list[str]) -> list[str]:
    """Return an option with its values, which are attached to it if one of them looks like an option."""
    return (
        [f"{name}={value}" for value in values] if any(value.startswith("-") for value in values) else [name, *values]
    )
