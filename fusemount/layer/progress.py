"""Law: how slow work tells that it moves on; who shows it is none of its business."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One task after another: start, advance any number of times, finish (also after an error).

    total and n count bytes.  Calls come from one thread.
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
