"""Law: packs the large frames of a zstd stream again, as small frames in a sidecar file.

A zstd frame can be decoded from its start only.  So a frame that unpacks to more than FRAME_MAX
bytes is packed again in frames of FRAME bytes, in the pass that reads the layer anyway.  All other
frames stay where they are: in the blob.  The sidecar is an ordinary zstd stream (RFC 8878).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

from fusemount._native import BegunPoint, Points
from fusemount.budget import check_room
from fusemount.errors import ImgmountError

FRAME = 1 << 20
FRAME_MAX = 4 << 20
_LEVEL = 1  # 400 MB/s; the stream is a few percent larger than at level 3


class Sidecar:
    """A file that is made when the first frame comes.  make: gives a descriptor to write to; None:
    no frame is packed again, however large it is."""

    def __init__(self, make: Callable[[], int] | None) -> None:
        self._make, self._fd = make, -1
        self.size = 0

    @property
    def wanted(self) -> bool:
        return self._make is not None

    def append(self, data: bytes) -> int:
        """Writes data at the end; the offset where they begin.  Raises NoSpace, OSError."""
        if self._fd < 0:
            assert self._make is not None
            self._fd = self._make()
        check_room(self._fd, len(data))
        start, view = self.size, memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, self.size)
            self.size += done
            view = view[done:]
        return start


class Reframer:
    """Gets the pieces of the tar, and the frames' starts before the pieces that have them.

    What lies between two starts is held until the next start shows that it is small enough, or
    until it is too large.  failed: the sidecar could not be written, and the points are of no use.
    """

    def __init__(self, points: Points, sidecar: Sidecar) -> None:
        import zstandard

        self._packer = zstandard.ZstdCompressor(level=_LEVEL)
        self._points, self._sidecar = points, sidecar
        self._starts: deque[BegunPoint] = deque()
        self._at = 0  # offset in the tar of the next piece
        self._start: BegunPoint | None = None  # of what is held; None: it is being re-framed
        self._held = bytearray()
        self._held_at = 0
        self.failed = False

    def take(self, item: bytes | BegunPoint) -> None:
        if not isinstance(item, bytes):
            self._starts.append(item)
        elif not self.failed:
            self._take_piece(item)

    def _take_piece(self, piece: bytes) -> None:
        view = memoryview(piece)
        while self._starts and self._starts[0].out <= self._at + len(view):
            start = self._starts.popleft()
            self._take(view[: start.out - self._at])
            view = view[start.out - self._at :]
            self._at = start.out
            self._end()
            self._start, self._held_at = start, start.out
        self._take(view)
        self._at += len(view)

    def _take(self, view: memoryview) -> None:
        self._held += view
        if self._start is not None and len(self._held) > FRAME_MAX:
            self._start = None
        if self._start is None:
            while len(self._held) >= FRAME:
                self._pack(FRAME)

    def _pack(self, size: int) -> None:
        data = self._packer.compress(bytes(self._held[:size]))
        del self._held[:size]
        try:
            at = self._sidecar.append(data)
        except (OSError, ImgmountError):
            self.failed = True
            self._held.clear()
        else:
            self._points.add_frame(self._held_at, at)
            self._held_at += size

    def _end(self) -> None:
        """The held bytes are complete: another frame begins, or the stream ends."""
        if self._start is not None:
            self._points.add(self._start)
        elif self._held:
            self._pack(len(self._held))
        self._held.clear()

    def finish(self) -> int:
        """The bytes of the sidecar; 0: there is none."""
        self._end()
        if self._starts and not self._at:  # the only frame has nothing
            self._points.add(self._starts[0])
        return self._sidecar.size
