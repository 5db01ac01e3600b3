"""Law: the interface through which slow work reports its progress; the caller shows it, or not."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """For each task: start, advance any number of times, finish (also after an error).

    total and n are bytes.  All calls come from one thread.
    """

    def start(self, description: str, total: int) -> None: ...
    def advance(self, n: int) -> None: ...
    def finish(self) -> None: ...


class SilentProgress:
    """Shows nothing."""

    def start(self, description: str, total: int) -> None:
        pass

    def advance(self, n: int) -> None:
        pass

    def finish(self) -> None:
        pass
