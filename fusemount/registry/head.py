"""Limits the time and the size of the head of an answer.

Law: one clock runs from the end of the request to the end of the answer's head, and all bytes
between the two are counted.

httpcore's own limits are not enough: a server may send any number of interim answers (100 Continue,
103 Early Hints) before its answer, and each byte that it sends starts httpcore's timeout anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from fusemount.registry.transport import Flooded, counted_reads

HEAD_BYTES_MAX = 256 << 10  # all interim answers included; httpcore allows 100 KiB for each


class HeadWatch:
    """Watches one request.  seconds: limit from the end of the request to the end of the head.

    late, flooded: the limit of time or of bytes was passed.  `watching` then leaves its block: when
    late without an exception, when flooded with httpx' ReadError.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._scope = trio.CancelScope()
        self._bytes = 0
        self.late = self.flooded = False

    async def trace(self, event: str, _info: Mapping[str, Any]) -> None:
        """Called by httpcore at each event (its "trace" extension).

        A CONNECT to a proxy has a head of its own, and starts the count in its turn.
        """
        if event == "http11.receive_response_headers.started":
            self._bytes = 0
            self._scope.deadline = trio.current_time() + self._seconds
        elif event == "http11.receive_response_headers.complete":
            self._scope.deadline = float("inf")

    def _count(self, arrived: int) -> None:
        """Checks the limit only before a read (arrived = 0): then all bytes so far belong to the
        head.  The last read of a head may bring bytes of the body as well."""
        if arrived == 0 and self._bytes > HEAD_BYTES_MAX:
            self.flooded = True
            raise Flooded
        self._bytes += arrived

    @contextmanager
    def watching(self) -> Iterator[None]:
        with self._scope, counted_reads(self._count):
            yield
        self.late = self._scope.cancelled_caught
