"""Find the command, parse its options, call its function, print its result, and turn errors into one line and a code.

Exit codes: 0 ok, 1 error, 2 usage, 3 verification failed, 4 optional package missing, 5 too many failed samples,
130 interrupted (Ctrl-C or SIGTERM). Results go to stdout, everything else to stderr; where an option sends data there as they are
made (`stdout_taken_by` of a command's options), the result goes to stderr too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, get_args

from tokenize_kit.cli.commands import Command, all_commands, resolve
from tokenize_kit.cli.config import merge_tokens, read_config_tokens
from tokenize_kit.cli.help_texts import join_lines, paragraphs
from tokenize_kit.cli.options import CommandOptions, holds_texts
from tokenize_kit.cli.tokens import NULL
from tokenize_kit.errors import UsageError, is_out_of_memory
from tokenize_kit.files import check_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from tyro.constructors import ConstructorRegistry

INTERRUPTED = 130
NOTHING_DONE = "nothing was written, and the same command begins anew"
"""What is true of a command that writes only at its end."""

_MADE = {"encode": "shard set", "pairs": "shard set"}
"""What the folder is called that a command writes, where it has a name of its own."""


@dataclasses.dataclass(frozen=True)
class CommonOptions:
    """Options of every command."""

    config: str | None = None
    """A YAML file of options; what is typed on the command line wins."""
    json: bool = False
    """Print the result as JSON on stdout."""
    quiet: bool = False
    """No progress on stderr."""
    debug: bool = False
    """Show the whole traceback of an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: the words after ``tokenize-kit``; those of the process if None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        return _run(arguments)
    except SystemExit as stop:  # tyro leaves this way, after its own message
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt as stop:
        print(f"interrupted; {str(stop) or NOTHING_DONE}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout left (| head); pointing stdout at nothing keeps the interpreter's last flush silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        code = getattr(error, "exit_code", None)
        if code is None and not isinstance(
            error, (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError)
        ):
            print("this is a bug in tokenize-kit; --debug shows where", file=sys.stderr)
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return code if isinstance(code, int) else 1


def _run(arguments: list[str]) -> int:
    commands = all_commands()
    command, rest = _find(arguments, commands)
    if command is None:
        verb = arguments[0] if arguments and arguments[0] not in ("-h", "--help") else ""
        _print_overview(commands, verb)
        return 0 if not arguments or "-h" in rest or "--help" in rest else 2
    function, options_type = resolve(command)
    options, common = _parse(command, options_type, rest)
    for name, option, what in (("out", "--out", _MADE.get(command.words, "folder")), ("target", "TARGET", "file")):
        if isinstance(path := getattr(options, name, None), str):
            check_local(path, option, what)
    # What goes to stdout while it is made leaves no room for more there.
    taken = getattr(options, "stdout_taken_by", None)
    if taken and common.json:
        raise UsageError(f"{taken} and --json both write to stdout; leave one of them out")
    try:
        with _terminable():
            result = _call(function, options, quiet=common.quiet)
    except KeyboardInterrupt:
        # What is true now is known to the options: where they write, and what such a command leaves there.
        said = getattr(options, "interrupted", None)
        raise KeyboardInterrupt(said() if said else NOTHING_DONE) from None
    if not taken:
        _print_result(result, as_json=common.json)
    elif not common.quiet:
        with redirect_stdout(sys.stderr):
            _print_result(result, as_json=False)
    return int(getattr(result, "exit_code", 0))


@contextmanager
def _terminable() -> Iterator[None]:
    """Have a SIGTERM end the command as Ctrl-C does: what is half written goes, and what is true is said."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _find(arguments: list[str], commands: dict[str, Command]) -> tuple[Command | None, list[str]]:
    for length in (2, 1):
        words = " ".join(arguments[:length])
        if len(arguments) >= length and words in commands:
            return commands[words], arguments[length:]
    verbs = {words.split()[0] for words in commands}
    if not arguments or arguments[0] in ("-h", "--help"):
        return None, ["--help"]
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"tokenize-kit {version('tokenize-kit')}")
        raise SystemExit(0)
    if arguments[0] in verbs and (len(arguments) == 1 or arguments[1].startswith("-")):
        return None, arguments[1:]
    typed = " ".join(word for word in arguments[:2] if not word.startswith("-"))
    close = get_close_matches(typed, commands, n=1) or get_close_matches(arguments[0], commands, n=1)
    hint = f"; did you mean 'tokenize-kit {close[0]}'?" if close else ""
    raise UsageError(f"there is no command {typed!r}{hint} ('tokenize-kit --help' lists all)")


def _parse(command: Command, options_type: type[Any], typed: list[str]) -> tuple[Any, CommonOptions]:
    import tyro

    flatten = tyro.conf.arg(name="")
    invocation = dataclasses.make_dataclass(
        "Invocation",
        [("options", Annotated[options_type, flatten]), ("common", Annotated[CommonOptions, flatten])],
        frozen=True,
    )
    wants_help = "-h" in typed or "--help" in typed
    if not wants_help:
        known = CommandOptions(command.words, options_type, CommonOptions)
        path = _config_path(typed)
        typed = merge_tokens(read_config_tokens(path) if path else [], typed, known)
    if wants_help:
        join_lines(options_type)
    try:
        parsed: Any = tyro.cli(
            invocation,
            prog=f"tokenize-kit {command.words}",
            description=paragraphs(options_type.__doc__ or command.summary),
            args=typed,
            config=(tyro.conf.HelptextFromCommentsOff,),
            registry=_texts_as_they_are(),
        )
    except SystemExit:
        more = getattr(options_type, "more_help", None)
        if wants_help and more is not None and (said := more(typed)):
            print(f"\n{said}")
        if wants_help and command.examples:
            print("\n".join(["", "examples:", *(f"  tokenize-kit {example}" for example in command.examples)]))
        raise
    return parsed.options, parsed.common


def _texts_as_they_are() -> ConstructorRegistry:
    """Return how the parser shall read texts that may be left out; by itself it takes the word None for nothing."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def _rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if not holds_texts(info.type):
            return None
        if str in get_args(info.type):
            return PrimitiveConstructorSpec(
                nargs=1,
                metavar="STR",
                instance_from_str=lambda words: None if words == [NULL] else words[0],
                is_instance=lambda value: value is None or isinstance(value, str),
                str_from_instance=lambda value: ["None" if value is None else value],
            )
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar="[STR [STR ...]]",
            instance_from_str=lambda words: None if words == [NULL] else tuple(words),
            is_instance=lambda value: value is None or isinstance(value, tuple),
            str_from_instance=lambda value: ["None"] if value is None else list(value),
        )

    return registry


def _config_path(typed: list[str]) -> str | None:
    for place, token in enumerate(typed):
        if token.startswith("--config="):
            return token.partition("=")[2]
        if token == "--config" and place + 1 < len(typed):
            return typed[place + 1]
    return None


def _call(function: Callable[..., Any], options: Any, quiet: bool) -> Any:
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    if "progress" not in names:
        return function(options)
    from tokenize_kit.progress import Progress

    with Progress(enabled=not quiet) as progress:
        return function(options, progress=progress)


def _print_result(result: Any, as_json: bool) -> None:
    values = result.to_dict() if hasattr(result, "to_dict") else dataclasses.asdict(result)
    if as_json:
        print(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
    elif hasattr(result, "to_text"):
        print(result.to_text())
    else:
        from tokenize_kit.progress import readable

        width = max(map(len, values), default=0)
        for name, value in values.items():
            print(f"{name.replace('_', ' '):<{width}}  {readable(value)}")


def _one_line(error: BaseException) -> str:
    if is_out_of_memory(error) and not str(error).startswith("out of memory: "):
        return "out of memory; use a smaller --batch-size or --workers"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _print_overview(commands: dict[str, Command], verb: str = "") -> None:
    shown = {words: command for words, command in commands.items() if not verb or words.split()[0] == verb}
    width = max(map(len, shown), default=0)
    lines = [f"usage: tokenize-kit {verb or 'COMMAND'} {'NAME ' if verb else ''}[OPTIONS]", ""]
    if not verb:
        lines += [
            "Turn text, pictures, video and sound into discrete tokens, and train one model on whatever tokens it is given.",
            "",
        ]
    lines += [f"  {words:<{width}}  {command.summary}" for words, command in shown.items()]
    if not verb:
        lines += [
            "",
            "three commands from files to a model:",
            "  tokenize-kit train bpe --data corpus.txt --out tokenizers/text",
            "  tokenize-kit encode --tokenizer tokenizers/text --data corpus.txt --split paragraphs --out shards/text",
            "  tokenize-kit train transformer --shards shards/text --template text --out models/text",
            "for pictures begin with 'train image', for sound with 'train audio', for films with 'train video';",
            "'demo' shows text, pictures and sound in some minutes",
            "",
            "every command: --help (with examples), --config FILE.yaml, --json, --quiet, --debug",
            "exit codes: 0 ok, 1 error, 2 usage, 3 verification failed, 4 package missing, 5 too many failures, 130 interrupted",
        ]
    elif len(shown) > 1:
        lines += ["", f"'tokenize-kit {verb} NAME --help' shows the options and examples of one"]
    print("\n".join(lines))
