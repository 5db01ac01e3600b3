"""Law: chooses random file-system operations by a seed, and runs them in one process.

choose() does not look at the file system, so operations meet names that exist or do not, kinds that
fit or do not, and directories full or empty.  A Side runs an operation below one directory
(systemcalls.py).  No symlink has `..`: after a move to the top it would lead out of the directory,
to one file for both sides.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from systemcalls import LONG_AGO, SystemCalls, seen

SOMEBODY = 1234

_TOP = ("d", "e", "f", "g", "h1", "h2", "l", "new", "many", "p", "empty")
_BELOW = ("a", "b", "sub", "x", "h3", "007", "l")
_XATTRS = ("user.k", "user.other", "trusted.t")
_MODES = (0o600, 0o644, 0o755, 0o711, 0o444, 0o777)
_SIZES = (0, 1, 100, 4095, 4096, 4097, 10_000, 70_000)


@dataclass(frozen=True)
class Operation:
    name: str
    arguments: tuple[Any, ...]
    somebody: bool = False  # by a user without rights


def choose(random: Random) -> Operation:
    """One operation, after the weights below."""
    name = random.choice(_WEIGHTED)
    return Operation(name, _ARGUMENTS[name](random), random.random() < 0.15)


# ---- what an operation is given -----------------------------------------------------------


def _path(random: Random) -> str:
    parts = [random.choice(_TOP)]
    while random.random() < 0.55 and len(parts) < 4:
        parts.append(random.choice(_BELOW))
    return "/".join(parts)


def _data(random: Random) -> bytes:
    return random.randbytes(1) * random.choice(_SIZES)


def _slot(random: Random) -> int:
    return random.randrange(6)


_OPEN_FLAGS = (
    os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_APPEND,
    os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_DIRECTORY,
    os.O_RDWR | os.O_CREAT | os.O_TRUNC, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW,
)  # fmt: skip

_ARGUMENTS: dict[str, Any] = {
    "open": lambda r: (_slot(r), _path(r), r.choice(_OPEN_FLAGS), r.choice(_MODES)),
    "close": lambda r: (_slot(r),),
    "pread": lambda r: (_slot(r), r.choice(_SIZES), r.choice(_SIZES)),
    "pwrite": lambda r: (_slot(r), _data(r), r.choice(_SIZES)),
    "write": lambda r: (_slot(r), _data(r)),
    "ftruncate": lambda r: (_slot(r), r.choice(_SIZES)),
    "fstat": lambda r: (_slot(r),),
    "fchmod": lambda r: (_slot(r), r.choice(_MODES)),
    "fsync": lambda r: (_slot(r),),
    "listdir_fd": lambda r: (_slot(r),),
    "reopen": lambda r: (_slot(r),),
    "map": lambda r: (_slot(r), r.randbytes(3), r.choice((0, 5, 4090, 9000))),
    "copy_range": lambda r: (_slot(r), _slot(r), r.choice(_SIZES)),
    "save": lambda r: (_path(r), _data(r)),
    "replace": lambda r: (_path(r), _data(r)),
    "read": lambda r: (_path(r),),
    "truncate": lambda r: (_path(r), r.choice(_SIZES)),
    "mkdir": lambda r: (_path(r), r.choice((0o755, 0o700, 0o2775, 0o1777))),
    "rmdir": lambda r: (_path(r),),
    "unlink": lambda r: (_path(r),),
    "rmtree": lambda r: (_path(r),),
    "rename": lambda r: (_path(r), _path(r)),
    "renameat2": lambda r: (_path(r), _path(r), r.choice((1, 2, 3))),
    "link": lambda r: (_path(r), _path(r)),
    "symlink": lambda r: (r.choice(("a", "d/a", "./f", "nowhere", "sub")), _path(r)),
    "readlink": lambda r: (_path(r),),
    "mkfifo": lambda r: (_path(r), r.choice(_MODES)),
    "mknod": lambda r: (_path(r), r.choice(((1, 3), (300, 70000)))),
    "chmod": lambda r: (_path(r), r.choice((*_MODES, 0o1755))),
    "chown": lambda r: (_path(r), r.choice((0, 7, SOMEBODY)), r.choice((0, 8, SOMEBODY))),
    "lchown": lambda r: (_path(r), r.choice((0, 7)), -1),
    "utime": lambda r: (_path(r), r.randrange(LONG_AGO), r.randrange(LONG_AGO), r.random() < 0.5),
    "setxattr": lambda r: (_path(r), r.choice(_XATTRS), r.randbytes(r.choice((0, 1, 40)))),
    "removexattr": lambda r: (_path(r), r.choice(_XATTRS)),
    "xattrs": lambda r: (_path(r),),
    "listdir": lambda r: (_path(r),),
    "stat": lambda r: (_path(r),),
    "access": lambda r: (_path(r), r.choice((os.R_OK, os.W_OK, os.X_OK))),
}
_WEIGHTS = {
    "open": 8, "pread": 3, "pwrite": 5, "write": 3, "rename": 8, "unlink": 4, "mkdir": 4,
    "save": 4, "replace": 3, "link": 3, "stat": 3, "listdir": 3, "rmtree": 0.5, "close": 3,
}  # fmt: skip
_WEIGHTED = [n for n in _ARGUMENTS for _ in range(int(2 * _WEIGHTS.get(n, 1.5)))]


# ---- what it does -------------------------------------------------------------------------


class Side(SystemCalls):
    """One directory and the descriptors that operations opened below it."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __call__(self, operation: Operation) -> object:
        with self._inside(operation.somebody):
            return self.result(operation.name, operation.arguments)

    def close_all(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])

    def sync_all(self) -> None:
        """fsync of every file that is open."""
        for fd in self._fds.values():
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.fsync(fd)

    @contextmanager
    def _inside(self, somebody: bool) -> Iterator[None]:
        """Relative paths, because a user without rights may not be able to enter directories
        above."""
        before = os.open(".", os.O_PATH)
        os.chdir(self.root)
        groups = os.getgroups()
        if somebody:
            os.setgroups([])
            os.setegid(SOMEBODY)
            os.seteuid(SOMEBODY)
        try:
            yield
        finally:
            if somebody:
                os.seteuid(0)
                os.setegid(0)
                os.setgroups(groups)
            os.fchdir(before)
            os.close(before)

    # ---- descriptors ----

    def _open(self, slot: int, path: str, flags: int, mode: int) -> object:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
        self._put(slot, fd)
        return seen(os.fstat(fd))

    def _close(self, slot: int) -> None:
        if slot in self._fds:
            os.close(self._fds.pop(slot))

    def _pread(self, slot: int, size: int, offset: int) -> bytes:
        return os.pread(self._fd(slot), size, offset)

    def _pwrite(self, slot: int, data: bytes, offset: int) -> int:
        return os.pwrite(self._fd(slot), data, offset)

    def _write(self, slot: int, data: bytes) -> tuple[int, int]:
        fd = self._regular(slot)
        return os.write(fd, data), os.lseek(fd, 0, os.SEEK_CUR)

    def _fstat(self, slot: int) -> object:
        return seen(os.fstat(self._fd(slot)))

    def _fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._fd(slot), mode)

    def _map(self, slot: int, data: bytes, offset: int) -> bytes:
        fd = self._regular(slot)
        if os.fstat(fd).st_size < offset + len(data):
            raise OSError(errno.EINVAL, "")
        with mmap.mmap(fd, 0, mmap.MAP_SHARED) as mapped:
            mapped[offset : offset + len(data)] = data
            return mapped[:]

    def _copy_range(self, source: int, target: int, size: int) -> int:
        return os.copy_file_range(self._regular(source), self._regular(target), size, 0, 0)

    # ---- paths ----

    def _save(self, path: str, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o644)
        try:
            os.write(fd, data) if stat.S_ISREG(os.fstat(fd).st_mode) else None
        finally:
            os.close(fd)

    def _replace(self, path: str, data: bytes) -> None:
        """As editors save: a new file in the same directory, then a rename over the old one."""
        self._save(path + ".tmp", data)
        os.rename(path + ".tmp", path)

    def _truncate(self, path: str, size: int) -> None:
        """Sets the time too, because POSIX leaves open whether it changes if the size stays the
        same."""
        same = os.stat(path).st_size == size
        os.truncate(path, size)
        if same:
            os.utime(path, ns=(size, size))

    def _mkfifo(self, path: str, mode: int) -> None:
        os.mkfifo(path, mode)

    def _mknod(self, path: str, device: tuple[int, int]) -> None:
        os.mknod(path, stat.S_IFBLK | 0o640, os.makedev(*device))

    def _chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def _chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(path, uid, gid)

    def _lchown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(path, uid, gid)

    def _listdir(self, path: str) -> list[tuple[str, bool]]:
        return sorted((e.name, e.is_dir(follow_symlinks=False)) for e in os.scandir(path))

    def _stat(self, path: str) -> object:
        return seen(os.lstat(path)), seen(os.stat(path))
