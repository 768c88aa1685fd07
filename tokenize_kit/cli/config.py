"""A YAML file as a prefix of the command line.

``--config run.yaml`` turns every entry of the file into the option it names, in front of the options that were typed, so
that types, defaults and suggestions for misspelt names are those of the command line, and what is typed wins. A ``null`` is no
text: an option that may have no value has none, and any other is as if it was not in the file.

Anchors and aliases are taken as YAML means them, but a file in which they refer to themselves, or to each other so often that it
would become thousands of values, is refused before it is put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenize_kit.cli.options import CommandOptions
from tokenize_kit.cli.tokens import NULL, given, merged, opposite
from tokenize_kit.errors import UsageError

_MAX_BYTES = 1 << 20
_MAX_VALUES = 10_000
_MAX_DEPTH = 32


def read_config_tokens(path: str) -> list[str]:
    """Read a YAML mapping as command-line tokens: ``{model: {layers: 4}}`` becomes ``--model.layers 4``.

    Raises:
        UsageError: the file is missing, is not YAML, its top level is not a mapping, an option is in it twice, or it is no file
            of options: too large, too deep, or referring to itself.
    """
    import yaml

    file = Path(path)
    if not file.is_file():
        raise UsageError(f"--config {path}: there is no such file")
    if (size := file.stat().st_size) > _MAX_BYTES:
        raise UsageError(f"--config {path} has {size:,} bytes; a file of options has at most {_MAX_BYTES:,}")
    try:
        text = file.read_text(encoding="utf-8")
        # In nodes an alias is a reference, so that nothing has grown yet.
        node = yaml.compose(text, yaml.SafeLoader)
        _count(node, path, 0, ())
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"--config {path} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UsageError(f"--config {path} is nested too deeply; options have at most {_MAX_DEPTH} levels") from None
    if not isinstance(values, Mapping):
        raise UsageError(f"--config {path} must hold 'option: value' lines, got a {type(values).__name__}")
    _refuse_repeated(node, path, "--", {})
    try:
        return list(_tokens(values, "--"))
    except ValueError as error:
        raise UsageError(f"--config {path}: {error}") from None


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


def _count(node: Any, path: str, count: int, above: tuple[int, ...]) -> int:
    """Add the values of a YAML node to a count, as many as they are when its aliases are followed.

    Raises:
        UsageError: there are too many, they are nested too deeply, or the node is inside itself.
    """
    if node is None or node.id == "scalar":
        inside: list[Any] = []
    elif id(node) in above:
        line = node.start_mark.line + 1
        raise UsageError(f"--config {path}: what begins in line {line} refers to itself; write its values out")
    elif len(above) >= _MAX_DEPTH:
        raise UsageError(f"--config {path} is nested too deeply; options have at most {_MAX_DEPTH} levels")
    else:
        inside = node.value if node.id == "sequence" else [part for pair in node.value for part in pair]
    count += 1
    if count > _MAX_VALUES:
        raise UsageError(f"--config {path} has more than {_MAX_VALUES:,} values when its aliases are followed")
    for part in inside:
        count = _count(part, path, count, (*above, id(node)))
    return count


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
        elif value is None:
            tokens += [name, NULL]
        elif isinstance(value, list):
            if None in value:
                raise ValueError(f'{name} has a null among its values; leave it out, or write "null" for the word')
            tokens += _option(name, [str(item) for item in value])
        else:
            tokens += _option(name, [str(value)])
    return tokens


def _option(name: str, values: list[str]) -> list[str]:
    """Return an option with its values, which are attached to it if one of them looks like an option."""
    return (
        [f"{name}={value}" for value in values] if any(value.startswith("-") for value in values) else [name, *values]
    )
