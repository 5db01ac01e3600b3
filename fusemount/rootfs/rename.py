"""Law: renames that overlayfs makes more of than the system: opaque marks, redirects, exchanges.

A directory that has children in the layers moves without them: its upper object carries a
`redirect`, the place in the layers where its children are.  What stands at the old place in the
layers is hidden by a whiteout, which RENAME_WHITEOUT leaves in the same step.  Where a redirect may
not be left (`redirect_dir=off`), all that the directory shows is brought up first, and it moves as
one of the upper's own.
Source: Documentation/filesystems/overlayfs.rst, "Renaming directories"; fs/overlayfs/dir.c.
"""

from __future__ import annotations

import errno
import os
import stat

from fusemount import _native
from fusemount.rootfs.copyup import CopyUp
from fusemount.rootfs.names import Names
from fusemount.rootfs.objects import OPAQUE, ORIGIN, REDIRECT
from fusemount.rootfs.staging import RENAME_EXCHANGE, RENAME_NOREPLACE
from fusemount.rootfs.upper import Upper


class Renamer:
    """redirect: directories of the layers move by a redirect, where it is not too long."""

    def __init__(
        self,
        tree: _native.Tree,
        upper: Upper,
        native: _native.UpperFiles,
        copy: CopyUp,
        *,
        redirect: bool,
    ) -> None:
        self._tree, self._upper, self._native, self._copy = tree, upper, native, copy
        self._names = Names(tree, upper, native)
        self._redirect = redirect
        self._prepared: set[int] = set()

    def is_prepared(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int) -> bool:
        """Whether `prepare` of either name has nothing to do."""
        places = [(parent, name)] + ([(to, new_name)] if flags & RENAME_EXCHANGE else [])
        found = (self._tree.lookup(*place) for place in places)
        return not any(ino and self._copies(ino) for ino in found)

    def _copies(self, ino: int) -> bool:
        attr = self._tree.getattr(ino)
        if stat.S_ISDIR(attr.mode):
            return attr.layer >= 0 and not self._redirects(ino) and ino not in self._prepared
        return not attr.upper and self._copy.needs_data(ino) and self._copy.bytes_below(ino) > 0

    def _redirects(self, ino: int) -> bool:
        return self._redirect and self._copy.is_sayable(ino)

    def prepare(self, ino: int) -> None:
        """Brings up, without the lock `change`, the data that a rename of this would copy."""
        if not self._copies(ino):
            return
        if stat.S_ISDIR(self._tree.getattr(ino).mode):
            self._copy_tree(ino)
            self._prepared.add(ino)  # what comes below it now is brought up with the lock
        else:
            self._copy.whole(ino)

    def rename(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int) -> set[int]:
        """renameat2(2) with NOREPLACE and EXCHANGE, of what native/upper/change.c has declined.
        Returns the nodes whose attributes are to be read anew. Raises OSError."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        ino, there = self._tree.lookup(parent, name), self._tree.lookup(to, new_name)
        if not ino or (flags & RENAME_EXCHANGE and not there):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if ino == there:
            return set()
        self._copy.directory(parent)
        self._copy.directory(to)
        self._copy.node(ino)
        if flags & RENAME_EXCHANGE:
            self._copy.node(there)
            self._mark(ino, to, new_name)
            self._mark(there, parent, name)
            self._names.exchange(parent, name, to, new_name)
            return {ino, there, parent, to}
        if self._native.rename(parent, name, to, new_name, flags):
            return set()
        if there and self._tree.getattr(there).upper:
            self._empty(there)
        self._mark(ino, to, new_name)
        self._names.move(parent, name, to, new_name)
        return {ino, parent, to}

    def _empty(self, ino: int) -> None:
        """A directory that shows nothing is made to hold nothing, so that one rename replaces it.
        It stays what it shows if nothing more happens."""
        if self._tree.getattr(ino).layer >= 0:
            self._make_opaque(ino)
        else:  # whiteouts that hide nothing, which only the upper knows
            attr = self._tree.getattr(ino)
            with self._copy.place(ino) as (fd, rest):
                self._upper.make_opaque(fd, rest, attr.atime_ns, attr.mtime_ns)

    def _mark(self, ino: int, to: int, new_name: bytes) -> None:
        """A directory is told what it merges with at its new place."""
        attr = self._tree.getattr(ino)
        if not stat.S_ISDIR(attr.mode):
            return
        if attr.layer >= 0 and not self._redirects(ino):
            self._seal(ino)
            self._prepared.discard(ino)
        with self._copy.place(ino) as (fd, rest):
            if self._tree.getattr(ino).layer < 0:
                if self._tree.is_lower_name(to, new_name):
                    self._upper.set_mark(fd, rest, OPAQUE, b"y")
            elif ino not in self._copy.redirects:
                path = self._copy.lower_path(ino)
                self._upper.set_mark(fd, rest, REDIRECT, b"/" + path)
                self._copy.redirects[ino] = path

    # ---- whole trees ----------------------------------------------------------------------

    def _copy_tree(self, top: int) -> None:
        """Brings up a directory and all below it, with data: for who may not leave a redirect."""
        todo = [top]
        while todo:
            here = todo.pop()
            for _, ino, _ in self._tree.readdir(here, 0, 2**31 - 1):
                if stat.S_ISDIR(self._tree.getattr(ino).mode):
                    todo.append(ino)
                else:
                    self._copy.whole(ino)

    def _seal(self, top: int) -> None:
        """Makes a directory whose files are up, and those below it, opaque: nothing merges.

        Innermost first, so that what is opaque holds all it shows.
        """
        todo, order = [top], []
        while todo:
            here = todo.pop()
            order.append(here)
            for _, ino, _ in self._tree.readdir(here, 0, 2**31 - 1):
                if stat.S_ISDIR(self._tree.getattr(ino).mode):
                    todo.append(ino)
                else:
                    self._copy.node(ino)
        for directory in reversed(order):
            self._copy.directory(directory)
            self._make_opaque(directory)

    def _make_opaque(self, ino: int) -> None:
        """A directory that holds all it shows says so, and then needs its whiteouts no more."""
        attr = self._tree.getattr(ino)
        if attr.layer < 0:
            return
        with self._copy.place(ino) as (fd, rest):
            self._upper.try_mark(fd, rest, ORIGIN, self._copy.lower_path(ino))
            self._upper.make_opaque(fd, rest, attr.atime_ns, attr.mtime_ns)
        self._copy.redirects.pop(ino, None)
        self._tree.set_opaque(ino)
