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
from contextlib import contextmanager, suppress

from fusemount import _native
from fusemount.rootfs.staging import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from fusemount.rootfs.upper import Upper

_Both = tuple[int, bytes, int, bytes]  # directory and name: from and to
_Known = tuple[os.stat_result | None, os.stat_result | None]  # the objects that belong there


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
        with self._both(parent, name, to, new_name) as (both, known), moving(self._native):
            _native.renameat2(*both, RENAME_EXCHANGE)
            if not (_is_at(*both[2:], known[0]) and _is_at(*both[:2], known[1])):
                _native.renameat2(*both, RENAME_EXCHANGE)
                raise _other_object()
            self._tree.exchange(parent, name, to, new_name)

    def move(self, parent: int, name: bytes, to: int, new_name: bytes) -> None:
        """Moves an object of the upper by one rename (C7).

        At the target there is nothing, a whiteout, or an object of the same kind; if it is a
        directory, it is empty and has no whiteouts."""
        is_dir = stat.S_ISDIR(self._tree.getattr(self._tree.lookup(parent, name)).mode)
        there = self._tree.lookup(to, new_name)
        lower = self._tree.is_lower_name(parent, name)
        whiteout = not there and is_dir and self._tree.is_lower_name(to, new_name)
        with self._both(parent, name, to, new_name) as (both, known), moving(self._native):
            # rename(2) does not replace a whiteout by a directory
            how = RENAME_EXCHANGE if whiteout else RENAME_WHITEOUT if lower else 0
            _native.renameat2(*both, how)
            moved = _is_at(*both[2:], known[0])
            if not moved:
                self._move_back(both)
            elif whiteout and not lower:  # the whiteout hides nothing at the old name
                self._remove_whiteout(both)
            if there:  # it is gone in any case
                self._tree.drop_name(to, new_name)
            if not moved:
                raise _other_object()
            self._tree.move(parent, name, to, new_name)

    def _move_back(self, both: _Both) -> None:
        """Moves another's object back. If users prevent this, it stays where it is."""
        fd, name, to_fd, new_name = both
        with suppress(OSError):
            try:
                _native.renameat2(to_fd, new_name, fd, name, RENAME_NOREPLACE)
            except FileExistsError:  # a whiteout
                _native.renameat2(*both, RENAME_EXCHANGE)

    @contextmanager
    def _both(
        self, parent: int, name: bytes, to: int, new_name: bytes
    ) -> Iterator[tuple[_Both, _Known]]:
        """Raises OSError with EIO if another object is at one of the names than the tree has."""
        with inside(self._native, parent) as from_fd, inside(self._native, to) as to_fd:
            first = self._known(from_fd, name, self._tree.lookup(parent, name))
            second = self._known(to_fd, new_name, self._tree.lookup(to, new_name))
            yield (from_fd, name, to_fd, new_name), (first, second)

    def _known(self, fd: int, name: bytes, ino: int) -> os.stat_result | None:
        """What identifies the node's object, which is at the name; None if it has none."""
        if not ino or not self._tree.getattr(ino).upper:
            return None
        known = self._native.object(ino)
        try:
            st = os.fstat(known)
        finally:
            os.close(known)
        if not _is_at(fd, name, st):
            raise _other_object()
        return st

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


def _is_at(fd: int, name: bytes, known: os.stat_result | None) -> bool:
    return known is None or os.path.samestat(os.stat(name, dir_fd=fd, follow_symlinks=False), known)


def _other_object() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))
