"""Ray actors: processes on this machine, or on all machines of a running cluster (``--ray-address``).

A unit goes out as JSON and its ledger comes back as JSON; no row of a shard ever passes through Ray. An actor reads the input
and writes the shard by itself, so on another machine ``--out`` and the input must lie under the same paths as here (a shared
file system, or URLs for the input), and this package must be installed there. The tokenizers it loads from ``--out``.

An actor that dies is replaced, and its unit is encoded again; after `TRIES` deaths over one unit it is an error. A driver that
dies takes a Ray that it started itself with it, and a later run skips the units that are finished.

Ray is an extra: ``pip install tokenize-kit[ray]``. It is imported only when a run uses it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tokenize_kit.errors import MissingPackageError
from tokenize_kit.partial import remove_abandoned
from tokenize_kit.shards.executors.base import Job, Setup
from tokenize_kit.shards.executors.worker import Worker, described, raise_again
from tokenize_kit.shards.ledger import UnitResult
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.sources.planning import Unit

TRIES = 4
"""So many actors may die over one unit, or one after the other before they have begun."""
OBJECT_STORE_BYTES = 100_000_000
"""Memory that a local Ray sets aside for objects, of which we have none: about the least that it takes."""


class RayExecutor:
    """See `base.Executor`."""

    def __init__(self, options: EncodeOptions) -> None:
        if find_spec("ray") is None:
            raise MissingPackageError("--executor ray needs Ray: pip install tokenize-kit[ray]")
        self._workers, self._address = options.workers, options.ray_address

    def run(self, units: Iterable[Unit], job: Job) -> None:
        """Encode units in Ray actors, each with one CPU."""
        job.saved()
        waiting = [_Task(unit) for unit in units]
        ray, ours = _start(self._workers, self._address)
        try:
            crew = _Crew(ray, job, min(self._workers, len(waiting)))
            try:
                crew.encode(waiting)
            finally:
                crew.stop()
        finally:
            if ours:
                ray.shutdown()
            remove_abandoned(Path(job.setup.out).glob("*.partial-*"))


@dataclass
class _Task:
    """A unit, and how many actors have died over it."""

    unit: Unit
    deaths: int = 0


class _Crew:
    """The actors of a run, and what each of them is busy with."""

    def __init__(self, ray: Any, job: Job, workers: int) -> None:
        self._ray, self._job = ray, job
        self._actor = ray.remote(_Actor).options(
            num_cpus=1, num_gpus=_gpu_share(ray, job.setup, workers), max_restarts=0, max_task_retries=0
        )
        # What Ray will answer, and from whom: a stream of messages about a task, or None for one that starts.
        self._awaited: dict[Any, tuple[Any, _Task | None]] = {}
        self._idle: list[Any] = []
        self._failed_starts = 0
        for _ in range(workers):
            self._hire()

    def encode(self, tasks: list[_Task]) -> None:
        waiting, left = deque(tasks), len(tasks)
        while left:
            while waiting and self._idle:
                actor, task = self._idle.pop(), waiting.popleft()
                self._awaited[actor.encode.remote(json.dumps(task.unit.to_dict()))] = actor, task
            (answer,), _ = self._ray.wait(list(self._awaited), num_returns=1)
            actor, current = self._awaited.pop(answer)
            try:
                message = json.loads(self._ray.get(answer if current is None else next(answer)))
            except self._ray.exceptions.RayActorError as error:
                self._replace(current, error)
                if current is not None:
                    waiting.appendleft(current)
                continue
            if "error" in message:
                raise_again(message["error"])
            if "report" in message:
                self._job.report(*message["report"])
                self._awaited[answer] = actor, current
                continue
            self._idle.append(actor)
            if current is None:
                self._failed_starts = 0
            else:
                self._job.done(UnitResult.from_dict(message["result"]))
                left -= 1

    def stop(self) -> None:
        for actor in [*self._idle, *(actor for actor, _ in self._awaited.values())]:
            self._ray.kill(actor)

    def _hire(self) -> None:
        actor = self._actor.remote(self._job.setup.to_json(), str(Path.cwd()), sys.path)
        self._awaited[actor.ready.remote()] = actor, None

    def _replace(self, task: _Task | None, error: Exception) -> None:
        """Start an actor in the place of a dead one, unless it has been done too often."""
        if task is None:
            self._failed_starts += 1
            deaths, what = self._failed_starts, "one after the other while they started"
        else:
            task.deaths += 1
            deaths, what = task.deaths, f"over shard {task.unit.index:05}"
        if deaths >= TRIES:
            raise RuntimeError(
                f"{deaths} Ray workers died {what} (most often a machine had no memory left: use fewer --workers); finished "
                "shards are kept, run the same command again to continue"
            ) from error
        self._hire()


class _Actor:
    """Runs in a process of Ray; what it takes and gives is JSON.

    Args:
        setup: as `Setup.to_json` gives it.
        folder: that of the driver, to which relative paths belong.
        path: where the driver looks for modules.
    """

    def __init__(self, setup: str, folder: str, path: list[str]) -> None:
        sys.path.extend(entry for entry in path if entry not in sys.path)
        with suppress(OSError):  # on another machine it need not be there, if all paths are absolute
            os.chdir(folder)
        self._worker: Worker | None = None
        self._error: dict[str, Any] = {}
        try:
            self._worker = Worker(Setup.from_json(setup))
        except Exception as error:
            self._error = {"error": described(error)}

    def ready(self) -> str:
        """Answer when the tokenizers are loaded, with the error if they are not."""
        return json.dumps(self._error)

    def encode(self, unit: str) -> Iterator[str]:
        """Encode a unit; yield reports while it goes on, and its ledger or its error last."""
        worker = self._worker
        assert worker is not None, "only an actor that is ready is given units"
        messages: SimpleQueue[dict[str, Any]] = SimpleQueue()

        def work() -> None:
            try:
                result = worker.encode(json.loads(unit), lambda *added: messages.put({"report": added}))
                messages.put({"result": result.to_dict()})
            except Exception as error:
                messages.put({"error": described(error)})

        threading.Thread(target=work, daemon=True).start()
        while "report" in (message := messages.get()):
            yield json.dumps(message)
        yield json.dumps(message)


def _start(workers: int, address: str | None) -> tuple[Any, bool]:
    """Return the module ``ray``, connected, and whether this process must end the connection.

    Raises:
        ConnectionError: there is no cluster at ``address``.
    """
    # Before the import, which reads them: nothing is sent home, and no GPU is hidden from the tokenizers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return ray, False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
        return ray, True
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except (OSError, SystemExit) as error:
        raise ConnectionError(f"--ray-address {address}: no Ray cluster answers there ({error})") from None
    return ray, True


def _knock(address: str) -> None:
    """See whether anybody listens; Ray itself tries for minutes, prints much and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _gpu_share(ray: Any, setup: Setup, workers: int) -> float:
    """Return which part of a GPU each of the workers has, so that all find room."""
    if setup.placement.device != "cuda":
        return 0
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if not gpus:
        raise ValueError("--device cuda: Ray knows of no GPU; use --device cpu")
    return 1 / -(-workers // gpus)
