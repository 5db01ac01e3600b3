"""Law: renames that need marks of overlayfs: opaque marks, redirects, exchanges.

A directory that has children in the layers moves without them: its upper object gets the mark
`redirect`, the path in the layers of its children.  A whiteout hides the layers' directory at the
old path; RENAME_WHITEOUT leaves it in the same step.  Where no redirect may be used
(`redirect_dir=off`), everything below the directory is copied up first, and the directory moves as
one that belongs to the upper alone.
Source: Documentation/filesystems/overlayfs.rst, "Renaming directories"; fs/overlayfs/dir.c.
"""

from __future__ import annotations

import errno
import os
import stat

from fusemount import _native
from fusemount.rootfs.copyup import CopyUp
from fusemount.rootfs.names import Names
from fusemount.rootfs.objectmarks import OPAQUE, ORIGIN, REDIRECT
from fusemount.rootfs.staging import RENAME_EXCHANGE, RENAME_NOREPLACE
from fusemount.rootfs.upper import Upper


class Renamer:
    """redirect: directories of the layers are moved by a redirect, if their path is short
    enough."""

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
        self._copied: set[int] = set()

    def needs_no_copy(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int) -> bool:
        """Whether the rename has no data to copy, so that copy_data() is not needed."""
        names = [(parent, name)] + ([(to, new_name)] if flags & RENAME_EXCHANGE else [])
        found = (self._tree.lookup(*name_at) for name_at in names)
        return not any(ino and self._needs_copy(ino) for ino in found)

    def _needs_copy(self, ino: int) -> bool:
        attr = self._tree.getattr(ino)
        if stat.S_ISDIR(attr.mode):
            return attr.layer >= 0 and not self._redirects(ino) and ino not in self._copied
        return not attr.upper and self._copy.needs_data(ino) and self._copy.bytes_in_layers(ino) > 0

    def _redirects(self, ino: int) -> bool:
        return self._redirect and self._copy.fits_redirect(ino)

    def copy_data(self, ino: int) -> None:
        """Copies up the data that a rename of this node needs.  The caller does not hold the lock
        `change`."""
        if not self._needs_copy(ino):
            return
        if stat.S_ISDIR(self._tree.getattr(ino).mode):
            self._copy_tree(ino)
            self._copied.add(
                ino
            )  # files that are made below it later are copied with the lock held
        else:
            self._copy.with_data(ino)

    def rename(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int) -> set[int]:
        """renameat2(2) with NOREPLACE and EXCHANGE, after native/upper/change.h has declined it.

        Returns the nodes whose attributes must be read again from the upper. Raises OSError."""
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
        """Removes the whiteouts of a directory that shows no names, so that one rename can replace
        it.  If no rename follows, the directory still shows nothing."""
        if self._tree.getattr(ino).layer >= 0:
            self._make_opaque(ino)
        else:  # it may still contain whiteouts that hide nothing; the tree does not have them
            attr = self._tree.getattr(ino)
            with self._copy.object(ino) as (fd, rest):
                hidden = self._tree.hidden(ino)
                self._upper.make_opaque(fd, rest, attr.atime_ns, attr.mtime_ns, hidden)

    def _mark(self, ino: int, to: int, new_name: bytes) -> None:
        """Marks a directory, before it moves, with what it merges with at its new path."""
        attr = self._tree.getattr(ino)
        if not stat.S_ISDIR(attr.mode):
            return
        if attr.layer >= 0 and not self._redirects(ino):
            self._seal(ino)
            self._copied.discard(ino)
        with self._copy.object(ino) as (fd, rest):
            if self._tree.getattr(ino).layer < 0:
                if self._tree.is_lower_name(to, new_name):
                    self._upper.set_mark(fd, rest, OPAQUE, b"y")
            elif ino not in self._copy.redirects:
                path = self._copy.lower_path(ino)
                self._upper.set_mark(fd, rest, REDIRECT, b"/" + path)
                self._copy.redirects[ino] = path

    # ---- all that is below a directory ----------------------------------------------------

    def _copy_tree(self, top: int) -> None:
        """Copies up all files below a directory with their data, where no redirect may be used."""
        todo = [top]
        while todo:
            here = todo.pop()
            for _, ino, _ in self._tree.readdir(here, 0, 2**31 - 1):
                if stat.S_ISDIR(self._tree.getattr(ino).mode):
                    todo.append(ino)
                else:
                    self._copy.with_data(ino)

    def _seal(self, top: int) -> None:
        """Makes a directory and those below it opaque; their files are in the upper already.

        The innermost come first: when a directory becomes opaque, all that it shows is in the
        upper.
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
        """Marks a directory opaque whose names are all in the upper, and removes its whiteouts,
        which it does not need any more."""
        attr = self._tree.getattr(ino)
        if attr.layer < 0:
            return
        with self._copy.object(ino) as (fd, rest):
            self._upper.try_mark(fd, rest, ORIGIN, self._copy.lower_path(ino))
            known = self._tree.hidden(ino) + len(self._tree.readdir(ino, 0, 2**31 - 1))
            self._upper.make_opaque(fd, rest, attr.atime_ns, attr.mtime_ns, known)
        self._copy.redirects.pop(ino, None)
        self._tree.set_opaque(ino)
