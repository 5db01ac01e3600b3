"""Law: rename, with all that overlayfs makes of it: whiteouts, opaque marks, redirects.

A directory that has children in the layers moves without them: its upper object carries a
`redirect`, the place in the layers where its children are.  What stands at the old place in the
layers is hidden by a whiteout, which RENAME_WHITEOUT leaves in the same step.
Source: Documentation/filesystems/overlayfs.rst, "Renaming directories"; fs/overlayfs/dir.c.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from fusemount import _native
from fusemount.rootfs.copyup import CopyUp
from fusemount.rootfs.upper import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    Upper,
)

if TYPE_CHECKING:
    from fusemount.rootfs.view import RootFs


class Renamer:
    def __init__(self, view: RootFs, tree: _native.Tree, upper: Upper, copy: CopyUp) -> None:
        self._view, self._tree, self._upper, self._copy = view, tree, upper, copy

    def rename(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int) -> None:
        """renameat2(2) with NOREPLACE and EXCHANGE. Raises OSError."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        ino = self._tree.lookup(parent, name)
        there = self._tree.lookup(to, new_name)
        if not ino or (flags & RENAME_EXCHANGE and not there):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if there and flags & RENAME_NOREPLACE:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if ino == there:
            return
        self._copy.directory(parent)
        self._copy.directory(to)
        self._prepare(ino, to, new_name)
        if flags & RENAME_EXCHANGE:
            self._prepare(there, parent, name)
            self._exchange(parent, name, to, new_name)
        else:
            self._move(parent, name, to, new_name, there)
        for changed in {ino, parent, to}:
            self._view.refresh(changed)

    def _prepare(self, ino: int, to: int, new_name: bytes) -> None:
        """The node comes up; a directory is told what it merges with at its new place."""
        self._copy.node(ino)
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

    def _exchange(self, parent: int, name: bytes, to: int, new_name: bytes) -> None:
        self._rename(
            self._copy.child(parent, name), self._copy.child(to, new_name), RENAME_EXCHANGE
        )
        self._tree.exchange(parent, name, to, new_name)
        self._view.refresh(self._tree.lookup(parent, name))

    def _move(self, parent: int, name: bytes, to: int, new_name: bytes, there: int) -> None:
        target = self._copy.child(to, new_name)
        is_dir = stat.S_ISDIR(self._tree.getattr(self._tree.lookup(parent, name)).mode)
        if there:
            self._check_replaced(there, is_dir)
        with self._view.kept_if_open(there, target, not is_dir):
            self._move_in_upper(parent, name, to, new_name, there)
        if there and is_dir:
            self._tree.drop_name(to, new_name)
        elif there:
            self._view.forget_name(to, new_name)
        self._tree.move(parent, name, to, new_name)

    def _move_in_upper(
        self, parent: int, name: bytes, to: int, new_name: bytes, there: int
    ) -> None:
        source, target = self._copy.child(parent, name), self._copy.child(to, new_name)
        is_dir = stat.S_ISDIR(self._tree.getattr(self._tree.lookup(parent, name)).mode)
        whiteout = self._tree.is_lower_name(parent, name)
        in_upper = bool(there) and self._tree.getattr(there).upper
        if is_dir and (in_upper or (not there and self._tree.is_lower_name(to, new_name))):
            # over a directory (which may hold whiteouts) or over a whiteout
            self._rename(source, target, RENAME_EXCHANGE)
            self._clear_source(source, whiteout)
        else:
            self._rename(source, target, RENAME_WHITEOUT if whiteout else 0)

    def _clear_source(self, source: bytes, whiteout: bool) -> None:
        """After an exchange the old target stands at the source."""
        with self._upper.at(source) as (fd, rest):
            is_dir = stat.S_ISDIR(os.stat(rest, dir_fd=fd, follow_symlinks=False).st_mode)
        if whiteout and is_dir:
            self._upper.replace_dir_by_whiteout(source)
        elif not whiteout:
            self._upper.discard(self._upper.take_out(source))

    def _check_replaced(self, there: int, is_dir: bool) -> None:
        old_is_dir = stat.S_ISDIR(self._tree.getattr(there).mode)
        if is_dir and not old_is_dir:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if old_is_dir and not is_dir:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if old_is_dir and self._tree.readdir(there, 0, 1):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    def _rename(self, source: bytes, target: bytes, flags: int) -> None:
        with self._upper.at(source) as (from_fd, a), self._upper.at(target) as (to_fd, b):
            _native.renameat2(from_fd, a, to_fd, b, flags)
