"""Law: makes and replaces files in directories that other users may write to, too.

Each call gets the directory's descriptor and one name, which is not followed.  A path is walked
only once (fusemount/walk.py).  All functions raise OSError.  If the name belongs to an object of
another kind, the message names this kind.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from fusemount.beneath import to_read
from fusemount.walk import open_parent

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(dir_fd: int, name: str) -> int:
    """An O_PATH descriptor."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=dir_fd)
    except NotADirectoryError:
        raise OSError(errno.ENOTDIR, f"{name} is a symlink or no directory") from None


def open_file(dir_fd: int, name: str) -> int:
    """A descriptor of a regular file, to read."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return to_read(found)
    except OSError as error:
        why = f"{name} is no regular file" if error.errno == errno.EINVAL else error.strerror
        raise OSError(error.errno, why) from None


def read_file(dir_fd: int, name: str, limit: int) -> bytes:
    """All bytes of a file; OSError if they are more than limit."""
    with open(open_file(dir_fd, name), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"{name} has more than {limit} bytes, the limit")
    return data


def status(dir_fd: int, name: str) -> os.stat_result | None:
    """The status of a name, of a symlink itself; None if there is none."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


class NewFile:
    """A file under a temporary name in its directory, with the mode that the umask gives."""

    def __init__(self, dir_fd: int, name: str) -> None:
        self._dir_fd = dir_fd
        self._temporary = f".{name[:200]}.{os.getpid()}-{os.urandom(4).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fd = os.open(self._temporary, flags, 0o666, dir_fd=dir_fd)

    def appear(self, name: str) -> None:
        """Syncs the file and gives it this name, which it takes from a file or symlink."""
        os.fsync(self.fd)
        os.rename(self._temporary, name, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)

    def close(self) -> None:
        os.close(self.fd)
        with suppress(OSError):  # fails if it was renamed, and that is no error
            os.unlink(self._temporary, dir_fd=self._dir_fd)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Replacing:
    """A new file for a path: it replaces a regular file or nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._dir_fd, self._name = open_parent(path)
        try:
            st = status(self._dir_fd, self._name)
            if st is not None and not stat.S_ISREG(st.st_mode):
                raise OSError(errno.EEXIST, "it is there and no regular file")
            self._new = NewFile(self._dir_fd, self._name)
        except BaseException:
            os.close(self._dir_fd)
            raise
        self.fd = self._new.fd

    def appear(self) -> None:
        self._new.appear(self._name)

    def close(self) -> None:
        self._new.close()
        os.close(self._dir_fd)
