"""Law: walks the path of a user's upper once; from then on the upper is the directory found.

A user who owns a directory above an upper can replace any name below it by a symlink at any time.
Root would then give another directory the owner of the image's root. So the walk goes from
descriptor to descriptor, and refuses a symlink that belongs to another user.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from fusemount.beneath import LINKS_MAX, trusted
from fusemount.errors import UpperError

_LOOK = os.O_PATH | os.O_NOFOLLOW


def open_walked(path: Path, *, make: bool) -> tuple[Path, int, bool]:
    """(path without symlinks, O_PATH descriptor of the directory, whether it was made).

    make: the last component is made if only that one is missing.
    Raises UpperError: a symlink on the path that neither root nor the caller owns, no directory.
    """
    walk = _Walk(path)
    try:
        made = walk.to_the_end(make)
        return Path(walk.here), walk.fd, made
    except OSError as e:
        walk.close()
        failed_at = os.path.join(walk.here, *walk.names[::-1])
        raise UpperError(f"{failed_at}: {os.strerror(e.errno or 0)}") from e
    except BaseException:
        walk.close()
        raise


class _Walk:
    def __init__(self, path: Path) -> None:
        self.path, self.followed = path, 0
        self.here = "/" if path.is_absolute() else os.getcwd()
        self.names = _names(os.fspath(path))  # the next one is the last
        self.fd = os.open(self.here, os.O_PATH | os.O_DIRECTORY)

    def close(self) -> None:
        os.close(self.fd)

    def to_the_end(self, make: bool) -> bool:
        """Whether the last name was made."""
        made = False
        while self.names:
            try:
                found = os.open(self.names[-1], _LOOK, dir_fd=self.fd)
            except FileNotFoundError:
                if not make or made or len(self.names) > 1:
                    raise
                made = self._make(self.names[-1])
                continue
            try:
                self._go(found, self.names.pop())
            finally:
                os.close(found)
        return made

    def _make(self, name: str) -> bool:
        try:
            os.mkdir(name, dir_fd=self.fd)
        except FileExistsError:
            return False
        return True

    def _go(self, found: int, name: str) -> None:
        st = os.fstat(found)
        path = os.path.join(self.here, name)
        if stat.S_ISLNK(st.st_mode):
            self._follow(found, path, st.st_uid)
        elif stat.S_ISDIR(st.st_mode):
            self._step(os.dup(found))
            self.here = os.path.dirname(self.here) if name == ".." else path
        else:
            raise UpperError(f"{path}: not a directory")

    def _follow(self, found: int, path: str, uid: int) -> None:
        if not trusted(uid):
            raise UpperError(f"{self.path}: {path} is a symlink of uid {uid}: it is not followed")
        self.followed += 1
        if self.followed > LINKS_MAX:
            raise UpperError(f"{self.path}: {os.strerror(errno.ELOOP)}")
        target = os.readlink("", dir_fd=found)
        self.names += _names(target)
        if target.startswith("/"):
            self._step(os.open("/", os.O_PATH | os.O_DIRECTORY))
            self.here = "/"

    def _step(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd


def _names(path: str) -> list[str]:
    return [name for name in path.split("/")[::-1] if name not in ("", ".")]
