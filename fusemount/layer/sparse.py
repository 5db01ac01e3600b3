"""Law: writes a tar to a file with its runs of zeros as holes, which take no space on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterable

from fusemount.budget import check_room

HOLE = 1 << 16  # runs of zeros are looked for in pieces of this size
_ZEROS = bytes(HOLE)


class SparseWriter:
    """Writes a stream to a descriptor from its start on, with runs of zeros as holes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = 0

    def write(self, piece: bytes) -> None:
        view = memoryview(piece)
        for start, stop in _data_runs(piece):
            check_room(self._fd, stop - start)
            at = start
            while at < stop:
                at += os.pwrite(self._fd, view[at:stop], self.size + at)
        self.size += len(piece)

    def finish(self) -> None:
        """Sets the file's size. The caller must call this, because the stream may end with a
        hole."""
        os.ftruncate(self._fd, self.size)


def _data_runs(piece: bytes) -> Iterable[tuple[int, int]]:
    """(start, stop) of the stretches of piece that are not zeros, adjacent ones joined."""
    start = None
    for at in range(0, len(piece), HOLE):
        part = piece[at : at + HOLE]
        if part == _ZEROS[: len(part)]:
            if start is not None:
                yield start, at
                start = None
        elif start is None:
            start = at
    if start is not None:
        yield start, len(piece)
