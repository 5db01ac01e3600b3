"""Law: how an object of the layers comes into the upper; the tree says what, the upper where.

Steps for a file, each of them leaving the upper valid if it is the last one to happen:

    1. the directories on the way come up, outermost first, each made in the work directory with
       its attributes and moved in by one rename;
    2. the file is made in the work directory: data (holes stay holes), xattrs, owner, mode, times;
    3. its data are synced, then it is linked to every further name that it has (so that a set of
       hardlinks stays one file, for the kernel's overlayfs too), and moved to its first name.

A copy-up does not show: the times of the directories it comes into are put back.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from fusemount import _native
from fusemount.rootfs.load import visible_path
from fusemount.rootfs.names import moving
from fusemount.rootfs.upper import Owner, Upper

WHOLE = 2**63 - 1
_NOT_TAKEN = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP)


class CopyUp:
    """Brings nodes up. Raises OSError: of the upper (ENOSPC, …) or the archive (EIO)."""

    def __init__(self, tree: _native.Tree, upper: Upper, native: _native.UpperFiles) -> None:
        self._tree, self._upper, self._native = tree, upper, native

    # ---- places ---------------------------------------------------------------------------

    def path(self, ino: int) -> bytes:
        """The visible path of a node, which is also where its object stands in the upper.

        Raises FileNotFoundError for a node without a name.
        """
        return visible_path(self._tree, ino)

    def child(self, parent: int, name: bytes) -> bytes:
        return visible_path(self._tree, parent, name)

    @staticmethod
    def orphan(ino: int) -> bytes:
        """Where, in the work directory, a file without a name stands while the kernel knows it."""
        return b"orphan-%d" % ino

    @contextmanager
    def place(self, ino: int) -> Iterator[tuple[int, bytes]]:
        """(dir_fd, path) of a node's object, be it in the upper or without a name."""
        if ino != 1 and not self._tree.names(ino, 1):
            yield self._upper.work_fd, self.orphan(ino)
        else:
            with self._upper.at(self.path(ino)) as found:
                yield found

    # ---- bringing up ----------------------------------------------------------------------

    def directory(self, ino: int) -> None:
        todo = []
        while not self._tree.getattr(ino).upper:
            todo.append(ino)
            ino = self._tree.names(ino)[0][0]
        for directory in reversed(todo):
            self._one_directory(directory)

    def _one_directory(self, ino: int) -> None:
        name = self._upper.temporary()
        os.mkdir(name, 0o700, dir_fd=self._upper.work_fd)
        self._dress(name, ino)
        self._upper.put_in(name, self.path(ino))
        self._tree.set_attr(ino, upper=True)
        self.restore_times(self._tree.names(ino)[0][0])

    def node(self, ino: int, size: int = WHOLE) -> None:
        """Brings a node up, of a file's data only the first size bytes."""
        attr = self._tree.getattr(ino)
        if attr.upper:
            return
        names = self._tree.names(ino)
        if stat.S_ISDIR(attr.mode):
            if names:  # one that was removed has no place to come to
                self.directory(ino)
            return
        for parent, _ in names:
            self.directory(parent)
        staged = self._stage(ino, attr, size)
        try:
            if names:
                self._place(ino, staged, names)
            else:
                self._place_orphan(ino, staged)
        except OSError:
            self._upper.discard(staged)
            raise
        for parent in {parent for parent, _ in names}:
            self.restore_times(parent)

    def _stage(self, ino: int, attr: _native.Attr, size: int) -> bytes:
        name, work = self._upper.temporary(), self._upper.work_fd
        try:
            if stat.S_ISREG(attr.mode):
                self._copy_file(name, ino, attr, size)
            elif stat.S_ISLNK(attr.mode):
                os.symlink(self._tree.readlink(ino), name, dir_fd=work)
            elif stat.S_ISCHR(attr.mode) and attr.rdev == 0:
                # a device 0:0 is a whiteout to overlayfs: this one cannot come up
                raise PermissionError(1, "a character device 0:0 cannot be changed")
            else:
                os.mknod(name, stat.S_IFMT(attr.mode) | 0o600, attr.rdev, dir_fd=work)
            self._dress(name, ino)
        except OSError:
            try:
                os.unlink(name, dir_fd=work)
            except FileNotFoundError:
                pass
            raise
        return name

    def _copy_file(self, name: bytes, ino: int, attr: _native.Attr, size: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._upper.work_fd)
        try:
            if attr.size and size:
                self._tree.copy_data(ino, fd, size)
                os.fdatasync(fd)
        finally:
            os.close(fd)

    def _dress(self, name: bytes, ino: int) -> None:
        upper, attr = self._upper, self._tree.getattr(ino)
        work = upper.work_fd
        upper.give(work, name, Owner(attr.uid, attr.gid, stat.S_IMODE(attr.mode)))
        for key, value in self._tree.xattrs(ino).items():
            # after chown, which drops security.capability
            try:
                upper.set_xattr(work, name, key, value)
            except OSError as e:
                # An xattr that the upper cannot have (a malformed ACL; without privilege
                # security.* and trusted.*) is in the tree for this mount, and must not keep the
                # file from being changed.
                if e.errno not in _NOT_TAKEN:
                    raise
        times = (attr.atime_ns, attr.mtime_ns)
        os.utime(name, ns=times, dir_fd=work, follow_symlinks=False)

    def _place(self, ino: int, staged: bytes, names: list[tuple[int, bytes]]) -> None:
        work, linked = self._upper.work_fd, []
        st = os.stat(staged, dir_fd=work, follow_symlinks=False)
        (parent, name), *others = names
        try:
            for path in (self.child(*other) for other in others):
                with self._upper.at(path) as (fd, rest):
                    os.link(staged, rest, src_dir_fd=work, dst_dir_fd=fd, follow_symlinks=False)
                linked.append(path)
            self._upper.put_in(staged, self.child(parent, name))
        except OSError:
            for path in linked:
                with self._upper.at(path) as (fd, rest):
                    os.unlink(rest, dir_fd=fd)
            raise
        self._is_up(ino, st)

    def _place_orphan(self, ino: int, staged: bytes) -> None:
        work, orphan = self._upper.work_fd, self.orphan(ino)
        st = os.stat(staged, dir_fd=work, follow_symlinks=False)
        with moving(self._native):
            os.rename(staged, orphan, src_dir_fd=work, dst_dir_fd=work)
            try:
                self._is_up(ino, st)
            except OSError:  # forgotten meanwhile
                os.unlink(orphan, dir_fd=work)
                raise

    def _is_up(self, ino: int, st: os.stat_result) -> None:
        """In one step to who reads the tree. The size is of what was copied."""
        if stat.S_ISREG(st.st_mode):
            self._tree.set_attr(ino, upper=True, size=st.st_size, blocks=st.st_blocks)
        else:
            self._tree.set_attr(ino, upper=True)

    def restore_times(self, ino: int) -> None:
        """The upper directory gets the times that the tree shows."""
        attr = self._tree.getattr(ino)
        with self._upper.at(self.path(ino)) as (fd, rest):
            os.utime(rest, ns=(attr.atime_ns, attr.mtime_ns), dir_fd=fd, follow_symlinks=False)
