"""Law: makes the identity of a file's state, and decides whether it may outlive this process.

An identity names a stretch of one state of one file: device, inode, size, mtime, ctime, offset,
length.  It changes when the file is written to.  Facts about the bytes of a file are kept under
its identity (cache.py), so an identity that could later mean other bytes must not outlive us.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import time

from fusemount._native import fs_type
from fusemount.beneath import fd_path

TMP = ".tmp-"  # begins identities that only this process uses, and temporary files
_THIS_PROCESS = os.urandom(16)
# linux/magic.h: ext2 to ext4, XFS, btrfs, F2FS; bcachefs and ZFS by their own headers
_CTIME_IS_THE_KERNELS = frozenset(
    (0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0xCA451A4E, 0x2FC12FC1)
)
_TMPFS = 0x01021994  # its kernel sets ctime, but not for a store through mmap(2)
_CLOCK_TICK_NS = 20_000_000  # a kernel's file clock ticks every 1 to 10 ms


def identity(fd: int, offset: int, length: int) -> str:
    """The identity of a stretch of a file; it changes whenever the file is written to.

    On some file systems inode numbers and ctime come from an image or a server (FUSE, squashfs,
    NFS …), so another file may have the same values later. On tmpfs a store through mmap(2) changes
    no time. On these file systems only this process uses the identity, and files of the cache under
    this name are removed like temporary files.

    An identity does not protect against another user who can write to the file (docs/security.md,
    "Files of others"), because the contents are still read from the file after they were verified.
    And root can set the clock back.
    """
    st = os.fstat(fd)
    parts = (st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns, offset, length)
    if fs_type(fd) in _CTIME_IS_THE_KERNELS:
        return hashlib.sha256(repr(parts).encode()).hexdigest()
    return TMP + hashlib.sha256(repr((*parts, _THIS_PROCESS)).encode()).hexdigest()


def lasting(fd: int, key: str) -> str:
    """The name to keep new facts under: key, which is the file's identity; or a name for this
    process only, if a process has the file open for writing.

    A store through a mapping changes the times only at the first write to a page since the page was
    last written back. So a process that has written to a page already can write to that page again,
    and the times stay. A process that opens the file later changes the times by its first write to
    each page. A read lease (fcntl(2)) is refused if the file is open for writing; only root and the
    file's owner may ask for one. Other users trust the file's owner.
    """
    if key.startswith(TMP) or not _is_being_written(fd):
        return key
    return TMP + hashlib.sha256(key.encode() + _THIS_PROCESS).hexdigest()


def _is_being_written(fd: int) -> bool:
    """Whether the file is open for writing, or mapped for it. False if we cannot find out."""
    try:
        again = os.open(fd_path(fd), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # If a process opens the file for writing at this moment, the kernel sends us a signal. The
        # default, SIGIO, would end us; SIGURG is ignored.
        fcntl.fcntl(again, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(again, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(again, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(again)
    return False


def kept_state(fd: int) -> bytes:
    """A value that is another one for every other file, and after a write to this file.

    For files of the cache.  Where the kernel does not set ctime and inode numbers (see identity()),
    only size and mtime are compared.
    """
    st = os.fstat(fd)
    values = [st.st_size, st.st_mtime_ns]
    # On tmpfs too: only a store through a mapping keeps the ctime; nothing maps the cache's files.
    if fs_type(fd) in _CTIME_IS_THE_KERNELS | {_TMPFS}:
        values += [st.st_ino, st.st_ctime_ns]
    return json.dumps(values).encode()


def await_new_ctime(fd: int) -> None:
    """Waits until a write from now on would change the file's identity.

    A file written to within the last tick of the clock could change again without a new ctime.
    """
    age = time.time_ns() - os.fstat(fd).st_ctime_ns
    if 0 <= age < _CLOCK_TICK_NS:
        time.sleep((_CLOCK_TICK_NS - age) / 1e9)
