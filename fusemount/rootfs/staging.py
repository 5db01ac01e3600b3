"""Law: an object comes into an upper, or goes from it, by one rename from or to the work directory.

An object that takes more than one step is made in the work directory.  After a crash, objects that
are left there mean nothing and are removed at the next start.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

from fusemount import _native
from fusemount.beneath import open_beneath
from fusemount.rootfs.objects import OPAQUE, REDIRECT, Objects
from fusemount.rootfs.removal import remove_tree

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4


class Staging(Objects):
    """Objects on their way between the work directory and the upper. Raises OSError."""

    work_fd: int

    def __init__(self) -> None:
        self._serial = count(1)

    def temporary(self) -> bytes:
        """An unused name in the work directory. Any thread may call this."""
        return b"#%d" % next(self._serial)

    def make_opaque(self, fd: int, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """Marks a directory opaque, all of whose names are in the upper, and removes its
        whiteouts."""
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
        """Makes a whiteout in the work directory; it is removed after an error."""
        name = self.temporary()
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=self.work_fd)
        try:
            yield name
        except OSError:
            self.leave(name)
            raise

    def whiteout(self, fd: int, name: bytes) -> None:
        """Puts a whiteout at a free name, or over an object that is no directory."""
        with self._whiteout() as made:
            os.rename(made, name, src_dir_fd=self.work_fd, dst_dir_fd=fd)

    def replace_dir_by_whiteout(self, fd: int, name: bytes) -> bytes:
        """Exchanges both in one step; returns the directory's name in the work directory."""
        with self._whiteout() as made:
            _native.renameat2(self.work_fd, made, fd, name, RENAME_EXCHANGE)
        return made

    def take_out(self, fd: int, name: bytes) -> bytes:
        """Moves an object into the work directory; returns its name there."""
        left = self.temporary()
        os.rename(name, left, src_dir_fd=fd, dst_dir_fd=self.work_fd)
        return left

    def link_in(self, staged: bytes, fd: int, name: bytes) -> None:
        """Links an object of the work directory to a name that is free, or that a failed copy-up
        has left because it could not be undone."""
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
        """Moves an object from the work directory to a free name, or over a whiteout."""
        if stat.S_ISDIR(os.stat(staged, dir_fd=self.work_fd, follow_symlinks=False).st_mode):
            self._put_dir_in(staged, fd, name)
        else:
            os.rename(staged, name, src_dir_fd=self.work_fd, dst_dir_fd=fd)

    def _put_dir_in(self, name: bytes, fd: int, rest: bytes) -> None:
        try:
            _native.renameat2(self.work_fd, name, fd, rest, RENAME_NOREPLACE)
        except FileExistsError:  # a whiteout: rename(2) does not replace it by a directory
            _native.renameat2(self.work_fd, name, fd, rest, RENAME_EXCHANGE)
            self.leave(name)

    def leave(self, name: bytes) -> None:
        """Removes what a finished operation has left in the work directory.  A failure is ignored:
        the operation is done, and the next start removes the rest."""
        with suppress(OSError):
            self.discard(name)

    def discard(self, name: bytes) -> None:
        """Removes an object of the work directory, with all below it."""
        remove_tree(self.work_fd, name)
