"""Law: runs work under trio, and ends it in order when a signal comes.

Python calls a signal's handler wherever the main thread is.  That may be inside trio, which breaks
if the handler raises.  And while the main thread waits for another one, no handler is called.  So
while trio runs, a signal cancels the work: tasks at their next wait, threads by the call that
when_cancelled() makes or by trio.from_thread.check_cancelled().  When all have ended, the signal is
raised again for the handler that was set before.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import TypeVar

import trio

from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError
from fusemount.transfer.bring import Stopped

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_T = TypeVar("_T")


@dataclass
class _Asked:
    """The signals that came, and how to cancel the work."""

    signals: list[int] = field(default_factory=list)
    cancel: Callable[[], None] = lambda: None

    def hear(self, number: int, _frame: object) -> None:
        self.signals.append(number)
        self.cancel()


def run(work: Callable[[], Awaitable[_T]]) -> _T:
    """The result of work().  Of several errors, it raises an interrupt, else an ImgmountError.

    Raises what the handlers of SIGINT, SIGTERM and SIGHUP raise, once all has ended.
    """
    asked = _Asked()
    try:
        with _heard(asked):
            return trio.run(_until_asked, work, asked)
    except BaseExceptionGroup as group:
        raise _chosen(group) from group
    finally:
        if asked.signals:
            signal.raise_signal(asked.signals[0])


async def _until_asked(work: Callable[[], Awaitable[_T]], asked: _Asked) -> _T:
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        asked.cancel = lambda: token.run_sync_soon(scope.cancel)
        if asked.signals:
            scope.cancel()
        return await work()
    raise Stopped("stopped by a signal")


@contextmanager
def _heard(asked: _Asked) -> Iterator[None]:
    """Handles the signals that are not ignored.  Only the main thread can set handlers."""
    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in _ENDING if main}
    numbers = [n for n, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for number in numbers:
            signal.signal(number, asked.hear)
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])


def _chosen(group: BaseExceptionGroup[BaseException]) -> BaseException:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.append(_chosen(error) if isinstance(error, BaseExceptionGroup) else error)
    telling = [e for e in leaves if not isinstance(e, Stopped)]
    interrupts = [e for e in telling if not isinstance(e, Exception)]
    ours = [e for e in telling if isinstance(e, ImgmountError)]
    return (interrupts or ours or telling or leaves)[0]


async def when_cancelled(call: Callable[[], None]) -> None:
    """A task that calls call() when it is cancelled, to end a thread that its nursery waits for."""
    try:
        await trio.sleep_forever()
    finally:
        call()
