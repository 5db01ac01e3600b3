"""Law: a walk through a directory tree of any depth: each directory is opened from the one above,
by one name, and few stay open.

Each step costs the same at any depth.  On the way up, a directory that was closed meanwhile is
opened as ".." of the one that is left, if that is still the same inode, since somebody may have
moved directories meanwhile; else by its whole path.
"""

from __future__ import annotations

import os
from contextlib import suppress

from fusemount.beneath import open_beneath
from fusemount.dataclass import dataclass

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
KEPT = 64  # descriptors


@dataclass
class _Level:
    name: bytes
    fd: int
    key: tuple[int, int]


class Descent:
    """A context manager; fd: of the directory where the walk is. Methods raise OSError."""

    def __init__(self, top: int) -> None:
        """top: the descriptor of the topmost directory, which stays the caller's."""
        self._top = top
        self._levels: list[_Level] = []
        self._first_open = 0  # levels from here on have descriptors
        self._push(b"", open_beneath(top, b"", _DIRECTORY))

    def __enter__(self) -> Descent:
        return self

    def __exit__(self, *_: object) -> None:
        for level in self._levels[self._first_open :]:
            _close(level)

    @property
    def fd(self) -> int:
        return self._levels[-1].fd

    def down(self, name: bytes) -> int:
        """Goes into a directory; after an error the walk is where it was."""
        return self._push(name, open_beneath(self.fd, name, _DIRECTORY))

    def up(self) -> None:
        """Goes back; after an error nothing more can be opened from there, only left."""
        left = self._levels.pop()
        here = self._levels[-1]
        try:
            if here.fd < 0:
                here.fd = self._again(left.fd, here)
        finally:
            _close(left)
            self._first_open = min(self._first_open, len(self._levels) - 1)

    def _push(self, name: bytes, fd: int) -> int:
        st = os.fstat(fd)
        self._levels.append(_Level(name, fd, (st.st_dev, st.st_ino)))
        if len(self._levels) - self._first_open > KEPT:
            _close(self._levels[self._first_open])
            self._first_open += 1
        return fd

    def _again(self, below: int, level: _Level) -> int:
        if below >= 0:
            with suppress(OSError):  # it was removed
                fd = os.open("..", _DIRECTORY | os.O_NOFOLLOW, dir_fd=below)
                st = os.fstat(fd)
                if (st.st_dev, st.st_ino) == level.key:
                    return fd
                os.close(fd)
        return open_beneath(self._top, b"/".join(at.name for at in self._levels[1:]), _DIRECTORY)


def _close(level: _Level) -> None:
    if level.fd >= 0:
        os.close(level.fd)
        level.fd = -1
