"""Law: removes and moves names in the upper and in the tree together, so that no thread sees only
one of the two changed.

Threads of the fast path turn names into descriptors at any time (native/upper/upperdir.h, lock
`places`); while `moving` is entered they wait.  So, once an upper is served, the tree's drop_name,
move and exchange are called only here, and nothing inside `moving` copies data or empties a
directory.

The moves here take more than one step; native/upper/change.h does moves of one step.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from fusemount import _native
from fusemount.rootfs.staging import RENAME_EXCHANGE, RENAME_WHITEOUT
from fusemount.rootfs.upper import Upper

_Both = tuple[int, bytes, int, bytes]  # directory and name: from and to


@contextmanager
def changing(native: _native.UpperFiles) -> Iterator[None]:
    """Holds the lock `change`: no other operation changes anything meanwhile."""
    native.lock()
    try:
        yield
    finally:
        native.unlock()


@contextmanager
def moving(native: _native.UpperFiles) -> Iterator[None]:
    """Holds the lock `places`: no name is turned into a descriptor meanwhile."""
    native.moving()
    try:
        yield
    finally:
        native.moved()


@contextmanager
def inside(native: _native.UpperFiles, directory: int) -> Iterator[int]:
    """The descriptor of a directory of the upper, checked to be the one that the tree means.

    It must be entered before `moving`, which would block it."""
    fd = native.pin(directory)
    try:
        yield fd
    finally:
        native.unpin(directory)


class Names:
    """Every method raises OSError, and then has changed nothing."""

    def __init__(self, tree: _native.Tree, upper: Upper, native: _native.UpperFiles) -> None:
        self._tree, self._upper, self._native = tree, upper, native

    def remove_dir(self, parent: int, name: bytes) -> None:
        """Removes a directory that shows no names; if the layers have it, a whiteout takes its
        place.

        OSError with ENOTEMPTY if it contains an object that the tree does not know, EIO if another
        object is at its path."""
        upper, ino = self._upper, self._tree.lookup(parent, name)
        with inside(self._native, parent) as fd:
            if not self._tree.getattr(ino).upper:
                with moving(self._native):
                    upper.whiteout(fd, name)
                    self._tree.drop_name(parent, name)
                return
            hidden = self._tree.hidden(ino)
            with inside(self._native, ino) as known:
                upper.check_empty(known, hidden)
                st = os.fstat(known)
            take = upper.take_out
            if self._tree.is_lower_name(parent, name):
                take = upper.replace_dir_by_whiteout
            with moving(self._native):
                left = take(fd, name, st)
                self._tree.drop_name(parent, name)
            upper.leave_dir(left, fd, name, hidden)

    def exchange(self, parent: int, name: bytes, to: int, new_name: bytes) -> None:
        with self._both(parent, name, to, new_name) as both, moving(self._native):
            _native.renameat2(*both, RENAME_EXCHANGE)
            self._tree.exchange(parent, name, to, new_name)

    def move(self, parent: int, name: bytes, to: int, new_name: bytes) -> None:
        """Moves an object of the upper by one rename (C7).

        At the target there is nothing, a whiteout, or an object of the same kind; if it is a
        directory, it is empty and has no whiteouts."""
        is_dir = stat.S_ISDIR(self._tree.getattr(self._tree.lookup(parent, name)).mode)
        there = self._tree.lookup(to, new_name)
        lower = self._tree.is_lower_name(parent, name)
        whiteout = not there and is_dir and self._tree.is_lower_name(to, new_name)
        with self._both(parent, name, to, new_name) as both, moving(self._native):
            if whiteout:  # rename(2) does not replace it by a directory
                _native.renameat2(*both, RENAME_EXCHANGE)
                if not lower:  # the whiteout hides nothing at the old name
                    self._remove_whiteout(both)
            else:
                _native.renameat2(*both, RENAME_WHITEOUT if lower else 0)
            if there:
                self._tree.drop_name(to, new_name)
            self._tree.move(parent, name, to, new_name)

    @contextmanager
    def _both(self, parent: int, name: bytes, to: int, new_name: bytes) -> Iterator[_Both]:
        """Raises OSError with EIO if another object is at one of the names than the tree has."""
        with inside(self._native, parent) as from_fd, inside(self._native, to) as to_fd:
            both = from_fd, name, to_fd, new_name
            self._check(from_fd, name, self._tree.lookup(parent, name))
            self._check(to_fd, new_name, self._tree.lookup(to, new_name))
            yield both

    def _check(self, fd: int, name: bytes, ino: int) -> None:
        if not ino or not self._tree.getattr(ino).upper:
            return
        known = self._native.object(ino)
        try:
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if not os.path.samestat(st, os.fstat(known)):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        finally:
            os.close(known)

    def _remove_whiteout(self, both: _Both) -> None:
        """Removes the whiteout that the exchange has moved to the old name.

        If that fails, the exchange is undone. If that fails too, the move is done, and the whiteout
        stays until the next start."""
        try:
            os.unlink(both[1], dir_fd=both[0])
        except OSError:
            try:
                _native.renameat2(*both, RENAME_EXCHANGE)
            except OSError:
                return
            raise
