"""Law: opens files of an upper although other processes have leases on them (fcntl(2),
F_SETLEASE), for commands that read a whole upper and for repairs.

A user can take a lease on each file of theirs.  The kernel asks the holder to give the lease up,
and takes it away after /proc/sys/fs/lease-break-time (45 s).  Only an open(2) that waits is sure of
that: meanwhile the kernel grants no new lease, but a holder can renew a lease that an open(2) with
O_NONBLOCK has met.  So a thread waits in open(2), and the caller for the thread, with a limit.

A running mount never waits: the file is EBUSY for its users, and others do not wait behind them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
import time
from pathlib import Path

from fusemount import _native
from fusemount.beneath import fd_path
from fusemount.rootfs.names import changing

SECONDS = 100.0  # for all files of a command: room for two leases that the kernel takes away

THREAD = "opens a leased file"


class LeaseBreaker:
    """native: of the upper. writes: it opens files to write."""

    def __init__(self, native: _native.UpperFiles, *, writes: bool) -> None:
        self._native, self._flags = native, os.O_RDWR if writes else os.O_RDONLY
        self._left = SECONDS

    def open_file(self, ino: int) -> None:
        """Has native open a regular file of the upper, and keep it open like any other.

        Raises OSError: EBUSY, with the holder in its text, when the limit is reached. The lock
        `change` must not be held."""
        try:
            self._native.pin(ino)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            self._open_leased(ino)
        self._native.unpin(ino)

    def _open_leased(self, ino: int) -> None:
        """Pins the file."""
        with changing(self._native):
            found = self._native.object(ino)
        try:
            st = os.fstat(found)
            if not stat.S_ISREG(st.st_mode):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            fd = self._awaited(fd_path(found))
        finally:
            os.close(found)
        if fd < 0:
            raise OSError(errno.EBUSY, f"{_holder(st)} holds a lease on it (fcntl(2), F_SETLEASE)")
        try:
            self._native.pin(ino)
        finally:
            os.close(fd)

    def _awaited(self, path: bytes) -> int:
        """A descriptor of the file, with which no other process gets a lease; -1: not in time."""
        opened: list[int] = []
        failed: list[OSError] = []
        late = threading.Event()

        def wait() -> None:
            try:
                opened.append(os.open(path, self._flags | os.O_NOCTTY | os.O_CLOEXEC))
            except OSError as error:
                failed.append(error)
            if late.is_set():
                _close(opened)

        thread = threading.Thread(target=wait, name=THREAD, daemon=True)
        began = time.monotonic()
        thread.start()
        try:
            thread.join(max(self._left, 0.0))
        except BaseException:
            late.set()
            _close(opened)
            raise
        self._left -= time.monotonic() - began
        late.set()
        if failed:
            raise failed[0]
        return opened.pop() if opened else -1


def _close(opened: list[int]) -> None:
    if opened:
        os.close(opened.pop())


def _holder(st: os.stat_result) -> str:
    """Who has the lease, by proc_locks(5)."""
    where = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}:{st.st_ino}"
    found = re.search(rf"LEASE .* ([0-9]+) {where} ", Path("/proc/locks").read_text())
    return f"process {found[1]}" if found else "another process"
