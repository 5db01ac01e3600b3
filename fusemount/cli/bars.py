"""Shows slow work as a bar on standard error.  Law: without a terminal nothing is shown."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fusemount.escape import printable
from fusemount.layer.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


def terminal_progress() -> Progress:
    """A bar if standard error is a terminal and rich is installed, else silence.

    Importing rich takes 60 ms, so it is imported when the first bar starts.
    """
    return BarProgress() if sys.stderr.isatty() else SilentProgress()


class BarProgress:
    """One bar for each task.  A finished bar is cleared, so that only the result stays."""

    def __init__(self) -> None:
        self._bars: RichProgress | None = None
        self._task: TaskID | None = None

    def start(self, description: str, total: int) -> None:
        try:
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )
        except ImportError:
            return
        self.finish()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bars.start()
        self._task = self._bars.add_task(escape(printable(description)), total=total)

    def advance(self, n: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, n)

    def finish(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._task = None
