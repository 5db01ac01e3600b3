"""Law: opens and locks an upper directory and its work directory, and chooses the prefix of the
marks.

It uses no tree.  staging.py moves objects between the two directories; objects.py has the format.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fusemount import _native
from fusemount.beneath import (
    by_root,
    make_dirs_in_root,
    open_beneath,
    own_directory,
)
from fusemount.errors import UpperError
from fusemount.rootfs.ctimes import Ctimes, read_ctimes, write_ctimes
from fusemount.rootfs.harmless import AS_THEY_ARE, Harmless
from fusemount.rootfs.staging import Staging
from fusemount.rootfs.upperlock import UpperLocks
from fusemount.rootfs.uppermarks import TRUSTED, has_prefixed_names, prefixes, remember
from fusemount.rootfs.upperopen import check_apart, open_dir, open_work, usable, without_mounts

VOLATILE = b"imgmount.volatile"
_INCOMPAT = "incompat/volatile"
# f_type of file systems whose st_ino may be another after the inode has left the cache:
# linux/magic.h, FUSE_SUPER_MAGIC and OVERLAYFS_SUPER_MAGIC.
_FLEETING_INODES = (0x65735546, 0x794C7630)


def _boot() -> bytes:
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


class Upper(Staging):
    """One upper directory and its work directory, locked for this process.

    Raises UpperError when the upper cannot be used, NotPermitted for a work directory that other
    users can write to; every method raises OSError of its system calls.
    inodes_last: an object keeps its st_ino as long as it exists.
    """

    def __init__(
        self,
        upper: Path,
        work: Path | None,
        *,
        at: int | None = None,
        work_above: int | None = None,
        live: bool = False,
        volatile: bool = False,
        userxattr: bool = False,
        harmless: Harmless = AS_THEY_ARE,
        lock_directories: Sequence[Path] = (),
    ) -> None:
        """work None: the upper is only read; nothing is made, written or removed.

        at: a descriptor of the upper, used even if its path leads elsewhere by now.  work_above:
        likewise, of the directory that contains the work directory.  The caller closes both.
        live: a mount may be writing to the upper, so it is not locked, and an object may be gone
        after it was listed.
        volatile: nothing will be synced.  An upper that was volatile when the machine stopped is
        refused.
        userxattr: <P> is `user.overlay.` even for root.  lock_directories: upperlock.py.
        harmless: which powers are kept in marks; upperload.py makes an older upper harmless.
        """
        super().__init__()
        self.path, self.work_path, self.live = upper, work, live
        self._userxattr, self.opens_all = userxattr, userxattr and by_root()
        self.harmless = harmless
        self.inodes_last, self.ctimes = False, Ctimes()
        self.fd = self.work_fd = self._lock_fd = -1
        self._locks = UpperLocks(upper, lock_directories, exclusive=work is not None)
        self.kept: list[bytes] = []  # names in the work directory (staging.py, sweep)
        self.prefixed = False  # names `.wh.…` are marks (prefixed.py)
        try:
            self._open(upper, work, at, work_above, volatile)
        except BaseException:
            self.close()
            raise

    def _open(
        self,
        upper: Path,
        work: Path | None,
        at: int | None,
        work_above: int | None,
        volatile: bool,
    ) -> None:
        if work is None:
            self.fd = open_dir(upper, at)
            (self.fd,) = without_mounts(upper, self.fd)
            if not self.live:
                self._lock()
            self.prefix = prefixes(self.fd, upper, self._userxattr)[-1]
            self.prefixed = has_prefixed_names(self.fd)
            return
        check_apart(upper, at, work, work_above)
        self.fd = open_dir(upper, at, make=True)
        with usable(work):
            inside = None if work_above is None else (work_above, work.name)
            self._lock_fd = own_directory(work, inside=inside, by_descriptor=True)
        self.fd, self._lock_fd = without_mounts(upper, self.fd, self._lock_fd)
        self._lock()
        # As with overlayfs, we empty only the directory `work` in the user's work directory.
        with usable(work / "work"):
            self.work_fd = open_work(work / "work", self._lock_fd)
            self._locks.take_work(self._lock_fd, self.work_fd)
        if os.fstat(self.fd).st_dev != os.fstat(self.work_fd).st_dev:
            raise UpperError(f"{work}: not on the file system of {upper}")
        self.prefix = self._probe_prefix()
        self.prefixed = has_prefixed_names(self.fd)
        if not self.privileged:
            remember(self.fd)
        self.inodes_last = _native.fs_type(self.fd) not in _FLEETING_INODES
        if self.inodes_last:
            self.ctimes = read_ctimes(self._lock_fd)
        self._end_volatile(work / "work" / _INCOMPAT)
        self.kept = self.sweep(self._lock_fd)
        if volatile:
            self.set_mark(self.fd, b".", VOLATILE, _boot())
            os.close(make_dirs_in_root(self.work_fd, _INCOMPAT))

    def _end_volatile(self, incompat: Path) -> None:
        """Ends the volatile state of an upper: if the machine has not stopped since, all that the
        volatile mount wrote is complete, and is synced now; otherwise the upper is refused
        (Documentation/filesystems/overlayfs.rst, "Volatile mount")."""
        try:
            os.close(open_beneath(self.work_fd, _INCOMPAT, os.O_PATH))
        except FileNotFoundError:
            self.remove_mark(self.fd, b".", VOLATILE)
            return
        if self.mark(self.fd, b".", VOLATILE) != _boot():
            raise UpperError(
                f"{self.path}: was mounted volatile when the machine stopped, so it may be "
                f"damaged; to use it all the same remove {incompat}"
            )
        _native.syncfs(self.fd)
        self.remove_mark(self.fd, b".", VOLATILE)

    def _lock(self) -> None:
        with usable(self.path):
            self._locks.take(self.fd)

    def _probe_prefix(self) -> bytes:
        for prefix in prefixes(self.fd, self.path, self._userxattr):
            try:
                os.setxattr(self.work_fd, prefix + b"probe", b"")
                os.removexattr(self.work_fd, prefix + b"probe")
            except OSError as e:
                reason = e
            else:
                return prefix
        kinds = "trusted. xattrs (see -o userxattr)" if prefix == TRUSTED else "xattrs"
        raise UpperError(f"{self.path}: its file system keeps no {kinds}: {reason.strerror}")

    def keep_ctimes(self, shown: list[tuple[int, int]]) -> None:
        """Keeps ctimes for the next mount (ctimes.py); if that fails, it shows the objects' own."""
        if self.inodes_last and (shown or self.ctimes.shown):
            with suppress(OSError):
                write_ctimes(self._lock_fd, shown)

    def close(self) -> None:
        self._locks.close()
        for fd in (self.fd, self.work_fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.work_fd = self._lock_fd = -1
