"""Every command line of the README, of docs and of the help texts is one that the command line takes."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest

from tokenize_kit.cli.commands import all_commands, resolve
from tokenize_kit.cli.main import _find, _parse

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(*documents):
    text = "\n".join(
        block for path in documents for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    )
    lines = text.replace("\\\n", " ").splitlines()
    return [line.removeprefix("tokenize-kit ") for line in lines if line.startswith("tokenize-kit ")]


EXAMPLES = [example for command in all_commands().values() for example in command.examples]


def test_the_readme_shows_each_verb():
    shown = {line.split()[0] for line in commands_of(DOCUMENTS[0])}
    assert {"train", "encode", "decode", "evaluate", "generate", "inspect", "verify"} <= shown


@pytest.mark.parametrize("line", [*commands_of(*DOCUMENTS), *(line for line in EXAMPLES if "--config" not in line)])
def test_it_parses(line):
    commands = all_commands()
    # What stands behind is for the shell.
    command, rest = _find(list(takewhile(lambda word: word not in ("|", ">"), shlex.split(line))), commands)
    assert command is not None
    options, _ = _parse(command, resolve(command)[1], rest)
    assert type(options).__name__.endswith("Options")
