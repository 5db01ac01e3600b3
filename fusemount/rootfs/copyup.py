"""Law: how an object of the layers comes into the upper; the tree says what, the upper where.

Crash rules.  A process that ends between any two system calls leaves an upper that both we and the
kernel's overlayfs mount, and that shows the old or the new state of what was going on:

    C1  An object is made in the work directory, complete, and comes up by one rename.  What is left
        in the work directory means nothing and is removed at the next start.
    C2  The directories on its way come up first, outermost first, each by C1.
    C3  Data are synced before the rename that shows them (not with `volatile`).
    C4  Of a file that only changes its attributes or names these come up alone ("metacopy", a file
        with a hole of the right size).  Its data follow when they are written to: into that object,
        synced, and then the mark goes, in one step.  Until then the layers' data are shown,
        whatever the object holds, as far as its size.  What writing takes from it (times,
        security.capability, set-id bits) stands in the mark `imgmount.held` meanwhile.
    C5  A set of hardlinks comes up as a whole, so that it stays one file for the kernel's overlayfs
        too: the object is linked name by name.  Each says which file of the layers it is (mark
        `imgmount.origin`), so a set that is there in part is whole to us, and is completed at the
        next start.
    C6  A copy-up does not show: the directory's times are put back, and stand in its mark
        `imgmount.times` meanwhile.

Names that go or move are names.py's, rename.py's and native/upper/change.h's; theirs is C7: one
system call, or steps that do not show and then one.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fusemount import _native
from fusemount.rootfs.copyupnodes import WHOLE, NodeCopyUp
from fusemount.rootfs.harmless import CAPABILITY
from fusemount.rootfs.heldmarks import Held, format_held
from fusemount.rootfs.names import changing
from fusemount.rootfs.objects import HELD, METACOPY, Owner

_SET_ID = stat.S_ISUID | stat.S_ISGID
_PUNCH_HOLE = 2 | 1  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h


class CopyUp(NodeCopyUp):
    """Copies data up too: `whole` takes the lock `change` itself, which must not be held for it."""

    def bytes_below(self, ino: int) -> int:
        """How many bytes `whole` would copy; an unknown node has none."""
        try:
            attr = self._tree.getattr(ino)
        except OSError:
            return 0
        below = stat.S_ISREG(attr.mode) and (not attr.upper or attr.meta)
        return attr.size if below else 0

    def whole(self, ino: int, size: int = WHOLE, mtime_ns: int | None = None) -> None:
        """Brings a node up with its data, of a file only the first size bytes; mtime_ns: and with
        this time, since cutting a file shows. It may come whole nevertheless.

        The lock `change` is not held, and data are copied without it: others go on meanwhile.
        """
        with self._one_at_a_time(ino):
            while self._step(ino, size, mtime_ns):
                pass

    @contextmanager
    def _one_at_a_time(self, ino: int) -> Iterator[None]:
        with self._guard:
            lock, waiting = self._lines.setdefault(ino, (threading.Lock(), []))
            waiting.append(None)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                waiting.pop()
                if not waiting:
                    del self._lines[ino]

    def _step(self, ino: int, size: int, mtime_ns: int | None) -> bool:
        """False when the node is up with its data."""
        attr = self._tree.getattr(ino)
        if attr.upper and not attr.meta:
            return False
        if attr.upper:
            self._complete(ino, attr, size)
            return False
        uncut = attr.nlink > 1 and size < attr.size  # C5: names come one by one
        if not stat.S_ISREG(attr.mode) or not attr.size or (uncut and not self.needs_data(ino)):
            with changing(self._native):
                self.node(ino)
        elif uncut:
            self._copy_up_file(ino, attr, WHOLE, None)
        else:
            self._copy_up_file(ino, attr, size, mtime_ns)
        return True

    def _copy_up_file(self, ino: int, attr: _native.Attr, size: int, mtime_ns: int | None) -> None:
        self._check_links(attr)
        staged = self._upper.temporary()
        try:
            if size:
                self._make_file(staged, ino, attr, size)
            else:
                os.close(os.open(staged, os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._upper.work_fd))
            with changing(self._native):
                if self._tree.getattr(ino).upper:  # its attributes alone came first
                    self._upper.leave(staged)
                else:
                    self._come_up(ino, staged, meta=False, mtime_ns=mtime_ns)
        except OSError:
            self._upper.leave(staged)
            raise

    def _complete(self, ino: int, attr: _native.Attr, size: int) -> None:
        """The data of what came up with its attributes alone (C4)."""
        fd = self._native.pin(ino)
        try:
            with changing(self._native), self.place(ino) as (at, rest):
                self._upper.set_mark(at, rest, HELD, format_held(self._held(ino)))
            try:
                if size:
                    self._tree.copy_data(ino, fd, size)
                    self._sync_data(fd)
            except OSError:
                with suppress(OSError):  # what was copied keeps no room
                    _native.fallocate(fd, _PUNCH_HOLE, 0, attr.size)
                with changing(self._native):
                    self.restore(ino)
                raise
            with changing(self._native):
                self.restore(ino)
                self._make_whole(ino, fd, attr, min(size, attr.size))
        finally:
            self._native.unpin(ino)

    def _make_whole(self, ino: int, fd: int, attr: _native.Attr, size: int) -> None:
        """The data that came are the file's. A cut is done with its first step: so much of the
        layers' data shows from then on, also where the mark cannot go (C4)."""
        cut = size < attr.size
        if cut:
            os.ftruncate(fd, size)
            self._tree.set_attr(ino, size=size, mtime_ns=os.fstat(fd).st_mtime_ns)
        try:
            with self.place(ino) as (at, rest):
                self._upper.remove_mark(at, rest, METACOPY)
        except OSError:
            if cut:
                return
            raise
        st = os.fstat(fd)
        self._tree.set_attr(
            ino, meta=False, size=size, blocks=st.st_blocks, mtime_ns=st.st_mtime_ns
        )

    def _held(self, ino: int) -> Held:
        attr = self._tree.getattr(ino)
        # a mark is not taken by writing
        taken = not self._upper.harmless.files
        capability = self._tree.getxattr(ino, CAPABILITY) if taken else None
        return Held(stat.S_IMODE(attr.mode), attr.atime_ns, attr.mtime_ns, capability)

    def restore(self, ino: int) -> None:
        """What writing its data has taken from an object comes back."""
        attr, upper = self._tree.getattr(ino), self._upper
        mode = stat.S_IMODE(attr.mode)
        capability = self._tree.getxattr(ino, CAPABILITY)
        with self.place(ino) as (at, rest):
            if mode & _SET_ID and not upper.privileged:
                upper.give(at, rest, Owner(attr.uid, attr.gid, mode))
            if capability is not None:
                upper.set_xattr(at, rest, CAPABILITY, capability)
            upper.set_times(at, rest, attr.atime_ns, attr.mtime_ns)
            upper.remove_mark(at, rest, HELD)
