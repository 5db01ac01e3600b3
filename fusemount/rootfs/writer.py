"""Law: what every change needs: leave to change, the lock `change`, attributes in the upper, and
the tree made equal to the upper afterwards."""

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
    """native/upper/change.h declines nothing more once all that it wants is in the upper."""
    if not done:
        fail(errno.EIO)


def has_object(tree: _native.Tree, ino: int) -> bool:
    """Or can have one: what was removed, and is only known, is not brought up for this."""
    attr = tree.getattr(ino)
    named = ino == 1 or bool(tree.names(ino, 1))
    return named or (attr.upper and not stat.S_ISDIR(attr.mode))


class Writer:
    """What a change of the view does before and after it. Raises OSError."""

    def __init__(
        self, tree: _native.Tree, upper: Upper, native: _native.UpperFiles, copy: CopyUp
    ) -> None:
        self.tree, self.upper, self.native, self.copy = tree, upper, native, copy

    @contextmanager
    def locked(self) -> Iterator[_native.UpperFiles]:
        """The core to native/upper/change.c, and nobody else changes anything."""
        with changing(self.native):
            self.copy.retry_times()
            yield self.native

    def copy_data_if_needed(self, ino: int) -> None:
        """Before the lock: where attributes cannot come up alone, data are copied without it."""
        if has_object(self.tree, ino) and self.copy.needs_data(ino):
            self.copy.with_data(ino)

    def refresh(self, ino: int, acls: bool = False) -> None:
        """The tree takes over what the upper's object now says; of a file not size and mtime, which
        belong to who writes it, perhaps in another thread just now."""
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
