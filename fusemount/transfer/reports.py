"""Law: the interface by which several transfers report their progress.  The caller shows it, or
not.

Calls come from any thread.
"""

from __future__ import annotations

from typing import Protocol


class Task(Protocol):
    """The transfer of one blob.

    advance: n more bytes.  say, done: what becomes of it ("Already exists"), in docker's words.
    """

    def advance(self, n: int) -> None: ...
    def say(self, what: str) -> None: ...
    def done(self, what: str) -> None: ...


class Transfers(Protocol):
    def begin(self, name: str, total: int) -> Task:
        """A new transfer.  name: twelve digits of a digest.  total: bytes."""
        ...

    def note(self, line: str) -> None:
        """Shows a line of its own ("Digest: sha256:...")."""
        ...


class _SilentTask:
    def advance(self, n: int) -> None:
        pass

    def say(self, what: str) -> None:
        pass

    def done(self, what: str) -> None:
        pass


class SilentTransfers:
    """Shows nothing."""

    def begin(self, name: str, total: int) -> Task:
        return _SilentTask()

    def note(self, line: str) -> None:
        pass
