"""Law: walks through a directory tree of any depth.  Each directory is opened from the one above,
by one name, and at most KEPT directories stay open.

When the walk returns to a directory that was closed, it opens that directory by its path, and with
it the KEPT - 1 directories above, so that the cost for each level stays small.  ".." is not used:
an untrusted user may have moved the directory, and in a bind mount of a subdirectory the kernel
checks each ".." against all directories above.
"""

from __future__ import annotations

import os

from fusemount.beneath import open_beneath
from fusemount.dataclass import dataclass

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
KEPT = 128  # descriptors


@dataclass
class _Level:
    name: bytes
    fd: int


class Descent:
    """A context manager. Methods raise OSError."""

    def __init__(self, top: int) -> None:
        """top: the descriptor of the topmost directory, which stays the caller's."""
        self._top = top
        self._levels: list[_Level] = []
        self._first_open = 0  # levels from here on have descriptors
        self._push(b"", open_beneath(top, b"", _DIRECTORY))

    def __enter__(self) -> Descent:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_from(self._first_open)

    @property
    def fd(self) -> int:
        """The descriptor of the directory where the walk is; open after down()."""
        return self._levels[-1].fd

    def down(self, name: bytes) -> None:
        """Enters a directory; after an error the walk is still in the directory above."""
        if self.fd < 0:
            self._open_again()
        self._push(name, open_beneath(self.fd, name, _DIRECTORY))

    def up(self) -> None:
        self._close_from(len(self._levels) - 1)
        self._levels.pop()

    def _push(self, name: bytes, fd: int) -> None:
        self._levels.append(_Level(name, fd))
        if len(self._levels) - self._first_open > KEPT:
            os.close(self._levels[self._first_open].fd)
            self._levels[self._first_open].fd = -1
            self._first_open += 1

    def _open_again(self) -> None:
        first = max(0, len(self._levels) - KEPT)
        path = b"/".join(level.name for level in self._levels[1 : first + 1])
        fd = open_beneath(self._top, path, _DIRECTORY)
        self._first_open = first
        self._levels[first].fd = fd
        try:
            for level in self._levels[first + 1 :]:
                level.fd = fd = open_beneath(fd, level.name, _DIRECTORY)
        except OSError:
            self._close_from(first)
            raise

    def _close_from(self, first: int) -> None:
        for level in self._levels[first:]:
            if level.fd >= 0:
                os.close(level.fd)
                level.fd = -1
        self._first_open = min(self._first_open, first)
