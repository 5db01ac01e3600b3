"""Law: the steps that changes of the view share: copying up data before the change, holding the
lock `change` during it, and giving the tree the upper's attributes after it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from fusemount import _native
from fusemount.rootfs.copyup import CopyUp
from fusemount.rootfs.names import changing
from fusemount.rootfs.upper import Upper
from fusemount.rootfs.upperload import set_xattrs


def fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


def check_done(done: bool) -> None:
    """Raises OSError with EIO for an operation that was declined although all it needs is in the
    upper, which does not happen (native/upper/change.h)."""
    if not done:
        fail(errno.EIO)


def has_object(tree: _native.Tree, ino: int) -> bool:
    """Whether a node has an object in the upper, or can be copied up because it has a name."""
    attr = tree.getattr(ino)
    named = ino == 1 or bool(tree.names(ino, 1))
    return named or (attr.upper and not stat.S_ISDIR(attr.mode))


class Writer:
    """The steps before and after a change of the view. Raises OSError."""

    def __init__(
        self, tree: _native.Tree, upper: Upper, native: _native.UpperFiles, copy: CopyUp
    ) -> None:
        self.tree, self.upper, self.native, self.copy = tree, upper, native, copy

    @contextmanager
    def locked(self) -> Iterator[_native.UpperFiles]:
        """Holds the lock `change`: no other operation changes anything.  Yields the C core."""
        with changing(self.native):
            self.copy.retry_times()
            yield self.native

    def copy_data_if_needed(self, ino: int) -> None:
        """Copies a node's data up if its attributes cannot be copied up without them.  The caller
        does not hold the lock `change`, so that other requests go on."""
        if has_object(self.tree, ino) and self.copy.needs_data(ino):
            self.copy.with_data(ino)

    def refresh(self, ino: int, acls: bool = False) -> None:
        """Gives the tree the attributes that the upper's object has now.

        A file keeps size and mtime: another thread may be writing it, and sets these itself."""
        with self.copy.object(ino) as (at, rest):
            st = os.fstat(at)
            owner = self.upper.owner(at, rest, st)
            xattrs = self.upper.xattrs(at, rest) if acls else None
        self.tree.set_attr(
            ino,
            mode=owner.mode,
            uid=owner.uid,
            gid=owner.gid,
            atime_ns=st.st_atime_ns,
            ctime_ns=st.st_ctime_ns,
        )
        if not stat.S_ISREG(self.tree.getattr(ino).mode):
            self.tree.set_attr(ino, mtime_ns=st.st_mtime_ns)
        if xattrs is not None:
            set_xattrs(self.tree, ino, xattrs)
