"""Law: keeps the ctimes that programs have seen of objects in the upper, so that they are the same
after a remount.

With the writeback cache the kernel itself keeps the ctime of a regular file and shows it to
programs (fs/fuse/inode.c, fuse_get_cache_mask).  The object in the upper gets a later ctime, when
its data or attributes are written there; a copy-up gives a directory a new ctime too, though
nothing in it changed.  No system call sets a ctime.  So an orderly end of a mount writes a table:

    WORK/imgmount.ctimes    first line: version and checksum (record.py); then one line an object:
    ST_INO CTIME            the object in the upper; the ctime that programs have seen, in ns

A line is valid while the object's own ctime is not later than the table's, because then nothing has
changed the object since.  After a crash, and for an upper without its work directory, programs see
the object's own ctime.  A damaged table is ignored.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import field

from fusemount.dataclass import dataclass
from fusemount.record import sealed, unsealed

_NAME, _NEW = "imgmount.ctimes", "imgmount.ctimes.new"
_VERSION = 1
_BYTES_MAX = 1 << 28  # some 7 million objects


@dataclass(frozen=True)
class Ctimes:
    """shown: by st_ino, the ctime in ns that programs have seen. until_ns: the table's own."""

    shown: Mapping[int, int] = field(default_factory=dict)
    until_ns: int = 0

    def of(self, st: os.stat_result) -> int:
        """The ctime to show of an object in the upper, in ns."""
        if st.st_ctime_ns > self.until_ns:
            return st.st_ctime_ns
        return self.shown.get(st.st_ino, st.st_ctime_ns)


def read_ctimes(work: int) -> Ctimes:
    """work: the descriptor of the work directory. Empty if there is no valid table."""
    try:
        fd = os.open(_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=work)
    except OSError:
        return Ctimes()
    with open(fd, "rb") as file, suppress(OSError, ValueError):
        st = os.fstat(fd)
        if stat.S_ISREG(st.st_mode) and st.st_size <= _BYTES_MAX:
            lines = unsealed(file.read(), _VERSION, _NAME).splitlines()
            pairs = (line.split(b" ") for line in lines)
            return Ctimes({int(ino): int(shown) for ino, shown in pairs}, st.st_ctime_ns)
    return Ctimes()


def write_ctimes(work: int, shown: Iterable[tuple[int, int]]) -> None:
    """shown: (st_ino, ctime in ns). Raises OSError, and then there is no table: an old one
    never stays."""
    with suppress(FileNotFoundError):
        os.unlink(_NAME, dir_fd=work)
    data = sealed(b"".join(b"%d %d\n" % line for line in shown), _VERSION, _NAME)
    with suppress(FileNotFoundError):
        os.unlink(_NEW, dir_fd=work)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(_NEW, flags, 0o600, dir_fd=work), "wb") as file:
            file.write(data)
        os.rename(_NEW, _NAME, src_dir_fd=work, dst_dir_fd=work)
    except OSError:
        with suppress(OSError):
            os.unlink(_NEW, dir_fd=work)
        raise
