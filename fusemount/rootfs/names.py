"""Law: a name of the upper goes or moves together with the tree, and nobody looks in between.

Threads of the fast path turn names into descriptors at any time (native/upperdir.h, "places");
inside `moving` they wait.  So, once an upper is served, nothing else calls the tree's drop_name,
move and exchange, and nothing in there copies data or empties a directory.

These are the moves that take more than one step; native/change.c has the others.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from fusemount import _native
from fusemount.rootfs.load import visible_path
from fusemount.rootfs.upper import RENAME_EXCHANGE, RENAME_WHITEOUT, Upper


@contextmanager
def moving(native: _native.UpperFiles) -> Iterator[None]:
    native.moving()
    try:
        yield
    finally:
        native.moved()


class Names:
    """Every method raises OSError, and has then changed nothing."""

    def __init__(self, tree: _native.Tree, upper: Upper, native: _native.UpperFiles) -> None:
        self._tree, self._upper, self._native = tree, upper, native

    def remove_dir(self, parent: int, name: bytes) -> None:
        """A directory without visible names goes; where the layers have it, a whiteout stays."""
        upper, path = self._upper, visible_path(self._tree, parent, name)
        in_upper = self._tree.getattr(self._tree.lookup(parent, name)).upper
        lower, left = self._tree.is_lower_name(parent, name), None
        with moving(self._native):
            if not in_upper:
                upper.whiteout(path)
            elif lower:
                left = upper.replace_dir_by_whiteout(path)
            else:
                left = upper.take_out(path)
            self._tree.drop_name(parent, name)
        if left is not None:
            upper.discard(left)

    def exchange(self, parent: int, name: bytes, to: int, new_name: bytes) -> None:
        source = visible_path(self._tree, parent, name)
        target = visible_path(self._tree, to, new_name)
        with moving(self._native):
            self._rename(source, target, RENAME_EXCHANGE)
            self._tree.exchange(parent, name, to, new_name)

    def move_dir(self, parent: int, name: bytes, to: int, new_name: bytes) -> None:
        """A directory of the upper moves, over an empty directory if one is there."""
        source = visible_path(self._tree, parent, name)
        target = visible_path(self._tree, to, new_name)
        there = self._tree.lookup(to, new_name)
        in_the_way = (
            self._tree.getattr(there).upper  # it may hold whiteouts
            if there
            else self._tree.is_lower_name(to, new_name)  # a whiteout
        )
        lower, left = self._tree.is_lower_name(parent, name), None
        with moving(self._native):
            if in_the_way:
                left = self._swap(source, target, lower)
            else:
                self._rename(source, target, RENAME_WHITEOUT if lower else 0)
            if there:
                self._tree.drop_name(to, new_name)
            self._tree.move(parent, name, to, new_name)
        if left is not None:
            self._upper.discard(left)

    def _swap(self, source: bytes, target: bytes, whiteout: bool) -> bytes | None:
        """An exchange; what was at the target goes, and leaves a whiteout if asked. Returns what
        is left in the work directory."""
        self._rename(source, target, RENAME_EXCHANGE)
        try:
            with self._upper.at(source) as (fd, rest):
                is_dir = stat.S_ISDIR(os.stat(rest, dir_fd=fd, follow_symlinks=False).st_mode)
            if not whiteout:
                return self._upper.take_out(source)
            return self._upper.replace_dir_by_whiteout(source) if is_dir else None
        except OSError:
            self._rename(source, target, RENAME_EXCHANGE)
            raise

    def _rename(self, source: bytes, target: bytes, flags: int) -> None:
        with self._upper.at(source) as (from_fd, a), self._upper.at(target) as (to_fd, b):
            _native.renameat2(from_fd, a, to_fd, b, flags)
