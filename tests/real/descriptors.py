"""Law: runs the random operations on descriptors, locks and mappings of a process.

The methods have the names of the operations in operations.py, with `_` before them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct

import systemcalls
from systemcalls import SystemCalls, failed

_libc = ctypes.CDLL(None, use_errno=True)
_CWD, _FOLLOW = -100, 0x400


def pattern(tag: int, size: int) -> bytes:
    """Bytes that show which write and offset they belong to."""
    unit = b"".join(struct.pack("<BH", tag, i) for i in range(1000))
    return (unit * (size // len(unit) + 1))[:size]


def seen(st: os.stat_result) -> tuple[int, ...]:
    """As systemcalls.seen(), without the times of fifos (twosides.py says why)."""
    fields = systemcalls.seen(st)
    return (*fields[:-1], -1) if stat.S_ISFIFO(st.st_mode) else fields


def refuse_both(file: int | str, mode: int) -> None:
    """Raises EPERM for a file that would have both set-id bits and capabilities.

    A write by root removes the capabilities.  FUSE gets that as a chown() without owner and group,
    which removes the set-id bits, too.
    """
    if mode & 0o6000 and "security.capability" in os.listxattr(file):
        raise failed(errno.EPERM)


class Descriptors(SystemCalls):
    def __init__(self) -> None:
        super().__init__()
        self._maps: dict[int, tuple[mmap.mmap, int]] = {}  # and a descriptor of the same file
        self._first: dict[int, tuple[int, int]] = {}  # slot: device and inode when it was opened

    def close_all(self) -> None:
        for slot in list(self._maps):
            self._unmap(slot)
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    # ---- descriptors ----

    def _keep(self, slot: int, fd: int) -> object:
        self._put(slot, fd)
        st = os.fstat(fd)
        self._first[slot] = st.st_dev, st.st_ino
        return seen(st)

    def _open(self, slot: int, path: str, flags: int, mode: int) -> object:
        return self._keep(slot, os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode))

    _create = _open

    def _open_directory(self, slot: int, path: str) -> object:
        return self._open(slot, path, os.O_RDONLY | os.O_DIRECTORY, 0)

    def _open_at(self, slot: int, directory: int, name: str, flags: int, mode: int) -> object:
        flags |= os.O_NONBLOCK | os.O_CLOEXEC
        return self._keep(slot, os.open(name, flags, mode, dir_fd=self._fd(directory)))

    def _tmpfile(self, slot: int, path: str, mode: int) -> object:
        return self._keep(slot, os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode))

    def _close(self, slot: int) -> None:
        os.close(self._fd(slot))
        del self._fds[slot]

    def _no_device(self, slot: int) -> int:
        fd = self._fd(slot)
        if stat.S_IFMT(os.fstat(fd).st_mode) in (stat.S_IFBLK, stat.S_IFCHR):
            raise failed(errno.EINVAL)
        return fd

    def _pread(self, slot: int, size: int, offset: int) -> bytes:
        return os.pread(self._no_device(slot), size, offset)

    def _pwrite(self, slot: int, tag: int, size: int, offset: int) -> int:
        return os.pwrite(self._no_device(slot), pattern(tag, size), offset)

    def _write(self, slot: int, tag: int, size: int) -> tuple[int, int]:
        fd = self._no_device(slot)
        done = os.write(fd, pattern(tag, size))
        return done, os.lseek(fd, 0, os.SEEK_CUR)

    def _read_on(self, slot: int, size: int) -> bytes:
        return os.read(self._no_device(slot), size)

    def _seek(self, slot: int, offset: int, how: int) -> int:
        return os.lseek(self._regular(slot), offset, how)

    def _fstat(self, slot: int) -> object:
        st = os.fstat(self._fd(slot))
        return seen(st), (st.st_dev, st.st_ino) == self._first[slot]

    def _fchmod(self, slot: int, mode: int) -> None:
        refuse_both(self._fd(slot), mode)
        os.fchmod(self._fd(slot), mode)

    def _fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self._fd(slot), uid, gid)

    def _fd_xattrs(self, slot: int, name: str, value: bytes) -> dict[str, bytes]:
        os.setxattr(self._fd(slot), name, value)
        return {n: os.getxattr(self._fd(slot), n) for n in sorted(os.listxattr(self._fd(slot)))}

    def _same_as(self, slot: int, path: str) -> bool:
        return os.path.samestat(os.fstat(self._fd(slot)), os.lstat(path))

    def _link_fd(self, slot: int, path: str) -> None:
        """linkat() of a link in /proc/self/fd: how a file of O_TMPFILE gets a name."""
        source = f"/proc/self/fd/{self._fd(slot)}"
        if _libc.linkat(_CWD, source.encode(), _CWD, path.encode(), _FOLLOW):
            raise failed(ctypes.get_errno())

    def _mkdir_at(self, slot: int, name: str, mode: int) -> None:
        os.mkdir(name, mode, dir_fd=self._fd(slot))

    def _unlink_at(self, slot: int, name: str) -> None:
        os.unlink(name, dir_fd=self._fd(slot))

    def _rename_at(self, source: int, name: str, target: int, new: str) -> None:
        os.rename(name, new, src_dir_fd=self._fd(source), dst_dir_fd=self._fd(target))

    def _sendfile(self, source: int, target: int, size: int) -> int:
        return os.sendfile(self._regular(target), self._regular(source), 0, size)

    def _copy_range(self, source: int, target: int, size: int, offset: int) -> int:
        source, target = self._regular(source), self._regular(target)
        return os.copy_file_range(source, target, size, 0, offset)

    def _fallocate(self, slot: int, mode: int, offset: int, size: int) -> None:
        where = ctypes.c_long(offset), ctypes.c_long(size)
        if _libc.fallocate(self._regular(slot), mode, *where):
            raise failed(ctypes.get_errno())

    def _holes(self, slot: int) -> object:
        """Checks that holes read as zeros; where the holes are depends on the file system."""
        fd = self._regular(slot)
        size, place, right = os.fstat(fd).st_size, 0, True
        while place < size:
            hole = os.lseek(fd, place, os.SEEK_HOLE)
            try:
                data = os.lseek(fd, hole, os.SEEK_DATA) if hole < size else size
            except OSError as e:
                right, data = right and e.errno == errno.ENXIO, size
            right = right and place <= hole <= data <= size
            right = right and not os.pread(fd, data - hole, hole).strip(b"\0")
            place = data if right else size
        return size, right, os.lseek(fd, size + 1, os.SEEK_DATA)

    # ---- locks ----

    def _flock(self, slot: int, kind: int) -> None:
        fcntl.flock(self._fd(slot), kind | fcntl.LOCK_NB)

    def _lock(self, slot: int, command: str, kind: int, start: int, length: int) -> object:
        wanted = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
        found = fcntl.fcntl(self._regular(slot), getattr(fcntl, command), wanted)
        return struct.unpack("hhqqi4x", found)[:4]

    # ---- shared mappings ----

    def _map(self, slot: int, source: int, writable: bool) -> int:
        fd = self._regular(source)
        if not os.fstat(fd).st_size:
            raise failed(errno.EINVAL)
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        mapped = mmap.mmap(fd, 0, mmap.MAP_SHARED, prot)
        self._unmap(slot)
        self._maps[slot] = mapped, os.dup(fd)
        return len(mapped)

    def _unmap(self, slot: int) -> None:
        if slot in self._maps:
            mapped, fd = self._maps.pop(slot)
            mapped.close()
            os.close(fd)

    def _mapped(self, slot: int, offset: int, size: int) -> tuple[mmap.mmap, slice]:
        """A range of the mapping inside the file: access past its end gives SIGBUS."""
        if slot not in self._maps:
            raise failed(errno.EFAULT)
        mapped, fd = self._maps[slot]
        there = min(len(mapped), os.fstat(fd).st_size)
        if not there:
            raise failed(errno.EFAULT)
        offset %= there
        return mapped, slice(offset, min(offset + size, there))

    def _map_read(self, slot: int, offset: int, size: int) -> bytes:
        mapped, part = self._mapped(slot, offset, size)
        return mapped[part]

    def _map_write(self, slot: int, offset: int, tag: int, size: int) -> None:
        """Writes between two msyncs, so that no later write-back changes the mtime.

        EPERM for a file with capabilities: ext4 keeps them, FUSE gets a write, which removes them.
        """
        mapped, part = self._mapped(slot, offset, size)
        if "security.capability" in os.listxattr(self._maps[slot][1]):
            raise failed(errno.EPERM)
        mapped.flush()
        try:
            mapped[part] = pattern(tag, part.stop - part.start)
        except TypeError:  # a read-only mapping
            raise failed(errno.EACCES) from None
        mapped.flush()
