"""Worker processes on this machine: started fresh (spawn), fed one unit at a time, and watched.

Only JSON travels between the processes. A worker that dies is noticed with the way in which it died; workers end by themselves
when the process that started them is gone.

It is not `concurrent.futures.ProcessPoolExecutor`, which lacks three things until Python 3.14 at least. It cannot be stopped:
after Ctrl-C or an error, ``shutdown(cancel_futures=True)`` waits for the units that run and those that lie ready (measured
with two workers and tasks of 10 seconds: it came back after 19.7 s). It does not say how a worker died (``BrokenProcessPool: A
process in the process pool was terminated abruptly``), and so not that memory was the reason. And it has no way for news of a
unit that is not done yet.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit.partial import remove_abandoned
from tokenize_kit.shards.executors.base import Job, Setup
from tokenize_kit.shards.executors.worker import Worker, described, raise_again
from tokenize_kit.shards.ledger import UnitResult
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.sources.planning import Unit

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess


class ProcessesExecutor:
    """See `base.Executor`."""

    def __init__(self, options: EncodeOptions) -> None:
        self._workers = options.workers

    def run(self, units: Iterable[Unit], job: Job) -> None:
        """Encode units in processes of their own, each with one thread."""
        waiting = deque(units)
        left = len(waiting)
        job.saved()
        pool = _Pool(job.setup, min(self._workers, left))
        try:
            for connection in pool.connections:
                connection.send_bytes(_message(waiting.popleft().to_dict()))
            while left:
                for connection in cast("list[Connection]", wait(list(pool.connections))):
                    message = pool.receive(connection)
                    if "report" in message:
                        job.report(*message["report"])
                    elif "error" in message:
                        raise_again(message["error"])
                    else:
                        job.done(UnitResult.from_dict(message["result"]))
                        left -= 1
                        if waiting:
                            connection.send_bytes(_message(waiting.popleft().to_dict()))
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
        remove_abandoned(Path(self._out).glob("*.partial-*"))


def _work(connection: Connection, setup_json: str) -> None:
    """Serve units until the other end is closed."""
    # The terminal sends Ctrl-C to all processes; the first one tells the others when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()

    def report(samples: int, tokens: int, size: int) -> None:
        connection.send_bytes(_message({"report": [samples, tokens, size]}))

    try:
        worker = Worker(Setup.from_json(setup_json))
        while True:
            result = worker.encode(json.loads(connection.recv_bytes()), report)
            connection.send_bytes(_message({"result": result.to_dict()}))
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        connection.send_bytes(_message({"error": described(error)}))


def _message(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by another process"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
