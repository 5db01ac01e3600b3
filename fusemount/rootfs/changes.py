"""Law: finds what an upper changed by comparing two trees; no disk is read here.

One tree is made of the layers alone, the other of the same layers with the upper laid over them
(upperload.py).  Both are made in the same way, so an object that the upper did not replace has the
same nodeid in both trees, also under another path.  So renamed directories, hardlinks and
metacopies need no code of their own.  If a directory is not in the upper, nothing below it is, so
it is not compared.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import replace

from fusemount import _native
from fusemount.dataclass import dataclass
from fusemount.rootfs.paths import PathLimit, Paths, by_components

_ROOT = 1
_ALL = 2**31

ADDED, CHANGED, DELETED, SAME = "A", "C", "D", ""


@dataclass(frozen=True)
class Change:
    """The change of one path, which is relative to the root; b"" is the root itself.

    kind: ADDED, CHANGED, DELETED as `docker diff` means them (a directory is CHANGED when
    something in it is); SAME: no change to show, but a layer must contain the path.
    ino: its node in the changed tree, 0 for DELETED.
    hidden: DELETED inside a directory that hides all names of the layers anyway.
    opaque: such a directory: nothing of the layers is left in it.
    """

    path: bytes
    kind: str
    ino: int
    hidden: bool = False
    opaque: bool = False


@dataclass(frozen=True)
class _Compared:
    """A directory of the changed tree.

    was: the layers' directory at that path, 0 if there is none.  whole: a layer must contain all
    that is in the directory, because nothing of the layers shows through it."""

    path: bytes
    ino: int
    was: int
    whole: bool


def compare(base: _native.Tree, merged: _native.Tree) -> list[Change]:
    """All changes, parents before what is in them, names of one directory in order.

    Both trees are sealed and made of the same layers; merged has an upper laid over it.
    Raises ImgmountError for paths beyond a limit (paths.py).
    """
    comparison = _Comparison(base, merged)
    comparison.walk()
    comparison.complete_hardlinks()
    return sorted(comparison.found.values(), key=lambda change: by_components(change.path))


def shown(changes: Iterable[Change]) -> list[Change]:
    """The changes that `diff` prints: without the root and without SAME, sorted as bytes."""
    printed = (change for change in changes if change.kind != SAME and change.path)
    return sorted(printed, key=lambda change: change.path)


class _Comparison:
    def __init__(self, base: _native.Tree, merged: _native.Tree) -> None:
        self._base, self._merged = base, merged
        self._limit = PathLimit()
        self.found: dict[bytes, Change] = {}

    def walk(self) -> None:
        if self._differs(_ROOT, _ROOT):
            self._add(_Compared(b"", 0, 0, False), Change(b"", CHANGED, _ROOT))
        todo = [_Compared(b"", _ROOT, _ROOT, False)]
        while todo:
            todo += self._directory(todo.pop())

    def _directory(self, here: _Compared) -> list[_Compared]:
        """Adds the changes of the names in a directory; returns the directories to compare next."""
        new = {name: ino for name, ino, _ in self._merged.readdir(here.ino, 0, _ALL)}
        old = {}
        if here.was:
            old = {name: ino for name, ino, _ in self._base.readdir(here.was, 0, _ALL)}
        gone = old.keys() - new.keys()
        emptied = bool(gone and here.path) and not here.whole and not self._survives(old, new)
        if emptied:
            here = replace(here, whole=True)
        children = [self._child(here, name, ino, old.get(name, 0)) for name, ino in new.items()]
        for name in gone:
            path = self._limit.join(here.path, name)
            self._add(here, Change(path, DELETED, 0, hidden=here.whole))
        if emptied:
            self.found[here.path] = replace(self.found[here.path], opaque=True)
        return [below for below in children if below is not None]

    def _survives(self, old: Mapping[bytes, int], new: Mapping[bytes, int]) -> bool:
        """Whether anything of the layers' directory still shows in it."""
        for name, ino in old.items():
            if new.get(name) == ino:
                attr = self._merged.getattr(ino)
                if not attr.upper or stat.S_ISDIR(attr.mode):
                    return True
        return False

    def _child(self, here: _Compared, name: bytes, ino: int, was: int) -> _Compared | None:
        """Adds the change of one name; returns the directory to compare next, if it is one."""
        attr = self._merged.getattr(ino)
        untouched = was == ino and (not attr.upper or self._only_names(was, attr))
        if untouched and not here.whole:
            return None
        path = self._limit.join(here.path, name)
        if not stat.S_ISDIR(attr.mode):
            kind = ADDED if not was else SAME if untouched else CHANGED
            self._add(here, Change(path, kind, ino))
            return None
        merges = bool(was) and stat.S_ISDIR(self._base.getattr(was).mode)
        whole = here.whole or ino != was
        opaque = merges and ino != was and not here.whole
        if not was:
            kind = ADDED
        else:
            kind = CHANGED if not merges or opaque or self._differs(was, ino) else SAME
        if kind != SAME or here.whole:
            self._add(here, Change(path, kind, ino, opaque=opaque))
        return _Compared(path, ino, was if merges else 0, whole)

    def _differs(self, was: int, ino: int) -> bool:
        """Whether attributes other than the size differ."""
        a, b = self._base.getattr(was), self._merged.getattr(ino)
        return (
            (a.mode, a.uid, a.gid, a.mtime_ns) != (b.mode, b.uid, b.gid, b.mtime_ns)
        ) or self._base.xattrs(was) != self._merged.xattrs(ino)

    def _only_names(self, was: int, attr: _native.Attr) -> bool:
        """Whether a file was copied up only for a further name, or for attributes that have their
        old values again, so that its data are still the layer's.

        inode is compared because the nodeid may belong to an object of the upper alone by now."""
        before = self._base.getattr(was)
        same = attr.meta and (before.inode, before.size) == (attr.inode, attr.size)
        return same and not self._differs(was, attr.ino)

    def _add(self, here: _Compared, change: Change) -> None:
        self.found[change.path] = change
        self._add_parents(change.path, here.ino, SAME if change.kind == SAME else CHANGED)

    def _add_parents(self, path: bytes, parent: int, kind: str) -> None:
        """A layer that contains a path contains the directories above it; if the path changed,
        these count as changed."""
        while path:
            path = path.rpartition(b"/")[0]
            there = self.found.get(path)
            if there is None:
                self.found[path] = Change(path, kind, parent)
            elif there.kind == SAME and kind != SAME:
                self.found[path] = Change(path, kind, parent, opaque=there.opaque)
            else:
                return
            if path:
                parent = self._merged.names(parent, 1)[0][0]

    def complete_hardlinks(self) -> None:
        """A layer that contains one name of a file must contain all, or they would be two files."""
        paths = Paths(self._merged, self._limit)
        for ino in {change.ino: None for change in self.found.values() if change.ino}:
            attr = self._merged.getattr(ino)
            if stat.S_ISDIR(attr.mode) or attr.nlink == 1:
                continue
            for parent, name in self._merged.names(ino):
                path = paths.of(parent, name)
                if path not in self.found:
                    self.found[path] = Change(path, SAME, ino)
                    self._add_parents(path, parent, SAME)
