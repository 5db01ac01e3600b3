"""Law: copy-up.  An object of the layers is copied into the upper before it is changed; this module
copies the data of files, copyupnodes.py objects and their names, copyupdirs.py directories.

Crash rules.  If the process ends between any two system calls, the upper can be mounted by us and
by the kernel's overlayfs, and shows either the old or the new state:

    C1  An object is made complete in the work directory, and moves into the upper by one rename.
        Objects that a crash leaves in the work directory mean nothing; the next start removes them.
    C2  The directories above it are copied up first, the outermost first, each by C1.
    C3  Data are synced before the rename that shows them (not with `volatile`).
    C4  If only attributes or names of a file change, only its attributes are copied up ("metacopy":
        a file that is a hole of the right size).  Before the first write to its data, they are
        copied into this object and synced.  Then one step removes the mark `metacopy`.  Until then
        the file shows the layers' data, up to the object's size, whatever the object contains.
        Writing the data changes the object's times and takes its security.capability and its set-id
        bits, so the mark `imgmount.held` keeps these meanwhile.
    C5  A set of hardlinks is copied up with all its names, so that it stays one file for the
        kernel's overlayfs too: the object is linked name by name.  Its mark `imgmount.origin` names
        the layers' file.  So we show a set of which only some names were linked as one complete
        file, and the next start links the missing names.
    C6  A copy-up does not change what a directory shows: the directory's times are set back, and
        its mark `imgmount.times` keeps them meanwhile.

Removing and moving names is in names.py, rename.py and native/upper/change.h, under rule C7: either
one system call, or steps that do not show and then one that does.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fusemount import _native
from fusemount.rootfs.copyupnodes import ALL, NodeCopyUp
from fusemount.rootfs.harmless import CAPABILITY
from fusemount.rootfs.heldmarks import Held, format_held
from fusemount.rootfs.names import changing
from fusemount.rootfs.objectmarks import HELD, METACOPY
from fusemount.rootfs.objects import Owner

_SET_ID = stat.S_ISUID | stat.S_ISGID
_PUNCH_HOLE = 2 | 1  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h


class CopyUp(NodeCopyUp):
    """Copies data up too.  `with_data` takes the lock `change` itself: its caller must not have
    it."""

    def bytes_in_layers(self, ino: int) -> int:
        """How many bytes `with_data` would copy; 0 for a node that does not exist."""
        try:
            attr = self._tree.getattr(ino)
        except OSError:
            return 0
        below = stat.S_ISREG(attr.mode) and (not attr.upper or attr.meta)
        return attr.size if below else 0

    def with_data(self, ino: int, size: int = ALL, mtime_ns: int | None = None) -> None:
        """Copies a node up with its data, of a file only the first `size` bytes.

        mtime_ns: the file's new mtime, for a caller that cuts the file, because programs see the
        cut.  If all data must be copied nevertheless (C5), the file keeps its mtime.  The data are
        copied without the lock `change`, so that other requests go on meanwhile.
        """
        with self._one_at_a_time(ino):
            while self._step(ino, size, mtime_ns):
                pass

    @contextmanager
    def _one_at_a_time(self, ino: int) -> Iterator[None]:
        with self._guard:
            lock, waiting = self._locks.setdefault(ino, (threading.Lock(), []))
            waiting.append(None)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                waiting.pop()
                if not waiting:
                    del self._locks[ino]

    def _step(self, ino: int, size: int, mtime_ns: int | None) -> bool:
        """False when the node is in the upper with its data; True when another step is needed."""
        attr = self._tree.getattr(ino)
        if attr.upper and not attr.meta:
            return False
        if attr.upper:
            self._complete(ino, attr, size)
            return False
        # C5: names are linked one by one, so a crash would show the cut under some of them only
        uncut = attr.nlink > 1 and size < attr.size
        if not stat.S_ISREG(attr.mode) or not attr.size or (uncut and not self.needs_data(ino)):
            with changing(self._native):
                self.node(ino)
        elif uncut:
            self._copy_up_file(ino, attr, ALL, None)
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
                if self._tree.getattr(ino).upper:  # another request has copied its attributes up
                    self._upper.leave(staged)
                else:
                    self._finish(ino, staged, meta=False, mtime_ns=mtime_ns)
        except OSError:
            self._upper.leave(staged)
            raise

    def _complete(self, ino: int, attr: _native.Attr, size: int) -> None:
        """Copies the data of a file of which only the attributes are in the upper (C4)."""
        fd = self._native.pin(ino)
        try:
            with changing(self._native), self.object(ino) as (at, rest):
                self._upper.set_mark(at, rest, HELD, format_held(self._to_hold(ino)))
            try:
                if size:
                    self._tree.copy_data(ino, fd, size)
                    self._sync_data(fd)
            except OSError:
                with suppress(OSError):  # the blocks that were copied are given back
                    _native.fallocate(fd, _PUNCH_HOLE, 0, attr.size)
                with changing(self._native):
                    self.restore_held(ino)
                raise
            with changing(self._native):
                self.restore_held(ino)
                self._end_metacopy(ino, fd, attr, min(size, attr.size))
        finally:
            self._native.unpin(ino)

    def _end_metacopy(self, ino: int, fd: int, attr: _native.Attr, size: int) -> None:
        """The object's own data become the file's: the mark `metacopy` is removed (C4).

        A cut is done with its first step, ftruncate: from then on only so much of the layers' data
        shows, even if the mark cannot be removed."""
        cut = size < attr.size
        if cut:
            os.ftruncate(fd, size)
            self._tree.set_attr(ino, size=size, mtime_ns=os.fstat(fd).st_mtime_ns)
        try:
            with self.object(ino) as (at, rest):
                self._upper.remove_mark(at, rest, METACOPY)
        except OSError:
            if cut:
                return
            raise
        st = os.fstat(fd)
        self._tree.set_attr(
            ino, meta=False, size=size, blocks=st.st_blocks, mtime_ns=st.st_mtime_ns
        )

    def _to_hold(self, ino: int) -> Held:
        attr = self._tree.getattr(ino)
        # Where the capability is in a mark of ours (harmless.py), writing does not take it.
        taken = not self._upper.harmless.files
        capability = self._tree.getxattr(ino, CAPABILITY) if taken else None
        return Held(stat.S_IMODE(attr.mode), attr.atime_ns, attr.mtime_ns, capability)

    def restore_held(self, ino: int) -> None:
        """Gives an object back what writing its data has taken from it (the mark `held`)."""
        attr, upper = self._tree.getattr(ino), self._upper
        mode = stat.S_IMODE(attr.mode)
        capability = self._tree.getxattr(ino, CAPABILITY)
        with self.object(ino) as (at, rest):
            if mode & _SET_ID and not upper.privileged:
                upper.give(at, rest, Owner(attr.uid, attr.gid, mode))
            if capability is not None:
                upper.set_xattr(at, rest, CAPABILITY, capability)
            upper.set_times(at, rest, attr.atime_ns, attr.mtime_ns)
            upper.remove_mark(at, rest, HELD)
