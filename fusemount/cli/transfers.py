"""Shows several transfers at once.

Law: on a terminal each layer has a bar; elsewhere a layer has one line when it is done; with
--quiet nothing is shown.
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fusemount.escape import printable
from fusemount.transfer.reports import SilentTransfers, Task, Transfers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


@contextmanager
def shown_transfers(*, quiet: bool) -> Iterator[Transfers]:
    if quiet:
        yield SilentTransfers()
    elif sys.stderr.isatty():
        bars = _Bars()
        try:
            yield bars
        finally:
            bars.stop()
    else:
        yield _Lines()


class _Lines:
    """The lines that `docker pull` prints without a terminal."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def begin(self, name: str, total: int) -> Task:
        return _LineTask(self, name)

    def note(self, line: str) -> None:
        with self._lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


class _LineTask:
    def __init__(self, lines: _Lines, name: str) -> None:
        self._lines, self._name = lines, name

    def advance(self, n: int) -> None:
        pass

    def say(self, what: str) -> None:
        pass

    def done(self, what: str) -> None:
        self._lines.note(f"{self._name}: {what}")


class _Bars:
    """One bar for each transfer; a finished bar stays."""

    def __init__(self) -> None:
        self._bars: RichProgress | None = None

    def begin(self, name: str, total: int) -> Task:
        bars = self._started()
        return _BarTask(bars, name, total)

    def note(self, line: str) -> None:
        self.stop()
        print(line)

    def _started(self) -> RichProgress:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TransferSpeedColumn,
            )

            self._bars = Progress(
                TextColumn("{task.description}:"),
                TextColumn("{task.fields[state]:<20}"),
                BarColumn(),
                DownloadColumn(binary_units=False),
                TransferSpeedColumn(),
                console=Console(stderr=True),
            )
            self._bars.start()
        return self._bars

    def stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class _BarTask:
    def __init__(self, bars: RichProgress, name: str, total: int) -> None:
        from rich.markup import escape

        self._bars = bars
        self._total = total
        self._task: TaskID = bars.add_task(
            escape(printable(name)), total=total or None, state="Waiting"
        )

    def advance(self, n: int) -> None:
        self._bars.advance(self._task, n)

    def say(self, what: str) -> None:
        self._bars.update(self._task, state=what)

    def done(self, what: str) -> None:
        self._bars.update(
            self._task, state=what, completed=self._total or 1, total=self._total or 1
        )
