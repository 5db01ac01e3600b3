"""Law: the name for one state of one file, and how long that name is good.

An identity names a stretch of one state of one file: device, inode, size, mtime, ctime, offset,
length.  It changes when the file is written to.  Facts about the bytes of a file are kept under
this name (cache.py), so a name that could mean other bytes later must not last.
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

TMP = ".tmp-"  # begins the names that are good for this process only
_THIS_PROCESS = os.urandom(16)
# linux/magic.h: ext2 to ext4, XFS, btrfs, F2FS; bcachefs and ZFS by their own headers
_CTIME_IS_THE_KERNELS = frozenset(
    (0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0xCA451A4E, 0x2FC12FC1)
)
_TMPFS = 0x01021994  # its ctime is the kernel's, but no store through mmap(2) changes it
_CLOCK_TICK_NS = 20_000_000  # a kernel's file clock ticks every 1 to 10 ms


def identity(fd: int, offset: int, length: int) -> str:
    """Names the state of a stretch of a file; changes whenever the file is written to.

    Where inode numbers and ctime come from an image or a server (FUSE, squashfs, NFS …), another
    file may have them all alike tomorrow, and on tmpfs stores through mmap(2) change no time: there
    the name is good for this process only, and what is kept under it is swept as a leftover.

    This is no guard against another user who can write to the file (docs/security.md, "Files of
    others"): the contents are read in place, after they were verified too; and root can set back
    the clock.
    """
    st = os.fstat(fd)
    parts = (st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns, offset, length)
    if fs_type(fd) in _CTIME_IS_THE_KERNELS:
        return hashlib.sha256(repr(parts).encode()).hexdigest()
    return TMP + hashlib.sha256(repr((*parts, _THIS_PROCESS)).encode()).hexdigest()


def lasting(fd: int, key: str) -> str:
    """The name for what is found out about a file's state from now on: its identity, or one that is
    good for this process alone, where somebody has the file open for writing.

    A store through a mapping changes the times only at the first write to a page since the page was
    last written back, so who has written already can write unseen. Who opens the file later cannot:
    their first write to each page is seen. A lease says which of the two holds (fcntl(2)); to ask,
    one must be root or the file's owner. Others believe the file's owner.
    """
    if key.startswith(TMP) or not _is_being_written(fd):
        return key
    return TMP + hashlib.sha256(key.encode() + _THIS_PROCESS).hexdigest()


def _is_being_written(fd: int) -> bool:
    """Also through a mapping whose descriptor is closed. False where that cannot be told."""
    try:
        again = os.open(fd_path(fd), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Who opens it for writing in this moment makes the kernel send a signal, by default SIGIO,
        # which would end us; SIGURG is ignored.
        fcntl.fcntl(again, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(again, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(again, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(again)
    return False


def kept_state(fd: int) -> bytes:
    """What tells a file from every other, and from itself after a write.  Where ctime and inode
    numbers are another's (identity() says where), only size and mtime last."""
    st = os.fstat(fd)
    told = [st.st_size, st.st_mtime_ns]
    if fs_type(fd) in _CTIME_IS_THE_KERNELS | {_TMPFS}:  # nobody maps what is ours
        told += [st.st_ino, st.st_ctime_ns]
    return json.dumps(told).encode()


def await_new_ctime(fd: int) -> None:
    """Waits until a write from now on would change the file's identity.

    A file written to within the last tick of the clock could change again without a new ctime.
    """
    age = time.time_ns() - os.fstat(fd).st_ctime_ns
    if 0 <= age < _CLOCK_TICK_NS:
        time.sleep((_CLOCK_TICK_NS - age) / 1e9)
