"""Law: the head of an answer is there in time and in few bytes, however a server spreads it out.

A server may send any number of interim answers (100 Continue, 103 Early Hints) before its answer,
and each byte it sends begins httpcore's timeout anew.  Here one clock runs from the end of the
request to the end of the head, and all bytes between the two are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from fusemount.registry.transport import Flooded, counted_reads

HEAD_BYTES_MAX = 256 << 10  # with all interim answers; httpcore takes 100 KiB of one answer's head


class HeadWatch:
    """Of one request.  seconds: from the end of the request to the end of its answer's head.

    late, flooded: why the block was left, which then raised nothing or httpx' ReadError.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._scope = trio.CancelScope()
        self._bytes = 0
        self.late = self.flooded = False

    async def trace(self, event: str, _info: Mapping[str, Any]) -> None:
        """httpcore calls it ("Extensions", trace); a CONNECT to a proxy has a head of its own."""
        if event == "http11.receive_response_headers.started":
            self._bytes = 0
            self._scope.deadline = trio.current_time() + self._seconds
        elif event == "http11.receive_response_headers.complete":
            self._scope.deadline = float("inf")

    def _count(self, arrived: int) -> None:
        """While more is to be read, all that came was the head; a last read may bring a body."""
        if arrived == 0 and self._bytes > HEAD_BYTES_MAX:
            self.flooded = True
            raise Flooded
        self._bytes += arrived

    @contextmanager
    def watching(self) -> Iterator[None]:
        with self._scope, counted_reads(self._count):
            yield
        self.late = self._scope.cancelled_caught
