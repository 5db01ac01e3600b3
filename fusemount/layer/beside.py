"""Law: runs a step of a pass over a stream in a thread of its own.

Hashing, scanning, decompressing, compressing and writing release the GIL, so that the steps of one
pass run on several cores.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

_WAITING_MAX = 8  # pieces that may wait for the thread: 8 MiB

Item = TypeVar("Item")


class Beside(Generic[Item]):
    """A thread that runs consume(item) for each piece or access point that is put, in order.

    The next put(), or the end of the block, raises what consume raised.
    """

    def __init__(self, consume: Callable[[Item], None]) -> None:
        self._consume = consume
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_WAITING_MAX)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def put(self, piece: Item) -> None:
        self._room.acquire()
        if self._error is not None:
            raise self._error
        self._queue.put(piece)

    def _run(self) -> None:
        while (piece := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._consume(piece)
                except BaseException as error:  # put() or __exit__ raises it in the other thread
                    self._error = error
            self._room.release()

    def __enter__(self) -> Beside[Item]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._error is None:
            self._error = error  # so that the thread skips the pieces that still wait
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error
