"""Law: a name of the upper goes or moves together with the tree, and nobody looks in between.

Threads of the fast path turn names into descriptors at any time (native/upper/upperdir.h,
"places"); inside `moving` they wait.  So, once an upper is served, nothing else calls the tree's
drop_name, move and exchange, and nothing in there copies data or empties a directory.

These are the moves that take more than one step; native/upper/change.c has the others.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager

from fusemount import _native
from fusemount.rootfs.staging import RENAME_EXCHANGE, RENAME_WHITEOUT
from fusemount.rootfs.upper import Upper

_Both = tuple[int, bytes, int, bytes]  # directory and name: from and to


@contextmanager
def changing(native: _native.UpperFiles) -> Iterator[None]:
    """Nobody else changes anything."""
    native.lock()
    try:
        yield
    finally:
        native.unlock()


@contextmanager
def moving(native: _native.UpperFiles) -> Iterator[None]:
    native.moving()
    try:
        yield
    finally:
        native.moved()


@contextmanager
def inside(native: _native.UpperFiles, directory: int) -> Iterator[int]:
    """The descriptor of a directory of the upper, which is surely the one that the tree has; to be
    had before `moving`."""
    fd = native.pin(directory)
    try:
        yield fd
    finally:
        native.unpin(directory)


class Names:
    """Every method raises OSError, and has then changed nothing."""

    def __init__(self, tree: _native.Tree, upper: Upper, native: _native.UpperFiles) -> None:
        self._tree, self._upper, self._native = tree, upper, native

    def remove_dir(self, parent: int, name: bytes) -> None:
        """A directory without visible names goes; where the layers have it, a whiteout stays."""
        upper = self._upper
        in_upper = self._tree.getattr(self._tree.lookup(parent, name)).upper
        lower, left = self._tree.is_lower_name(parent, name), None
        with inside(self._native, parent) as fd, moving(self._native):
            if not in_upper:
                upper.whiteout(fd, name)
            elif lower:
                left = upper.replace_dir_by_whiteout(fd, name)
            else:
                left = upper.take_out(fd, name)
            self._tree.drop_name(parent, name)
        if left is not None:
            upper.leave(left)

    def exchange(self, parent: int, name: bytes, to: int, new_name: bytes) -> None:
        with self._both(parent, name, to, new_name) as both, moving(self._native):
            _native.renameat2(*both, RENAME_EXCHANGE)
            self._tree.exchange(parent, name, to, new_name)

    def move(self, parent: int, name: bytes, to: int, new_name: bytes) -> None:
        """An object of the upper moves; what is at the target is nothing, a whiteout, or of its
        kind, and then an empty directory without whiteouts (C7: one rename)."""
        is_dir = stat.S_ISDIR(self._tree.getattr(self._tree.lookup(parent, name)).mode)
        there = self._tree.lookup(to, new_name)
        lower, left = self._tree.is_lower_name(parent, name), None
        whiteout = not there and is_dir and self._tree.is_lower_name(to, new_name)
        with self._both(parent, name, to, new_name) as both, moving(self._native):
            if whiteout:  # which a directory cannot replace
                _native.renameat2(*both, RENAME_EXCHANGE)
                if not lower:  # it has come to where it hides nothing
                    left = self._take_out(both)
            else:
                _native.renameat2(*both, RENAME_WHITEOUT if lower else 0)
            if there:
                self._tree.drop_name(to, new_name)
            self._tree.move(parent, name, to, new_name)
        if left is not None:
            self._upper.leave(left)

    @contextmanager
    def _both(self, parent: int, name: bytes, to: int, new_name: bytes) -> Iterator[_Both]:
        with inside(self._native, parent) as from_fd, inside(self._native, to) as to_fd:
            yield from_fd, name, to_fd, new_name

    def _take_out(self, both: _Both) -> bytes | None:
        """The whiteout that an exchange left at the source. If it will not go the exchange is
        undone; if that fails too, all is done save that it stays until the next start."""
        try:
            return self._upper.take_out(*both[:2])
        except OSError:
            try:
                _native.renameat2(*both, RENAME_EXCHANGE)
            except OSError:
                return None
            raise
