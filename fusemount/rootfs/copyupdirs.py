"""Law: copy-up of directories.  No copy-up changes the times that a directory shows.

The rules, C2 and C6 here, are in copyup.py.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from fusemount import _native
from fusemount.rootfs.bynames import mark_copied
from fusemount.rootfs.names import inside
from fusemount.rootfs.objects import Owner
from fusemount.rootfs.upper import Upper

_NOT_TAKEN = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP)
_REDIRECT_MAX = 1000  # bytes of a path; the kernel's own redirects end at 256 (redirect_max)


class DirectoryCopyUp:
    """Copies directories up.  Raises OSError of the upper (ENOSPC, …) or of the archive (EIO).

    The caller holds the lock `change`.
    metacopy: attributes may be copied up without data.  redirects: by nodeid, the path in the
    layers of each directory that shows at another path.  sync: data are synced.
    """

    def __init__(
        self,
        tree: _native.Tree,
        upper: Upper,
        native: _native.UpperFiles,
        redirects: dict[int, bytes],
        *,
        metacopy: bool,
        sync: bool,
    ) -> None:
        self._tree, self._upper, self._native = tree, upper, native
        self.redirects = redirects
        self.metacopy = metacopy
        self._sync = sync
        self._times_left: set[int] = set()
        # For CopyUp._one_at_a_time: a lock and its waiting threads, by nodeid.
        self._locks: dict[int, tuple[threading.Lock, list[None]]] = {}
        self._guard = threading.Lock()

    # ---- paths in the layers --------------------------------------------------------------

    def lower_path(self, ino: int) -> bytes:
        """The path in the layers of a node that is not in the upper yet, or of a directory that
        merges with one of theirs."""
        parts: list[bytes] = []
        while ino != 1 and ino not in self.redirects:
            ino, name = self._tree.names(ino, 1)[0]
            parts.append(name)
        if ino != 1:
            parts.append(self.redirects[ino])
        return b"/".join(reversed(parts))

    def fits_redirect(self, ino: int) -> bool:
        """Whether a mark has room for the node's path in the layers: on ext4 all xattrs of an
        object share one block."""
        return len(self.lower_path(ino)) <= _REDIRECT_MAX

    def needs_data(self, ino: int) -> bool:
        """Whether a file cannot be copied up without its data: metacopy is off, or no redirect can
        name the file in the layers."""
        named = ino != 1 and bool(self._tree.names(ino, 1))
        return not (self.metacopy and named and self.fits_redirect(ino))

    @contextmanager
    def object(self, ino: int) -> Iterator[tuple[int, bytes]]:
        """A node's object in the upper, as objects.py takes it: (its descriptor, b"").

        The object may have lost its last name.  Raises OSError with EIO if another object has been
        put at its path."""
        fd = self._native.object(ino)
        try:
            yield fd, b""
        finally:
            os.close(fd)

    # ---- directories ----------------------------------------------------------------------

    def directory(self, ino: int) -> None:
        """Copies a directory up, and before it those above that are not in the upper yet (C2)."""
        todo = []
        while not self._tree.getattr(ino).upper:
            todo.append(ino)
            ino = self._tree.names(ino)[0][0]
        for directory in reversed(todo):
            self._one_directory(directory)

    def _one_directory(self, ino: int) -> None:
        name = self._upper.temporary()
        os.mkdir(name, 0o700, dir_fd=self._upper.work_fd)
        try:
            self._give_attributes(name, ino)
            mark_copied(self._upper, self._upper.work_fd, name, self.lower_path(ino))
            st = os.stat(name, dir_fd=self._upper.work_fd, follow_symlinks=False)
            born = _native.born(self._upper.work_fd, name)
            parent, shown = self._tree.names(ino)[0]
            with self._keeping_times({parent}), inside(self._native, parent) as fd:
                self._upper.put_in(name, fd, shown)
        except OSError:
            self._upper.leave(name)
            raise
        self._tree.set_attr(ino, upper=True, object=st.st_ino, born=born)

    def _give_attributes(self, name: bytes, ino: int, mtime_ns: int | None = None) -> None:
        """Gives an object in the work directory the node's owner, mode, xattrs and times."""
        upper, attr = self._upper, self._tree.getattr(ino)
        work = upper.work_fd
        upper.give(work, name, Owner(attr.uid, attr.gid, stat.S_IMODE(attr.mode)))
        for key, value in self._tree.xattrs(ino).items():
            # This comes after chown, which drops security.capability.
            try:
                upper.set_xattr(work, name, key, value)
            except OSError as e:
                # The upper cannot store some xattrs: a malformed ACL, and security.* and trusted.*
                # without privilege.  They must not keep the file from being changed, and the tree
                # still has them until the mount ends.
                if e.errno not in _NOT_TAKEN:
                    raise
        times = (attr.atime_ns, attr.mtime_ns if mtime_ns is None else mtime_ns)
        os.utime(name, ns=times, dir_fd=work, follow_symlinks=False)

    # ---- times of directories -------------------------------------------------------------

    @contextmanager
    def _keeping_times(self, parents: set[int], *, done: bool = False) -> Iterator[None]:
        """Objects may be put into these directories inside; afterwards the directories have the
        times again that the tree has (C6).

        done: the change inside shows and cannot be undone, so an error of restoring times
        afterwards is not reported as an error of the change."""
        marked: list[int] = []
        try:
            for parent in parents:
                attr = self._tree.getattr(parent)
                with self.object(parent) as (fd, rest):
                    self._upper.mark_times(fd, rest, attr.atime_ns, attr.mtime_ns)
                marked.append(parent)
            yield
        finally:
            self._restore_all_times(marked, done=done)

    def _restore_all_times(self, parents: list[int], *, done: bool) -> None:
        """Tries every directory even if one fails; retry_times() tries the failed ones again."""
        failed: OSError | None = None
        for parent in parents:
            try:
                self.restore_times(parent)
            except OSError as e:
                failed = failed or e
        if failed is not None and not done:
            raise failed

    def restore_times(self, ino: int) -> None:
        """Sets a directory's times to those of the tree and removes its mark `times`."""
        attr = self._tree.getattr(ino)
        self._times_left.add(ino)
        try:
            with self.object(ino) as (fd, rest):
                self._upper.restore_times(fd, rest, attr.atime_ns, attr.mtime_ns)
        except OSError:
            self._native.reserve(True)
            raise
        self._times_left.discard(ino)

    def retry_times(self) -> None:
        """Restores times that an error has left unrestored (C6).

        This comes before the next change: until the mark `times` is gone, the next start would set
        the directory's times back to it, and so undo the times of a later change."""
        if not self._times_left:
            return
        for ino in list(self._times_left):
            with suppress(OSError):
                self.restore_times(ino)
        self._native.reserve(bool(self._times_left))

    def remove_needless_whiteouts(self, parent: int, names: Sequence[bytes]) -> None:
        """Removes whiteouts that hide nothing: they are in the way of new objects of these
        names."""
        with self._keeping_times({parent}):
            fd = self._native.pin(parent)
            try:
                for name in names:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=fd)
            finally:
                self._native.unpin(parent)
