"""Law: how directories of the layers are copied up, and how no copy-up shows in a directory's
times (copyup.py: C2, C6)."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from fusemount import _native
from fusemount.rootfs.names import inside
from fusemount.rootfs.objects import Owner
from fusemount.rootfs.upper import Upper

_NOT_TAKEN = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP)
_REDIRECT_MAX = 1000  # bytes of a path; the kernel's own redirects end at 256 (redirect_max)


class DirectoryCopyUp:
    """Copies directories up. Raises OSError: of the upper (ENOSPC, …) or the archive (EIO).

    The lock `change` must be held.  metacopy: attributes may come up alone.  redirects: by the
    nodeid of a directory, where the layers have it, if that is not where it shows.  sync: data are
    synced.
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
        self._guard = threading.Lock()
        self._times_left: set[int] = set()
        self._lines: dict[int, tuple[threading.Lock, list[None]]] = {}

    # ---- places ---------------------------------------------------------------------------

    def lower_path(self, ino: int) -> bytes:
        """Where the layers have a node that is not up, or a directory that merges with theirs."""
        parts: list[bytes] = []
        while ino != 1 and ino not in self.redirects:
            ino, name = self._tree.names(ino, 1)[0]
            parts.append(name)
        if ino != 1:
            parts.append(self.redirects[ino])
        return b"/".join(reversed(parts))

    def is_sayable(self, ino: int) -> bool:
        """Whether the marks of an object, which share one block, have room for its path."""
        return len(self.lower_path(ino)) <= _REDIRECT_MAX

    def needs_data(self, ino: int) -> bool:
        """Whether a file's attributes cannot come up alone."""
        named = ino != 1 and bool(self._tree.names(ino, 1))
        return not (self.metacopy and named and self.is_sayable(ino))

    @contextmanager
    def place(self, ino: int) -> Iterator[tuple[int, bytes]]:
        """(its descriptor, b""), as objects.py takes a node's object, be it in the upper or without
        a name. OSError with EIO: another object has been put in its place."""
        fd = self._native.object(ino)
        try:
            yield fd, b""
        finally:
            os.close(fd)

    # ---- directories ----------------------------------------------------------------------

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
        try:
            self._dress(name, ino)
            st = os.stat(name, dir_fd=self._upper.work_fd, follow_symlinks=False)
            parent, shown = self._tree.names(ino)[0]
            with self._unseen({parent}), inside(self._native, parent) as fd:
                self._upper.put_in(name, fd, shown)
        except OSError:
            self._upper.leave(name)
            raise
        self._tree.set_attr(ino, upper=True, object=st.st_ino)

    def _dress(self, name: bytes, ino: int, mtime_ns: int | None = None) -> None:
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
        times = (attr.atime_ns, attr.mtime_ns if mtime_ns is None else mtime_ns)
        os.utime(name, ns=times, dir_fd=work, follow_symlinks=False)

    # ---- their times ----------------------------------------------------------------------

    @contextmanager
    def _unseen(self, parents: set[int], *, done: bool = False) -> Iterator[None]:
        """What comes into these directories leaves their times as the tree has them (C6).

        done: what comes shows, and cannot be taken back: an error after it is no error of it."""
        marked: list[int] = []
        try:
            for parent in parents:
                attr = self._tree.getattr(parent)
                with self.place(parent) as (fd, rest):
                    self._upper.mark_times(fd, rest, attr.atime_ns, attr.mtime_ns)
                marked.append(parent)
            yield
        finally:
            self._restore_all_times(marked, done=done)

    def _restore_all_times(self, parents: list[int], *, done: bool) -> None:
        """All of them, whatever becomes of one; what is left is settled later."""
        failed: OSError | None = None
        for parent in parents:
            try:
                self.restore_times(parent)
            except OSError as e:
                failed = failed or e
        if failed is not None and not done:
            raise failed

    def restore_times(self, ino: int) -> None:
        """A directory's times become what the tree shows."""
        attr = self._tree.getattr(ino)
        self._times_left.add(ino)
        try:
            with self.place(ino) as (fd, rest):
                self._upper.restore_times(fd, rest, attr.atime_ns, attr.mtime_ns)
        except OSError:
            self._native.reserve(True)
            raise
        self._times_left.discard(ino)

    def retry_times(self) -> None:
        """Takes away the marks of C6 that an error left: the next start would believe them, and
        what shows in such a directory must not change before."""
        if not self._times_left:
            return
        for ino in list(self._times_left):
            with suppress(OSError):
                self.restore_times(ino)
        self._native.reserve(bool(self._times_left))

    def remove_needless_whiteouts(self, parent: int, names: Sequence[bytes]) -> None:
        """Whiteouts go that hide nothing, and keep their names from being used."""
        with self._unseen({parent}):
            fd = self._native.pin(parent)
            try:
                for name in names:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=fd)
            finally:
                self._native.unpin(parent)
