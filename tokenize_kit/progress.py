"""Progress of long work, on stderr: a bar on a terminal, a line every few seconds otherwise.

One `Progress` serves a whole command. `task` begins a piece of work, `update` says how far it is and what it counted, `note`
prints a line between. Results never go through here: they belong to stdout.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, Any, Self, TypeAlias

Field: TypeAlias = int | float | str


class Progress:
    """Shows how far the current task is; use it as a context manager, so that the bar is taken down again.

    Args:
        enabled: False shows nothing at all (``--quiet``).
        stream: where to write; stderr if None.
        interval: seconds between two lines where the stream is no terminal.
    """

    def __init__(self, enabled: bool = True, stream: IO[str] | None = None, interval: float = 5.0) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._enabled = enabled
        self._interval = interval
        self._label = ""
        self._total: float | None = None
        self._done = 0.0
        self._fields: dict[str, Field] = {}
        self._began = self._shown = time.monotonic()
        self._pending = False
        # Any, because rich is imported only when there is a terminal to draw on.
        self._bar: Any = None
        self._row: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def task(self, label: str, total: float | None = None) -> None:
        """Begin a task; the one before it is finished.

        Args:
            label: what is being done, such as ``encode``.
            total: the value of ``done`` at the end, in any unit; None if it is not known.
        """
        self.close()
        self._label, self._total, self._done, self._fields = label, total, 0.0, {}
        self._began = self._shown = time.monotonic()

    def update(self, done: float | None = None, **fields: Field) -> None:
        """Say how far the task is; cheap enough to call for every batch.

        Args:
            done: the position, in the unit of ``total``; None leaves it where it was.
            fields: what to show beside it, by name, such as ``tokens=1200`` or ``loss=2.31``.
        """
        if done is not None:
            self._done = done
        self._fields.update(fields)
        if not self._enabled:
            return
        self._pending = True
        if self._stream.isatty():
            self._draw()
        elif time.monotonic() - self._shown >= self._interval:
            self._print_line()

    @property
    def enabled(self) -> bool:
        """Whether anything is shown."""
        return self._enabled

    def note(self, text: str) -> None:
        """Print one line that stays, such as a warning."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def finish(self) -> None:
        """Close the current task, of which all is done, also where the sizes of its parts did not add up to the total."""
        if self._total is not None and self._done:
            self.update(self._total)
        self.close()

    def close(self) -> None:
        """End the current task: take the bar down and leave one line with its last values."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._enabled and self._pending:
            self._print_line()

    def _draw(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[shown]}", markup=False),
                console=Console(file=self._stream),
                transient=True,
            )
            self._row = self._bar.add_task(self._label, total=self._total, shown="")
            self._bar.start()
        self._bar.update(self._row, completed=self._done, shown=self._shown_fields())

    def _print_line(self) -> None:
        self._shown = time.monotonic()
        self._pending = False
        seconds = self._shown - self._began
        share = f" {100 * min(1.0, self._done / self._total):.0f}%" if self._total else ""
        print(f"{self._label}{share} {_clock(seconds)} {self._shown_fields()}".rstrip(), file=self._stream, flush=True)

    def _shown_fields(self) -> str:
        return "  ".join(f"{name} {readable(value)}" for name, value in self._fields.items())


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def several(count: int, plural: str) -> str:
    """Return a number of things in words: ``1 sample``, ``2,000 samples``."""
    return f"{count:,} {plural.removesuffix('s') if count == 1 else plural}"


def readable(value: Any, missing: str = "-") -> str:
    """Return a value as people read it: numbers with commas and four figures, ``missing`` for None, the parts of a collection."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {readable(item, missing)}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(readable(item, missing) for item in value) or "none"
    return missing if value is None else str(value)
