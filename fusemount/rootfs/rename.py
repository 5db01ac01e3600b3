"""Law: renames that overlayfs makes more of than the system: opaque marks, redirects, exchanges.

A directory that has children in the layers moves without them: its upper object carries a
`redirect`, the place in the layers where its children are.  What stands at the old place in the
layers is hidden by a whiteout, which RENAME_WHITEOUT leaves in the same step.
Source: Documentation/filesystems/overlayfs.rst, "Renaming directories"; fs/overlayfs/dir.c.
"""

from __future__ import annotations

import errno
import os
import stat

from fusemount import _native
from fusemount.rootfs.copyup import CopyUp
from fusemount.rootfs.names import Names
from fusemount.rootfs.upper import RENAME_EXCHANGE, RENAME_NOREPLACE, Upper


class Renamer:
    def __init__(
        self, tree: _native.Tree, upper: Upper, native: _native.UpperFiles, copy: CopyUp
    ) -> None:
        self._tree, self._upper, self._native, self._copy = tree, upper, native, copy
        self._names = Names(tree, upper, native)

    def rename(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int) -> set[int]:
        """renameat2(2) with NOREPLACE and EXCHANGE, of what native/change.c has declined. Returns
        the nodes whose attributes are to be read anew. Raises OSError."""
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
        self._mark(ino, to, new_name)
        self._names.move_dir(parent, name, to, new_name)
        return {ino, parent, to}

    def _mark(self, ino: int, to: int, new_name: bytes) -> None:
        """A directory is told what it merges with at its new place."""
        attr = self._tree.getattr(ino)
        if not stat.S_ISDIR(attr.mode):
            return
        with self._upper.at(self._copy.path(ino)) as (fd, rest):
            if attr.layer >= 0:
                if self._upper.mark(fd, rest, b"redirect") is None:
                    self._upper.set_mark(fd, rest, b"redirect", b"/" + self._lower_path(ino))
            elif self._tree.is_lower_name(to, new_name):
                self._upper.set_mark(fd, rest, b"opaque", b"y")

    def _lower_path(self, ino: int) -> bytes:
        """Where the layers have this directory: the nearest redirect above, and on from there."""
        parts: list[bytes] = []
        while ino != 1:
            if self._tree.getattr(ino).upper:
                with self._upper.at(self._copy.path(ino)) as (fd, rest):
                    redirect = self._upper.mark(fd, rest, b"redirect")
                if redirect and redirect.startswith(b"/"):
                    parts.append(redirect[1:])
                    break
            ((ino, name),) = self._tree.names(ino)
            parts.append(name)
        return b"/".join(reversed(parts))
