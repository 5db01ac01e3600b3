"""Law: one directory, and processes of several users that carry out operations below it.

The processes are forked once and outlive the directories that they enter and leave; they hold
nothing open between.  They act one at a time and in turn, so that what they answer is decided.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from known import Step
from operations import WORKERS, Identity
from side import Side

_SECONDS = 60  # for one operation; a hang is a failure that says which


class Worker:
    def __init__(self, identity: Identity) -> None:
        self._ours, theirs = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.closerange(3, theirs.fileno())
            os.closerange(theirs.fileno() + 1, 1024)
            _serve(theirs, Side(identity))
        theirs.close()

    def tell(self, what: Step | Path | None) -> None:
        self._ours.send(what)

    def answer(self) -> object:
        """Raises AssertionError where the process hangs, or has died (of SIGBUS, say)."""
        try:
            assert self._ours.poll(_SECONDS), f"no answer within {_SECONDS} seconds"
            return self._ours.recv()
        except EOFError:
            raise AssertionError("the worker is gone") from None

    def end(self) -> None:
        self._ours.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _serve(connection: Connection, side: Side) -> None:
    """A path enters, None leaves, all else is an operation; never returns."""
    code = 1
    try:
        while True:
            asked = connection.recv()
            if isinstance(asked, Step):
                connection.send(side(asked))
            elif asked is None:
                connection.send(side.leave())
            else:
                connection.send(side.enter(asked))
    except (EOFError, OSError):
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(code)


class Workers:
    """One process an identity, all below one directory."""

    def __init__(self) -> None:
        self._workers = [Worker(identity) for identity in WORKERS]

    def tell(self, step: Step) -> None:
        self._workers[step.worker].tell(step)

    def answer(self, step: Step) -> object:
        return self._workers[step.worker].answer()

    def _all(self, what: Path | None) -> None:
        for worker in self._workers:
            worker.tell(what)
        for worker in self._workers:
            worker.answer()

    @contextmanager
    def inside(self, root: Path) -> Iterator[None]:
        self._all(root)
        try:
            yield
        except BaseException:
            self.end()  # whatever they hold open or wait for
            self._workers = [Worker(identity) for identity in WORKERS]
            raise
        self._all(None)

    def end(self) -> None:
        for worker in self._workers:
            worker.end()
