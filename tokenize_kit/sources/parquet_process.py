"""Parquet files read in a process whose death is survived: started when the first one is opened, then kept for the next.

The process runs `parquet_decoder` and hands over Arrow record batches. It is started fresh, not forked: threads of Arrow and of
torch may hold locks at any moment. Memory and time are bounded there; what dies over a file is started anew, and goes on behind
the row group that killed it. Only this end opens URLs, so that a file system that is known here alone can be read.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from typing import IO, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from tokenize_kit.opening import open_source, read_exactly
from tokenize_kit.sources import parquet_decoder
from tokenize_kit.sources.parquet_decoder import HEADER

DEATHS = 3
"""After so many deaths over one piece of a file the rest of it is given up."""

MEMORY_BYTES = 640 << 20
"""Memory that a process may take, beside `parquet_decoder.CHUNK_FACTOR` times what the columns have in the file."""

SECONDS = 10
"""Computing time that it may take until the next rows come, beside what `parquet_decoder.SECOND_BYTES` allows."""

SILENT_SECONDS = 600
"""A process that says nothing for so long is stopped, also if it does not compute."""

_PIPE_BYTES = 1 << 20
_REAP_SECONDS = 5
# No message is larger; a process that says so has lost its mind.
_MOST_BYTES = 1 << 32
# Buffers are used again rather than given back and zeroed by the system each time: a large page is read four times as fast.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(256 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
_KILLED_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


class UnreadableError(ValueError):
    """A parquet file that cannot be read at all; the message says why."""


@dataclass(frozen=True)
class ParquetFacts:
    """What the footer of a parquet file says."""

    schema: pa.Schema
    """The columns."""
    rows: tuple[int, ...]
    """Rows of each row group."""
    sizes: tuple[int, ...]
    """Bytes of each row group in the file."""


class Wanted(NamedTuple):
    """One column that is to be read."""

    name: str
    """Its name; ``meta.text`` is inside a struct."""
    role: str
    """``strings``, ``files`` (bytes, or a struct of ``bytes`` and ``path``) or ``values``, which stay as they are."""


class Lost(NamedTuple):
    """Rows that cannot be read."""

    rows: int
    reason: str


def describe(url: str) -> ParquetFacts:
    """Return what the footer of a parquet file says; raises as `open_parquet`."""
    with open_parquet(url) as opened:
        return opened.facts


@contextmanager
def open_parquet(url: str) -> Iterator[OpenParquet]:
    """Open a local parquet file or fsspec URL and read its footer.

    Raises:
        UnreadableError: it is damaged, or the Arrow library dies on it.
        OSError: it cannot be opened or read because of the machine or the network.
    """
    with open_source(url) as file:
        opened = OpenParquet(url, file)
        try:
            yield opened
        finally:
            opened.close()


class OpenParquet:
    """A parquet file that the other process has open; made by `open_parquet`."""

    def __init__(self, url: str, file: IO[bytes]) -> None:
        self._url, self._file = url, file
        self._decoder: _Decoder | None = None
        self._waits = False
        try:
            self.facts = self._begin()
            """What its footer says."""
        except BaseException:
            self.close()
            raise

    def read(
        self, columns: Sequence[Wanted], start: int, stop: int | None, rows: int, size: int
    ) -> Iterator[pa.RecordBatch | Lost]:
        """Yield the rows of row groups in order, and how many are lost where some are.

        Args:
            columns: what is wanted. A batch names them by their number in it, ``0``, ``1`` and so on: text, media and strings
                as large binary (what is UTF-8 is not asked), a struct's path beside its bytes as ``N.path``, anything else
                as it is.
            start: the first row group.
            stop: the one after the last; None reads to the end.
            rows: a batch has so many rows at most.
            size: a batch has about so many bytes, at most twice as many if it has several rows.

        Raises:
            OSError: the file cannot be read because of the machine or the network.
        """
        counts = self.facts.rows
        stop = len(counts) if stop is None else stop
        group, done, deaths = start, 0, 0
        while group < stop:
            try:
                if self._decoder is None:
                    self._begin()
                what = {"columns": columns, "start": group, "stop": stop, "rows": rows, "bytes": size}
                self._send(b"w", json.dumps(what).encode())
                while (message := self._receive())[0] != b".":
                    kind, data = message
                    if kind == b"b":
                        batch = pa.ipc.open_stream(pa.py_buffer(data)).read_next_batch()
                        done += batch.num_rows
                        yield batch
                        continue
                    values = json.loads(bytes(data))
                    if kind == b"l":
                        yield Lost(values["rows"], values["reason"])
                    group, done = values["group"] + 1, 0
                return
            except UnreadableError as error:
                deaths += 1
                last = deaths == DEATHS
                lost = sum(counts[group : stop if last else group + 1]) - done
                if lost > 0:
                    yield Lost(lost, f"{error}; what follows was not tried" if last else str(error))
                if last:
                    return
                group, done = group + 1, 0

    def close(self) -> None:
        """Keep the process for another file; it is stopped if it is in the middle of this one."""
        if self._decoder is None:
            return
        if not self._waits:
            self._decoder.kill()
            return
        with suppress(OSError, UnreadableError):
            self._send(b"w", json.dumps({"columns": [], "start": 0, "stop": 0}).encode())
            while self._receive()[0] != b".":
                pass

    def _begin(self) -> ParquetFacts:
        """Have a process open the file and say what is in its footer."""
        self._decoder = _take()
        local = "://" not in self._url
        size = 0 if local else self._file.seek(0, os.SEEK_END)
        path = os.path.abspath(self._url) if local else None  # noqa: PTH100
        place = {"path": path, "size": size, "memory": MEMORY_BYTES, "seconds": SECONDS}
        self._send(b"f", json.dumps(place).encode())
        _, schema = self._receive()
        _, facts = self._receive()
        self._waits = True
        values = json.loads(bytes(facts))
        try:
            columns = pa.ipc.read_schema(pa.py_buffer(schema))
        except pa.ArrowException as error:
            raise UnreadableError(f"its columns cannot be told: {error}") from None
        return ParquetFacts(columns, tuple(values["rows"]), tuple(values["sizes"]))

    def _send(self, kind: bytes, data: bytes) -> None:
        assert self._decoder is not None, "a process was taken"
        self._waits = False
        self._decoder.send(kind, data)

    def _receive(self) -> tuple[bytes, Any]:
        """Return the next message about the file, and serve what the process wants to have of it meanwhile."""
        assert self._decoder is not None, "a process was taken"
        while True:
            message = self._decoder.receive()
            if message is None:
                decoder, self._decoder = self._decoder, None
                raise UnreadableError(decoder.death(self._url))
            kind, data = message
            if kind == b"g":
                offset, size = json.loads(bytes(data))
                self._file.seek(offset)
                self._send(b"d", read_exactly(self._file, size))
                continue
            if kind == b"x":
                self._receive()  # the end
                values = json.loads(bytes(data))
                if values["errno"] is not None:
                    raise OSError(values["errno"], values["reason"], self._url)
                raise UnreadableError(values["reason"])
            if kind == b".":
                if len(data):
                    self._decoder.kill()
                else:
                    _give_back(self._decoder)
                self._decoder = None
            return kind, data


class _Decoder:
    """A process that runs `parquet_decoder`."""

    def __init__(self) -> None:
        # What else may be printed while a program starts goes elsewhere.
        receiving, sending = os.pipe()
        path = json.dumps([entry for entry in sys.path if entry])
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", parquet_decoder.__file__, str(sending), path],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=[sending],
                # Arrow's other pools ask for more than they use, which a limit would take for use.
                env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", **_MALLOC},
            )
        except BaseException:
            os.close(receiving)
            raise
        finally:
            os.close(sending)
        self._sending = cast("FileIO", self._process.stdin)
        self._receiving = open(receiving, "rb", buffering=0)  # noqa: PTH123, SIM115
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):
                fcntl.fcntl(self._receiving, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(self._receiving, select.POLLIN)
        if self.receive() is None:
            code = self._process.wait()
            raise RuntimeError(f"the process that reads parquet files cannot be started (it ends with {code})")

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def send(self, kind: bytes, data: bytes) -> None:
        """Send a message; if nobody is there to receive it, `receive` will tell."""
        with suppress(BrokenPipeError):
            for part in (HEADER.pack(kind, len(data)), data):
                view = memoryview(part)
                while view:
                    view = view[self._sending.write(view) or 0 :]

    def receive(self) -> tuple[bytes, Any] | None:
        """Return the next message, its content as an array of bytes; None if the process is dead or silent."""
        header = self._exactly(HEADER.size)
        if header is None:
            return None
        kind, size = HEADER.unpack(header)
        content = self._exactly(size) if size <= _MOST_BYTES else None
        return None if content is None else (kind, content)

    def _exactly(self, size: int) -> Any:
        content = np.empty(size, np.uint8)
        view = content.data
        seconds = 0
        while view:
            # Counted in waits, so that a time in which the machine or both processes slept is none.
            if not self._poll.poll(1000):
                seconds += 1
                if seconds >= SILENT_SECONDS:
                    return None
                continue
            count = self._receiving.readinto(view)
            if not count:
                return None
            view, seconds = view[count:], 0
        return content

    def death(self, url: str) -> str:
        """Return why it died over a file.

        Raises:
            OSError: it was killed by somebody else.
        """
        try:
            code = self._process.wait(timeout=_REAP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"the Arrow library says nothing about it for {SILENT_SECONDS} s"
        self.kill()
        if -code in _KILLED_FROM_OUTSIDE:
            reason = (
                f"the process that decodes it was killed by signal {-code} (most often the machine had no memory left)"
            )
            raise OSError(errno.ENOMEM, reason, url)
        if -code == signal.SIGXCPU:
            return "the Arrow library does not come to an end on it"
        return f"the Arrow library dies on it ({f'signal {-code}' if code < 0 else f'exit code {code}'})"

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._sending.close()
        self._receiving.close()


_LOCK = threading.Lock()
_IDLE: list[_Decoder] = []


def _take() -> _Decoder:
    """Return a process that has nothing to do."""
    while True:
        with _LOCK:
            decoder = _IDLE.pop() if _IDLE else None
        if decoder is None:
            return _Decoder()
        if decoder.alive:
            return decoder
        decoder.kill()


def _give_back(decoder: _Decoder) -> None:
    with _LOCK:
        _IDLE.append(decoder)


def _stop_all() -> None:
    with _LOCK:
        while _IDLE:
            _IDLE.pop().kill()


def _forget() -> None:
    """What a fork has of the processes of its parent are copies of pipes."""
    global _LOCK
    _LOCK = threading.Lock()
    _IDLE.clear()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
