"""Runs processes of several users that carry out operations below one directory.

Law: they act one at a time and in turn, so that their answers do not depend on timing.

The processes are forked once, for many directories; between two of them they have nothing open.
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

_SECONDS = 60  # for one operation; the message of a hang names the operation


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
        """The process' answer.  Raises AssertionError if it hangs or has died (by SIGBUS, say)."""
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
    """Serves requests: a path: enter the directory; None: leave it; else an operation. Never
    returns."""
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
    """One process for each identity, all below one directory."""

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
            self.end()  # also if they wait, or have files open
            self._workers = [Worker(identity) for identity in WORKERS]
            raise
        self._all(None)

    def end(self) -> None:
        for worker in self._workers:
            worker.end()
