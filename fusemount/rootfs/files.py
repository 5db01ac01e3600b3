"""Law: descriptors of upper files, a bounded number, so that open files cost none of ours."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable

_KEPT = 256


class OpenFiles:
    """The last _KEPT upper files that were used, open for reading and writing."""

    def __init__(self, opener: Callable[[int], int]) -> None:
        self._opener = opener
        self._fds: OrderedDict[int, int] = OrderedDict()

    def get(self, ino: int) -> int:
        """A descriptor that is good until the next call. Raises OSError."""
        fd = self._fds.get(ino)
        if fd is not None:
            self._fds.move_to_end(ino)
            return fd
        if len(self._fds) >= _KEPT:
            os.close(self._fds.popitem(last=False)[1])
        fd = self._fds[ino] = self._opener(ino)
        return fd

    def drop(self, ino: int) -> None:
        fd = self._fds.pop(ino, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])
