"""Worker processes that encode units: started fresh (spawn), fed one unit at a time, and watched.

Only JSON travels between the processes. A worker that dies is noticed with the unit that it had; workers end by themselves
when the process that started them is gone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit import errors
from tokenize_kit.protocol import Tokenizer, load_tokenizer
from tokenize_kit.shards.unit import FailureLimitError, Recipe, Report, UnitResult, encode_unit
from tokenize_kit.sources.blocks import Failure
from tokenize_kit.sources.planning import Unit

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess


@dataclass(frozen=True)
class Setup:
    """What every worker is told once."""

    recipe: Recipe
    folders: dict[str, str]
    """Folder of the tokenizer of each stream."""
    modules: tuple[str, ...]
    """Modules to import first: those that register the tokenizers."""
    out: str
    max_failures: int

    def to_json(self) -> bytes:
        """Return the message to a worker."""
        return json.dumps({**self.__dict__, "recipe": self.recipe.to_dict()}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Setup:
        """Read the message of `to_json`."""
        values = json.loads(data)
        return cls(
            Recipe.from_dict(values["recipe"]),
            values["folders"],
            tuple(values["modules"]),
            values["out"],
            values["max_failures"],
        )


def load_tokenizers(folders: Mapping[str, str], recipe: Recipe) -> dict[str, Tokenizer]:
    """Load the tokenizer of each stream and check that it is still the one of the recipe.

    Raises:
        ValueError: a folder holds another tokenizer by now.
    """
    tokenizers = {name: load_tokenizer(folder) for name, folder in folders.items()}
    for stream in recipe.streams:
        if tokenizers[stream.name].fingerprint != stream.fingerprint:
            raise ValueError(f"the tokenizer in {folders[stream.name]} was changed during the run; start again")
    return tokenizers


def encode_in_processes(
    units: Sequence[Unit], setup: Setup, workers: int, report: Report, done: Callable[[UnitResult], None]
) -> None:
    """Encode units in ``workers`` processes.

    Args:
        units: what to do, in any order.
        setup: how to do it.
        workers: number of processes.
        report: called as in `encode_unit`.
        done: called with each finished unit, in the order in which they finish.

    Raises:
        RuntimeError: a worker died.
        OSError, ValueError, TooManyFailuresError: as `encode_unit` raised it in a worker.
    """
    waiting = deque(units)
    pool = _Pool(setup, min(workers, len(units)))
    try:
        for connection in pool.connections:
            connection.send_bytes(json.dumps(waiting.popleft().to_dict()).encode())
        left = len(units)
        while left:
            for connection in cast("list[Connection]", wait(list(pool.connections))):
                message = pool.receive(connection)
                if "report" in message:
                    report(*message["report"])
                elif "error" in message:
                    _raise(message["error"])
                else:
                    done(UnitResult.from_dict(message["result"]))
                    left -= 1
                    if waiting:
                        connection.send_bytes(json.dumps(waiting.popleft().to_dict()).encode())
    finally:
        pool.stop()


class _Pool:
    def __init__(self, setup: Setup, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._out = setup.out
        self.connections: dict[Connection, SpawnProcess] = {}
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, setup.to_json()), daemon=True)
            process.start()
            theirs.close()
            self.connections[ours] = process

    def receive(self, connection: Connection) -> dict[str, Any]:
        try:
            message: dict[str, Any] = json.loads(connection.recv_bytes())
            return message
        except (EOFError, ConnectionError):
            process = self.connections[connection]
            process.join()
            code = process.exitcode or 0
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            hint = (
                " (most often the machine had no memory left: use fewer --workers)" if code == -signal.SIGKILL else ""
            )
            raise RuntimeError(
                f"a worker {how}{hint}; finished shards are kept, run the same command again to continue"
            ) from None

    def stop(self) -> None:
        for connection, process in self.connections.items():
            connection.close()
            process.terminate()
        for process in self.connections.values():
            process.join()
            for partial in Path(self._out).glob(f"*.partial-{process.pid}"):
                partial.unlink(missing_ok=True)


def _work(connection: Connection, setup_json: bytes) -> None:
    """Serve units until the other end is closed."""
    # The terminal sends Ctrl-C to all processes; the first one tells the others when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    _use_one_thread()
    try:
        setup = Setup.from_json(setup_json)
        for module in setup.modules:
            import_module(module)
        tokenizers = load_tokenizers(setup.folders, setup.recipe)

        def report(samples: int, tokens: int, size: int) -> None:
            connection.send_bytes(json.dumps({"report": [samples, tokens, size]}).encode())

        while True:
            unit = Unit.from_dict(json.loads(connection.recv_bytes()))
            result = encode_unit(
                unit, tokenizers, setup.recipe, setup.out, max_failures=setup.max_failures, report=report
            )
            connection.send_bytes(json.dumps({"result": result.to_dict()}).encode())
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        connection.send_bytes(json.dumps({"error": _described(error)}).encode())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by another process"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _use_one_thread() -> None:
    """Keep libraries from starting a thread a core in every worker."""
    import pyarrow

    pyarrow.set_cpu_count(1)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def _described(error: Exception) -> dict[str, Any]:
    failures = [[failure.key, failure.reason] for failure in getattr(error, "failures", [])]
    place = [error.errno, error.strerror, error.filename] if isinstance(error, OSError) else []
    return {"kind": type(error).__name__, "text": str(error), "failures": failures, "os": place}


def _raise(error: Mapping[str, Any]) -> None:
    """Raise here what was raised in a worker."""
    if error["failures"]:
        raise FailureLimitError([Failure(key, reason) for key, reason in error["failures"]])
    if error["os"]:
        raise OSError(*error["os"]) if error["os"][0] is not None else OSError(error["text"])
    kinds: dict[str, type[Exception]] = {"ValueError": ValueError, "TypeError": TypeError, "MemoryError": MemoryError}
    kinds["MissingPackageError"] = errors.MissingPackageError
    if error["kind"] in kinds:
        raise kinds[error["kind"]](error["text"])
    raise RuntimeError(f"{error['kind']} in a worker: {error['text']}")
