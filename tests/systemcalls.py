"""Law: the system calls of random operations that oneprocess.py and real/side.py share.

A SystemCalls runs them in the working directory and on descriptors that it keeps in numbered slots.
The result is what the caller saw: a value, or the name of an errno.  Two directories on equal file
systems give equal results.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

_libc = ctypes.CDLL(None, use_errno=True)
_CWD = -100
MUCH = 300_000  # bytes: more than any file of these tests has
LONG_AGO = 1_500_000_000 * 10**9  # ns: all times that operations set are before this


def failed(number: int) -> OSError:
    return OSError(number, "")


def seen(st: os.stat_result) -> tuple[int, ...]:
    """The fields that must be equal on both sides; of the times only those that operations set."""
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    mtime = st.st_mtime_ns if st.st_mtime_ns < LONG_AGO else -1
    return st.st_mode, st.st_nlink, st.st_uid, st.st_gid, size, st.st_rdev, mtime


class SystemCalls:
    """Each operation is a method with `_` before its name."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}

    def result(self, name: str, arguments: tuple[object, ...]) -> object:
        """What the caller of an operation sees: a value, or the name of an errno."""
        try:
            return getattr(self, "_" + name)(*arguments)
        except OSError as e:
            return errno.errorcode[e.errno or 0]

    # ---- descriptors ----

    def _fd(self, slot: int) -> int:
        """The descriptor in a slot.  An empty slot gives EBADF, as a closed descriptor does."""
        if slot not in self._fds:
            raise failed(errno.EBADF)
        return self._fds[slot]

    def _put(self, slot: int, fd: int) -> None:
        if slot in self._fds:
            os.close(self._fds[slot])
        self._fds[slot] = fd

    def _regular(self, slot: int) -> int:
        """Devices are shared with the machine, and fifos wait for another process."""
        fd = self._fd(slot)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise failed(errno.EINVAL)
        return fd

    def _ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._fd(slot), size)

    def _fsync(self, slot: int) -> None:
        os.fsync(self._regular(slot))

    def _listdir_fd(self, slot: int) -> list[str]:
        return sorted(os.listdir(self._fd(slot)))

    def _reopen(self, slot: int) -> bytes:
        fd = os.open(f"/proc/self/fd/{self._regular(slot)}", os.O_RDONLY)
        try:
            return os.pread(fd, MUCH, 0)
        finally:
            os.close(fd)

    # ---- paths ----

    def _read(self, path: str) -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(fd, MUCH) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)

    def _mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path)
        os.chmod(path, mode)

    def _rmdir(self, path: str) -> None:
        os.rmdir(path)

    def _unlink(self, path: str) -> None:
        os.unlink(path)

    def _rmtree(self, path: str) -> None:
        """Deepest first, in an order that both sides have, up to the first error."""
        for name in sorted(os.listdir(path)):
            child = f"{path}/{name}"
            if stat.S_ISDIR(os.lstat(child).st_mode):
                self._rmtree(child)
            else:
                os.unlink(child)
        os.rmdir(path)

    def _rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def _renameat2(self, source: str, target: str, flags: int) -> None:
        if _libc.renameat2(_CWD, source.encode(), _CWD, target.encode(), flags):
            raise failed(ctypes.get_errno())

    def _link(self, source: str, target: str) -> None:
        os.link(source, target, follow_symlinks=False)

    def _symlink(self, source: str, target: str) -> None:
        os.symlink(source, target)

    def _readlink(self, path: str) -> str:
        return os.readlink(path)

    def _utime(self, path: str, atime: int, mtime: int, follow: bool) -> None:
        os.utime(path, ns=(atime, mtime), follow_symlinks=follow)

    def _setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(path, name, value, follow_symlinks=False)

    def _removexattr(self, path: str, name: str) -> None:
        os.removexattr(path, name, follow_symlinks=False)

    def _xattrs(self, path: str) -> dict[str, bytes]:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}

    def _access(self, path: str, mode: int) -> bool:
        return os.access(path, mode, effective_ids=True)
