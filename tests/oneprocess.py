"""Law: random file-system operations as values, chosen by a seed, and what each one answers.

choose() knows names, kinds of calls and nothing of the file system's state, so most sequences run
into each other: names that exist or do not, kinds that fit or do not, directories full or empty.
A Side runs an operation below one directory and says what the caller saw: a value or an errno.
No link climbs (`..`): moved to the top, it would lead out, to one file for both sides.
Two sides that are the same file system give the same answers for ever.
"""

from __future__ import annotations

import ctypes
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

_libc = ctypes.CDLL(None, use_errno=True)
_CWD = -100
SOMEBODY = 1234
LONG_AGO = 1_500_000_000 * 10**9  # times that operations set lie before this

_TOP = ("d", "e", "f", "g", "h1", "h2", "l", "new", "many", "p", "empty")
_BELOW = ("a", "b", "sub", "x", "h3", "007", "l")
_XATTRS = ("user.k", "user.other", "trusted.t")
_MODES = (0o600, 0o644, 0o755, 0o711, 0o444, 0o777)
_SIZES = (0, 1, 100, 4095, 4096, 4097, 10_000, 70_000)


@dataclass(frozen=True)
class Operation:
    name: str
    arguments: tuple[Any, ...]
    somebody: bool = False  # as a user without rights


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


class Side:
    """One directory and the descriptors that operations opened below it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._fds: dict[int, int] = {}

    def __call__(self, operation: Operation) -> object:
        with self._inside(operation.somebody):
            try:
                return getattr(self, "_" + operation.name)(*operation.arguments)
            except OSError as e:
                return errno.errorcode[e.errno or 0]

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
        """Relative paths, since directories above may be closed to a user without rights."""
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

    def _fd(self, slot: int) -> int:
        return self._fds.get(slot, -1)

    # ---- descriptors ----

    def _open(self, slot: int, path: str, flags: int, mode: int) -> object:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
        if slot in self._fds:
            os.close(self._fds[slot])
        self._fds[slot] = fd
        return _seen(os.fstat(fd))

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

    def _regular(self, slot: int) -> int:
        """Devices and fifos are shared with the machine, or wait for somebody else."""
        fd = self._fd(slot)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "")
        return fd

    def _ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._fd(slot), size)

    def _fstat(self, slot: int) -> object:
        return _seen(os.fstat(self._fd(slot)))

    def _fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._fd(slot), mode)

    def _fsync(self, slot: int) -> None:
        os.fsync(self._regular(slot))

    def _listdir_fd(self, slot: int) -> list[str]:
        return sorted(os.listdir(self._fd(slot)))

    def _reopen(self, slot: int) -> bytes:
        self._regular(slot)
        fd = os.open(f"/proc/self/fd/{self._fd(slot)}", os.O_RDONLY)
        try:
            return os.pread(fd, 100_000, 0)
        finally:
            os.close(fd)

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
        """As editors save: a new file beside it, then a rename over it."""
        self._save(path + ".tmp", data)
        os.rename(path + ".tmp", path)

    def _read(self, path: str) -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(fd, 200_000) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)

    def _truncate(self, path: str, size: int) -> None:
        """To the size it has, POSIX leaves it open whether the time changes: then it is set."""
        same = os.stat(path).st_size == size
        os.truncate(path, size)
        if same:
            os.utime(path, ns=(size, size))

    def _mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path)
        os.chmod(path, mode)

    def _rmdir(self, path: str) -> None:
        os.rmdir(path)

    def _unlink(self, path: str) -> None:
        os.unlink(path)

    def _rmtree(self, path: str) -> None:
        """Deepest first; the first error ends it, in an order that both sides have."""
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
            raise OSError(ctypes.get_errno(), "")

    def _link(self, source: str, target: str) -> None:
        os.link(source, target, follow_symlinks=False)

    def _symlink(self, source: str, target: str) -> None:
        os.symlink(source, target)

    def _readlink(self, path: str) -> str:
        return os.readlink(path)

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

    def _utime(self, path: str, atime: int, mtime: int, follow: bool) -> None:
        os.utime(path, ns=(atime, mtime), follow_symlinks=follow)

    def _setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(path, name, value, follow_symlinks=False)

    def _removexattr(self, path: str, name: str) -> None:
        os.removexattr(path, name, follow_symlinks=False)

    def _xattrs(self, path: str) -> dict[str, bytes]:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}

    def _listdir(self, path: str) -> list[tuple[str, bool]]:
        return sorted((e.name, e.is_dir(follow_symlinks=False)) for e in os.scandir(path))

    def _stat(self, path: str) -> object:
        return _seen(os.lstat(path)), _seen(os.stat(path))

    def _access(self, path: str, mode: int) -> bool:
        return os.access(path, mode, effective_ids=True)


def _seen(st: os.stat_result) -> tuple[int, ...]:
    """What must be the same on both sides: of the times only those that an operation set."""
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    mtime = st.st_mtime_ns if st.st_mtime_ns < LONG_AGO else -1
    return st.st_mode, st.st_nlink, st.st_uid, st.st_gid, size, st.st_rdev, mtime
