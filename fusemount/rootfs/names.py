"""Law: removes and moves names in the upper and in the tree together, so that no thread sees only
one of the two changed.

Threads of the fast path turn names into descriptors at any time (native/upper/upperdir.h, lock
`places`); while `moving` is entered they wait.  So, once an upper is served, the tree's drop_name,
move and exchange are called only here, and nothing inside `moving` copies data or empties a
directory.

These are the moves that take more than one step; native/upper/change.h does the others.
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
        place."""
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
        """Moves an object of the upper by one rename (C7).

        At the target there is nothing, a whiteout, or an object of the same kind; if it is a
        directory, it is empty and has no whiteouts."""
        is_dir = stat.S_ISDIR(self._tree.getattr(self._tree.lookup(parent, name)).mode)
        there = self._tree.lookup(to, new_name)
        lower, left = self._tree.is_lower_name(parent, name), None
        whiteout = not there and is_dir and self._tree.is_lower_name(to, new_name)
        with self._both(parent, name, to, new_name) as both, moving(self._native):
            if whiteout:  # rename(2) does not replace it by a directory
                _native.renameat2(*both, RENAME_EXCHANGE)
                if not lower:  # the whiteout hides nothing at the old name
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
        """Takes out the whiteout that the exchange has moved to the old name; returns its name in
        the work directory.

        If that fails, the exchange is undone. If that fails too, the move is done (None), and the
        whiteout stays until the next start."""
        try:
            return self._upper.take_out(*both[:2])
        except OSError:
            try:
                _native.renameat2(*both, RENAME_EXCHANGE)
            except OSError:
                return None
            raise
