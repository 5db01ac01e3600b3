"""Law: runs a random operation below one directory, and returns what its caller sees.

A Side is for one process, with its identity, umask, working directory and open descriptors
(descriptors.py).  Two sides on equal file systems return equal results.  Where POSIX leaves a
result open, the operation is done so that only one is possible (_truncate, _map_write).  What
depends on the layout of a file system is checked here and not returned (_holes, _list_and_seek).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
from pathlib import Path

from descriptors import Descriptors, pattern, refuse_both, seen
from known import Step
from listing import Listing
from operations import CAPABILITY, Identity
from systemcalls import failed

_libc = ctypes.CDLL(None, use_errno=True)
_CWD = -100
_NOW, _OMIT = (1 << 30) - 1, (1 << 30) - 2  # utimensat(2)


class Side(Descriptors):
    def __init__(self, identity: Identity) -> None:
        super().__init__()
        self._identity = identity
        self._root = -1

    def enter(self, root: Path) -> None:
        """Works below this directory, as a user who may not enter the directories above."""
        self._root = os.open(root, os.O_PATH | os.O_CLOEXEC)
        os.fchdir(self._root)
        os.umask(self._identity.umask)
        os.setgroups(self._identity.groups)
        os.setegid(self._identity.gid)
        os.seteuid(self._identity.uid)

    def leave(self) -> None:
        self.close_all()
        os.close(self._root)
        self._root = -1
        os.seteuid(0)
        os.setegid(0)
        os.chdir("/")

    def __call__(self, step: Step) -> object:
        return self.result(step.name, step.arguments)

    # ---- paths: contents ----

    def _write_file(self, path: str, data: bytes, flags: int) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | flags, 0o666)
        try:
            os.write(fd, data) if stat.S_ISREG(os.fstat(fd).st_mode) else None
        finally:
            os.close(fd)

    def _save(self, path: str, tag: int, size: int) -> None:
        self._write_file(path, pattern(tag, size), os.O_TRUNC)

    def _append(self, path: str, tag: int, size: int) -> None:
        self._write_file(path, pattern(tag, size), os.O_APPEND)

    def _replace(self, path: str, tag: int, size: int) -> None:
        """Replaces a file as editors do: writes a new file beside it and renames that over it."""
        self._save(path + ".tmp", tag, size)
        os.rename(path + ".tmp", path)

    def _direct(self, path: str, flags: int, mode: int = 0) -> int:
        fd = os.open(path, flags | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise failed(errno.EINVAL)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
        return fd

    def _direct_read(self, path: str, offset: int) -> bytes:
        fd = self._direct(path, os.O_RDONLY)
        try:
            with mmap.mmap(-1, 131_072) as buffer:  # O_DIRECT needs aligned memory
                return buffer[: os.preadv(fd, [buffer], offset)]
        finally:
            os.close(fd)

    def _direct_write(self, path: str, tag: int, size: int, offset: int) -> int:
        fd = self._direct(path, os.O_WRONLY)
        try:
            if not size:
                return 0
            with mmap.mmap(-1, size) as buffer:
                buffer[:] = pattern(tag, size)
                return os.pwritev(fd, [buffer], offset)
        finally:
            os.close(fd)

    def _truncate(self, path: str, size: int) -> None:
        """POSIX does not say whether truncation to the same size changes the time; so it is set."""
        st = os.stat(path)
        if not stat.S_ISREG(st.st_mode) or st.st_size != size:
            return os.truncate(path, size)
        os.utime(path, ns=(size, size))  # fails before the truncation if the caller may not
        os.truncate(path, size)
        os.utime(path, ns=(size, size))

    # ---- paths: names ----

    _rename_directory = Descriptors._rename

    def _mknod(self, path: str, node: tuple[int, int, int], mode: int) -> None:
        kind, major, minor = node
        os.mknod(path, kind | mode, os.makedev(major, minor))

    # ---- paths: attributes ----

    def _chmod(self, path: str, mode: int) -> None:
        refuse_both(path, mode)
        os.chmod(path, mode)

    def _chown(self, path: str, uid: int, gid: int, follow: bool) -> None:
        os.chown(path, uid, gid, follow_symlinks=follow)

    def _utime_part(self, path: str, atime: str, mtime: str, when: int) -> None:
        parts: list[int] = []
        for word in (atime, mtime):
            seconds, ns = divmod(when, 10**9)
            parts += {"omit": (0, _OMIT), "now": (0, _NOW), "set": (seconds, ns)}[word]
        if _libc.utimensat(_CWD, path.encode(), struct.pack("4q", *parts), 0):
            raise failed(ctypes.get_errno())

    def _setxattr_flags(self, path: str, name: str, value: bytes, flags: int) -> None:
        os.setxattr(path, name, value, flags, follow_symlinks=False)

    def _set_capability(self, path: str) -> None:
        """Sets a capability after a sync.

        A write that is still in the page cache would reach the upper later, and remove it again.
        """
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            st = os.fstat(fd)
            os.fsync(fd) if stat.S_ISREG(st.st_mode) else None
        finally:
            os.close(fd)
        if st.st_mode & 0o6000:
            raise failed(errno.EPERM)
        os.setxattr(path, "security.capability", CAPABILITY, follow_symlinks=False)

    def _set_acl(self, path: str, value: bytes) -> None:
        os.setxattr(path, "system.posix_acl_access", value, follow_symlinks=False)

    def _set_default_acl(self, path: str, value: bytes) -> None:
        os.setxattr(path, "system.posix_acl_default", value, follow_symlinks=False)

    def _remove_acl(self, path: str, which: str) -> None:
        os.removexattr(path, f"system.posix_acl_{which}", follow_symlinks=False)

    def _stat(self, path: str) -> object:
        return seen(os.lstat(path)), seen(os.stat(path))

    def _same(self, path: str, other: str) -> bool:
        return os.path.samestat(os.lstat(path), os.lstat(other))

    # ---- paths: listings ----

    def _listdir(self, path: str) -> object:
        """Names, kinds, and whether d_ino is st_ino (R 26), if the caller may stat the entries."""
        found = []
        with os.scandir(path) as entries:
            for e in sorted(entries, key=lambda e: e.name):
                st = e.stat(follow_symlinks=False)
                found.append((e.name, e.is_dir(follow_symlinks=False), e.inode() == st.st_ino))
        return found

    def _list_and_seek(self, path: str) -> object:
        """Reads again from every cookie of a listing: the rest must be the same."""
        with Listing(path) as listing:
            entries = listing.rest()
            right = True
            for i, (_, cookie) in enumerate(entries):
                listing.seek(cookie)
                right = right and listing.rest() == entries[i + 1 :]
            listing.seek(0)
            right = right and listing.rest() == entries
        return sorted(name for name, _ in entries), right

    def _list_and_remove(self, path: str, count: int) -> object:
        """Removes files while the directory is read: files that stay are listed exactly once."""
        here = [e.name for e in os.scandir(path) if not e.is_dir(follow_symlinks=False)]
        removed = sorted(here)[:count]
        with Listing(path) as listing:
            seen = listing.some()
            for name in removed:
                os.unlink(f"{path}/{name}")
            seen += listing.rest()
        names = [name for name, _ in seen]
        stayed = sorted(set(names) - set(removed))
        return stayed, sorted(os.listdir(path)), len(names) == len(set(names))

    # ---- the process ----

    def _inside(self, path: str, name: str, new: str, tag: int) -> object:
        """Works in another working directory."""
        os.chdir(path)
        try:
            self._append(name, tag, 100)
            os.rename(name, new)
            return seen(os.stat(".")), sorted(os.listdir("."))
        finally:
            os.fchdir(self._root)

    def _umask(self, mask: int) -> None:
        os.umask(mask)
