"""Law: knows which file systems another user serves (FUSE), and waits for none of them for ever.

Such a file system shows what its user likes: a symlink there is that user's, whatever owner it
shows.  And it may never answer: a process that asks it then cannot even be killed.  So a child
asks, which is left behind in that case.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from contextlib import suppress

from fusemount import _native
from fusemount.beneath import in_first_user_namespace, trusted
from fusemount.mountinfo import mounts

ANSWER_SECONDS = 10.0
_NOBODY = 65534  # serves what shows no uid


def server_of(fd: int) -> int | None:
    """The uid that serves the file system of a descriptor, if it is another user's; else None.

    The file system is not asked.  In a user namespace, where mountinfo shows uids that cannot be
    compared with ours, always None."""
    major, minor, _ = _native.mount_of(fd)
    if major != 0:  # a block device
        return None
    found = next((entry for entry in mounts() if entry.device == f"0:{minor}"), None)
    if found is None or not found.fstype.startswith("fuse") or not in_first_user_namespace():
        return None
    uids = [word[8:] for word in found.of_system if word.startswith("user_id=")]
    uid = int(uids[0]) if uids and uids[0].isdecimal() else _NOBODY
    return None if trusted(uid) else uid


def open_served(dir_fd: int, name: str, *, make: bool = False) -> tuple[int, int]:
    """(O_PATH descriptor, its type as in st_mode) of a name in such a file system.

    make: a directory, which is made first.  Raises OSError: ETIMEDOUT without an answer."""
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            try:
                _answer(theirs.fileno(), dir_fd, name, make)
            finally:
                os._exit(0)
        theirs.close()
        ours.settimeout(ANSWER_SECONDS)
        try:
            data, fds, _, _ = socket.recv_fds(ours, 16, 1)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            raise OSError(errno.ETIMEDOUT, f"{name}: its file system does not answer") from None
    os.waitpid(pid, 0)  # it has answered, and asks no more
    if not fds:
        number = int(data or b"%d" % errno.EIO)
        raise OSError(number, os.strerror(number))
    os.set_inheritable(fds[0], False)
    return fds[0], int(data)


def _answer(to: int, dir_fd: int, name: str, make: bool) -> None:
    import array
    import socket

    passed: list[tuple[int, int, array.array[int]]] = []
    try:
        if make:
            os.mkdir(name, dir_fd=dir_fd)
        flags, kind = os.O_PATH | os.O_NOFOLLOW, stat.S_IFDIR
        try:  # no status of a directory: it may be the root of a mount that is dead
            fd = os.open(name, flags | os.O_DIRECTORY, dir_fd=dir_fd)
        except NotADirectoryError:
            fd = os.open(name, flags, dir_fd=dir_fd)
            kind = stat.S_IFMT(os.fstat(fd).st_mode)
        answer = b"%d" % kind
        passed.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd])))
    except OSError as error:
        answer = b"%d" % (error.errno or errno.EIO)
    socket.socket(fileno=to).sendmsg([answer], passed)
