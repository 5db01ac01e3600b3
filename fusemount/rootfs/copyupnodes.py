"""Law: copy-up of one node with all its names: with its data, or only its attributes (metacopy).

The rules, C1 and C5 here, are in copyup.py.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from fusemount import _native
from fusemount.beneath import fd_path
from fusemount.rootfs.copyupdirs import DirectoryCopyUp
from fusemount.rootfs.names import inside, moving
from fusemount.rootfs.objectmarks import METACOPY, ORIGIN, REDIRECT

ALL = 2**63 - 1
LINKS_MAX = 1 << 14  # names of one file: to link so many takes about a second


class NodeCopyUp(DirectoryCopyUp):
    """Copies nodes up.  The caller holds the lock `change`."""

    @staticmethod
    def orphan(ino: int) -> bytes:
        """The name in the work directory of a file that has no other name any more."""
        return b"orphan-%d" % ino

    def node(self, ino: int) -> None:
        """Copies a node up; of a file only its attributes, where that is possible."""
        attr = self._tree.getattr(ino)
        if attr.upper:
            return
        if stat.S_ISDIR(attr.mode):
            if self._tree.names(ino, 1):  # a directory that was removed has no path in the upper
                self.directory(ino)
            return
        self._check_links(attr)
        staged, meta = self._upper.temporary(), False
        try:
            if stat.S_ISREG(attr.mode):
                # needs_data: no redirect can name a file that has lost its name in the layers
                meta = attr.size > 0 and not self.needs_data(ino)
                self._make_file(staged, ino, attr, 0 if meta else ALL)
            elif stat.S_ISLNK(attr.mode):
                os.symlink(self._tree.readlink(ino), staged, dir_fd=self._upper.work_fd)
            else:
                kind = stat.S_IFMT(attr.mode) | 0o600
                self._upper.make_node(self._upper.work_fd, staged, kind, attr.rdev)
            self._finish(ino, staged, meta=meta)
        except OSError:
            self._upper.leave(staged)
            raise

    def _check_links(self, attr: _native.Attr) -> None:
        """Raises OSError with EMLINK for a file with too many names.

        All its names are linked while the lock `change` is held, so an image must not be able to
        make that endless.  The upper's file system has a limit too; if linking failed only there,
        all links made so far would have to be undone."""
        if attr.nlink > min(LINKS_MAX, os.fpathconf(self._upper.fd, "PC_LINK_MAX")):
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))

    def _make_file(self, name: bytes, ino: int, attr: _native.Attr, size: int) -> None:
        """Makes a file in the work directory with the first `size` bytes of data; 0: with a hole as
        large as the file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._upper.work_fd)
        try:
            if not size:
                os.ftruncate(fd, attr.size)
            elif attr.size:
                self._tree.copy_data(ino, fd, size)
                self._sync_data(fd)
        finally:
            os.close(fd)

    def _sync_data(self, fd: int) -> None:
        if self._sync:
            os.fdatasync(fd)

    def _finish(self, ino: int, staged: bytes, *, meta: bool, mtime_ns: int | None = None) -> None:
        """Gives a staged object, which has its data already, its marks and attributes, and moves it
        to all its names."""
        names = self._tree.names(ino)
        for parent, _ in names:
            self.directory(parent)
        if names:
            origin = self.lower_path(ino)
            if meta:
                self._upper.set_mark(self._upper.work_fd, staged, REDIRECT, b"/" + origin)
            self._upper.try_mark(self._upper.work_fd, staged, ORIGIN, origin)
        if meta:
            self._upper.set_mark(self._upper.work_fd, staged, METACOPY, b"")
        self._give_attributes(staged, ino, mtime_ns)
        if names:
            cut = mtime_ns is not None
            with self._keeping_times({parent for parent, _ in names}, done=cut):
                self._put_in(ino, staged, names, meta=meta)
        else:
            self._put_orphan(ino, staged, meta=meta)

    def _put_in(
        self, ino: int, staged: bytes, names: Sequence[tuple[int, bytes]], *, meta: bool
    ) -> None:
        st = os.stat(staged, dir_fd=self._upper.work_fd, follow_symlinks=False)
        born = _native.born(self._upper.work_fd, staged)
        (parent, name), *others = names
        linked: list[tuple[int, bytes]] = []
        try:
            for other in others:
                with inside(self._native, other[0]) as fd:
                    self._upper.link_in(staged, fd, other[1])
                linked.append(other)
            with inside(self._native, parent) as fd:
                self._upper.put_in(staged, fd, name)
        except OSError:
            for above, there in linked:
                with suppress(OSError), inside(self._native, above) as fd:
                    os.unlink(there, dir_fd=fd)
            raise
        self._update_tree(ino, st, born, meta=meta)

    def _put_orphan(self, ino: int, staged: bytes, *, meta: bool) -> None:
        work, orphan = self._upper.work_fd, self.orphan(ino)
        st = os.stat(staged, dir_fd=work, follow_symlinks=False)
        born = _native.born(work, staged)
        with moving(self._native):
            os.rename(staged, orphan, src_dir_fd=work, dst_dir_fd=work)
            try:
                self._update_tree(ino, st, born, meta=meta)
            except OSError:  # the kernel has forgotten the node meanwhile
                os.unlink(orphan, dir_fd=work)
                raise

    def _update_tree(self, ino: int, st: os.stat_result, born: int, *, meta: bool) -> None:
        """Makes the node an upper one, in one step for threads that read the tree.  The size is
        that of the copied data."""
        if not stat.S_ISREG(st.st_mode) or meta:
            self._tree.set_attr(ino, upper=True, meta=meta, object=st.st_ino, born=born)
        else:
            self._tree.set_attr(
                ino, upper=True, size=st.st_size, blocks=st.st_blocks, mtime_ns=st.st_mtime_ns,
                object=st.st_ino, born=born,
            )  # fmt: skip

    def complete_links(self, ino: int, missing: Sequence[tuple[int, bytes]]) -> None:
        """Links the missing names of a set of hardlinks of which a crash has linked only some
        (C5)."""
        for parent, name in missing:
            self.directory(parent)
            staged = self._upper.temporary()
            with self.object(ino) as (fd, _), self._keeping_times({parent}):
                os.link(fd_path(fd), staged, dst_dir_fd=self._upper.work_fd, follow_symlinks=True)
                with inside(self._native, parent) as above:
                    self._upper.put_in(staged, above, name)
