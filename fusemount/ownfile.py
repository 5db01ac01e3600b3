"""Law: opens and makes files in an own directory (beneath.own_directory).

No other user can put a file into such a directory, so a path is safe to use.  Only regular files
are opened, never through a symlink, and a fifo at the path does not block.  A new file has exactly
the mode that is asked for, whatever the umask.  All functions raise OSError; if something else is
at the path, the message names it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

_Path = str | os.PathLike[str]
_LOCKED_BY = 60  # seconds after a process has made a file, it has locked it


def open_file(path: _Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """A descriptor of a regular file; with O_CREAT and O_EXCL, of a new one."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _refused(path, "a symlink") from error
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise _refused(path, "no regular file") from error
        raise
    try:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            raise _refused(path, "no regular file")
        if flags & os.O_CREAT and flags & os.O_EXCL and stat.S_IMODE(st.st_mode) != mode:
            os.fchmod(fd, mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_file(path: _Path, mode: int, flags: int = os.O_WRONLY) -> int:
    """A descriptor of a new file; raises FileExistsError if the path exists."""
    return open_file(path, flags | os.O_CREAT | os.O_EXCL, mode)


def open_or_make(path: _Path, flags: int, mode: int) -> int:
    """A descriptor of a file that several processes share; any of them may make it."""
    while True:
        try:
            return open_file(path, flags)
        except FileNotFoundError:
            try:
                return make_file(path, mode, flags)
            except FileExistsError:
                continue  # another process was quicker


def read_file(path: _Path) -> bytes:
    """All bytes of the file."""
    with open(open_file(path), "rb") as file:
        return file.read()


def file_size(path: _Path) -> int:
    """Bytes.  Raises FileNotFoundError also if the path is no regular file."""
    st = os.lstat(path)
    if not stat.S_ISREG(st.st_mode):
        raise FileNotFoundError(errno.ENOENT, "no regular file", os.fspath(path))
    return st.st_size


def is_file(path: _Path) -> bool:
    try:
        return file_size(path) >= 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def lock_if_free(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Locks the descriptor (flock(2)) and returns True, or returns False if a lock of another
    process prevents it.

    Raises OSError if the file system has no locks.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_abandoned(fd: int) -> bool:
    """Whether the process that made and locked this file or directory has ended.

    A file that is not locked yet is younger than _LOCKED_BY.  Raises OSError.
    """
    old = time.time() - os.fstat(fd).st_mtime > _LOCKED_BY
    return lock_if_free(fd) and old


def is_still(fd: int, path: _Path) -> bool:
    """Whether the path still leads to the file that was opened there."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def make_directory(path: _Path, mode: int) -> None:
    """Makes a directory; raises FileExistsError if the path exists."""
    os.mkdir(path, mode)
    os.chmod(path, mode)


def _refused(path: _Path, what: str) -> OSError:
    return OSError(errno.EINVAL, f"{what}, where a file of imgmount's own should be",
                   os.fspath(path))  # fmt: skip
