"""Law: an upper directory and its work directory: opened, locked, and what comes in or goes; this
module knows no tree.  What is on the disk there is objects.py's.

Crash rule: what takes more than one step is made in the work directory and comes into the upper by
one rename; the work directory's leftovers mean nothing and are removed at the next start.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
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
from fusemount.rootfs.objects import OPAQUE, REDIRECT, Objects
from fusemount.rootfs.removal import remove_tree
from fusemount.rootfs.upperlock import UpperLocks
from fusemount.rootfs.uppermarks import TRUSTED, has_prefixed_names, prefixes, remember
from fusemount.rootfs.upperplace import check_apart, open_dir, open_work, usable, without_mounts

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
VOLATILE = b"imgmount.volatile"
_INCOMPAT = "incompat/volatile"
# f_type of file systems whose st_ino may be another after the inode has left the cache:
# linux/magic.h, FUSE_SUPER_MAGIC and OVERLAYFS_SUPER_MAGIC.
_FLEETING_INODES = (0x65735546, 0x794C7630)


def _boot() -> bytes:
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


class Upper(Objects):
    """One upper directory and its work directory, locked for this process.

    Raises UpperError when it cannot be used, NotPermitted for a work directory that others can
    write to; every method raises OSError as the system does.
    inodes_last: an object has one st_ino as long as it is.
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
        lock_places: Sequence[Path] = (),
    ) -> None:
        """work None: the upper is only looked at; nothing is made, written or swept.

        at: a descriptor of the upper, whatever stands at its path by now; work_above: of the
        directory that work is in, likewise.  Both stay the caller's.
        live: a mount may be writing to it meanwhile, so it is not locked, and what is listed may be
        gone when it is looked at.
        volatile: nothing will be synced; what was so before the machine last started is refused.
        userxattr: <P> is `user.overlay.`, whoever we are.  lock_places: upperlock.py.
        harmless: what is kept in marks; made so where it is not (upperload.py).
        """
        self.path, self.work_path, self.live = upper, work, live
        self._userxattr, self.opens_all = userxattr, userxattr and by_root()
        self.harmless = harmless
        self._serial = count(1)
        self.inodes_last, self.ctimes = False, Ctimes()
        self.fd = self.work_fd = self._lock_fd = -1
        self._locks = UpperLocks(upper, lock_places, alone=work is not None)
        self.prefixed = False  # names `.wh.` are marks (prefixed.py)
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
        check_apart(upper, work)
        self.fd = open_dir(upper, at, make=True)
        with usable(work):
            inside = None if work_above is None else (work_above, work.name)
            self._lock_fd = own_directory(work, inside=inside, by_descriptor=True)
        self.fd, self._lock_fd = without_mounts(upper, self.fd, self._lock_fd)
        self._lock()
        # As the kernel's: only the directory `work` in the user's is ours to sweep.
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
        for left in os.listdir(self.work_fd):
            self.discard(os.fsencode(left))
        if volatile:
            self.set_mark(self.fd, b".", VOLATILE, _boot())
            os.close(make_dirs_in_root(self.work_fd, _INCOMPAT))

    def _end_volatile(self, incompat: Path) -> None:
        """What a volatile mount wrote is whole while the machine has not failed since: then it is
        synced, and volatile no more (Documentation/filesystems/overlayfs.rst, "Volatile mount")."""
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

    def keep_ctimes(self, told: list[tuple[int, int]]) -> None:
        """For the next mount; without room for them it tells the objects' own."""
        if self.inodes_last and (told or self.ctimes.told):
            with suppress(OSError):
                write_ctimes(self._lock_fd, told)

    def close(self) -> None:
        self._locks.close()
        for fd in (self.fd, self.work_fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.work_fd = self._lock_fd = -1

    # ---- places ---------------------------------------------------------------------------

    def temporary(self) -> bytes:
        """A name in the work directory that nothing has. Any thread may ask."""
        return b"#%d" % next(self._serial)

    # ---- whiteouts and removal ------------------------------------------------------------

    def make_opaque(self, fd: int, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """A directory that holds all it shows is marked so, and its whiteouts go."""
        self.mark_times(fd, path, atime_ns, mtime_ns)
        self.set_mark(fd, path, OPAQUE, b"y")
        self.remove_mark(fd, path, REDIRECT)
        here = open_beneath(fd, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in map(os.fsencode, os.listdir(here)):
                st = os.stat(name, dir_fd=here, follow_symlinks=False)
                whiteout = stat.S_ISCHR(st.st_mode) and st.st_rdev == 0
                if stat.S_ISREG(st.st_mode) and st.st_size == 0:
                    whiteout = self.mark(here, name, b"whiteout") is not None
                if whiteout:
                    os.unlink(name, dir_fd=here)
        finally:
            os.close(here)
        self.restore_times(fd, path, atime_ns, mtime_ns)

    @contextmanager
    def _whiteout(self) -> Iterator[bytes]:
        """A whiteout in the work directory, under a name that is free again after an error."""
        name = self.temporary()
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=self.work_fd)
        try:
            yield name
        except OSError:
            self.leave(name)
            raise

    def whiteout(self, fd: int, name: bytes) -> None:
        """Puts a whiteout where nothing is, or in place of a non-directory."""
        with self._whiteout() as made:
            os.rename(made, name, src_dir_fd=self.work_fd, dst_dir_fd=fd)

    def replace_dir_by_whiteout(self, fd: int, name: bytes) -> bytes:
        """In one step; returns the directory's name in the work directory."""
        with self._whiteout() as made:
            _native.renameat2(self.work_fd, made, fd, name, RENAME_EXCHANGE)
        return made

    def take_out(self, fd: int, name: bytes) -> bytes:
        """Moves an object into the work directory; returns its name there."""
        left = self.temporary()
        os.rename(name, left, src_dir_fd=fd, dst_dir_fd=self.work_fd)
        return left

    def link_in(self, staged: bytes, fd: int, name: bytes) -> None:
        """Gives an object of the work directory a name where nothing is, or what a copy-up left
        that failed and could not be undone."""
        work = self.work_fd
        try:
            os.link(staged, name, src_dir_fd=work, dst_dir_fd=fd, follow_symlinks=False)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                raise
            spare = self.temporary()
            os.link(staged, spare, src_dir_fd=work, dst_dir_fd=work, follow_symlinks=False)
            try:
                os.rename(spare, name, src_dir_fd=work, dst_dir_fd=fd)
            except OSError:
                self.leave(spare)
                raise

    def put_in(self, staged: bytes, fd: int, name: bytes) -> None:
        """Moves an object from the work directory to where nothing is, or a whiteout."""
        if stat.S_ISDIR(os.stat(staged, dir_fd=self.work_fd, follow_symlinks=False).st_mode):
            self._put_dir_in(staged, fd, name)
        else:
            os.rename(staged, name, src_dir_fd=self.work_fd, dst_dir_fd=fd)

    def _put_dir_in(self, name: bytes, fd: int, rest: bytes) -> None:
        try:
            _native.renameat2(self.work_fd, name, fd, rest, RENAME_NOREPLACE)
        except FileExistsError:  # a whiteout, which rename(2) would not replace by a directory
            _native.renameat2(self.work_fd, name, fd, rest, RENAME_EXCHANGE)
            self.leave(name)

    def leave(self, name: bytes) -> None:
        """Removes what an operation that is done has left in the work directory, if it can: the
        operation is done all the same, and the next start removes the rest."""
        with suppress(OSError):
            self.discard(name)

    def discard(self, name: bytes) -> None:
        """Removes an object of the work directory, with all below it."""
        remove_tree(self.work_fd, name)
