"""Law: opens a file to write that the caller names, wherever its directory is.

In a directory that other users can write to, any of them may have put anything at that name.  So
the path is walked (walk.py), and what is opened there must not be another file of ours or a file
that blocks us.  The functions raise OSError.
"""

from __future__ import annotations

import errno
import os
import stat

from fusemount.beneath import trusted
from fusemount.served import server_of
from fusemount.walk import open_parent

# /dev/stderr, /dev/fd/N: links of these lead to open files, and walk.py follows no such link.
_OWN_DESCRIPTORS = ("/dev", "/dev/fd", "/proc/self/fd")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_named(path: str | os.PathLike[str], flags: int = 0) -> int:
    """A descriptor to write, whose writes block; a new file has the mode that the umask gives.

    flags: O_APPEND.  An existing file keeps its bytes.
    Another user's symlink on the way is refused, and so is another user's fifo or device: who
    writes to it would wait for its reader; and so is a file in a file system that another user
    serves.  A fifo without a reader is an error, because open(2)
    would wait for one.  In a directory that others can write to, a file with other names is
    refused: it may be any file of the same file system.
    """
    if os.path.dirname(path) in _OWN_DESCRIPTORS:
        fd = os.open(path, _FLAGS | flags, 0o666)
    else:
        above, name = open_parent(path)
        try:
            server = server_of(above)
            if server is not None:
                raise OSError(errno.EPERM, f"it is in a file system that uid {server} serves")
            fd = os.open(name, _FLAGS | flags | os.O_NOFOLLOW, 0o666, dir_fd=above)
            try:
                _check(os.fstat(fd), os.fstat(above))
            except OSError:
                os.close(fd)
                raise
        finally:
            os.close(above)
    os.set_blocking(fd, True)
    return fd


def replace_named(fd: int, data: bytes) -> None:
    """Writes data in place of all bytes of a file of open_named, and closes the descriptor."""
    with open(fd, "wb", buffering=0) as file:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.ftruncate(fd, 0)
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]


def _check(st: os.stat_result, above: os.stat_result) -> None:
    if not stat.S_ISREG(st.st_mode) and not trusted(st.st_uid):
        raise OSError(errno.EPERM, f"it is not a regular file, and belongs to uid {st.st_uid}")
    others = above.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or not trusted(above.st_uid)
    if st.st_nlink > 1 and others:
        raise OSError(errno.EPERM, "it has other names, and others can write to its directory")
