"""Law: the interface by which slow work reports its progress.  The caller decides whether it is
shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """For each task: start, advance any number of times, finish (also after an error).

    total and n are bytes.  All calls come from one thread.
    """

    def start(self, description: str, total: int) -> None: ...
    def advance(self, n: int) -> None: ...
    def finish(self) -> None: ...


@contextmanager
def reported(progress: Progress, description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Starts a task, and finishes it when the block ends.  Gives the task's advance(n)."""
    progress.start(description, total)
    try:
        yield progress.advance
    finally:
        progress.finish()


class SilentProgress:
    """Shows nothing."""

    def start(self, description: str, total: int) -> None:
        pass

    def advance(self, n: int) -> None:
        pass

    def finish(self) -> None:
        pass
