"""Law: what an upper changed, told by comparing two trees; no disk is read here.

One tree is the layers alone, the other the same layers under the upper (upperload.py).  Both are
made in the same way, so what the upper left alone has the same nodeid in both, wherever it now
stands: that makes renamed directories, hardlinks and attributes without data no cases of their
own.  A directory that is not in the upper has nothing below it that is, and is not looked into.
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
    """One path, relative to the root, b"" being the root itself.

    kind: ADDED, CHANGED, DELETED as `docker diff` means them (a directory is CHANGED when
    something in it is); SAME: nothing to tell, but a layer must carry it.
    ino: its node in the changed tree, 0 for DELETED.
    hidden: DELETED inside a directory that hides all that the layers have there anyway.
    opaque: a directory that does so; one of which nothing of the layers is left.
    """

    path: bytes
    kind: str
    ino: int
    hidden: bool = False
    opaque: bool = False


@dataclass(frozen=True)
class _Place:
    """A directory of the changed tree. was: the layers' directory of that path, 0: none is there.
    whole: all in it must be carried, since the layers' own is not seen through it."""

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
    """What `diff` prints: without the root and what is SAME, sorted as bytes."""
    told = (change for change in changes if change.kind != SAME and change.path)
    return sorted(told, key=lambda change: change.path)


class _Comparison:
    def __init__(self, base: _native.Tree, merged: _native.Tree) -> None:
        self._base, self._merged = base, merged
        self._limit = PathLimit()
        self.found: dict[bytes, Change] = {}

    def walk(self) -> None:
        if self._differs(_ROOT, _ROOT):
            self._add(_Place(b"", 0, 0, False), Change(b"", CHANGED, _ROOT))
        todo = [_Place(b"", _ROOT, _ROOT, False)]
        while todo:
            todo += self._directory(todo.pop())

    def _directory(self, place: _Place) -> list[_Place]:
        """Notes what is in it; what must be looked into next."""
        new = {name: ino for name, ino, _ in self._merged.readdir(place.ino, 0, _ALL)}
        old = {}
        if place.was:
            old = {name: ino for name, ino, _ in self._base.readdir(place.was, 0, _ALL)}
        gone = old.keys() - new.keys()
        emptied = bool(gone and place.path) and not place.whole and not self._survives(old, new)
        if emptied:
            place = replace(place, whole=True)
        children = [self._child(place, name, ino, old.get(name, 0)) for name, ino in new.items()]
        for name in gone:
            path = self._limit.join(place.path, name)
            self._add(place, Change(path, DELETED, 0, hidden=place.whole))
        if emptied:
            self.found[place.path] = replace(self.found[place.path], opaque=True)
        return [below for below in children if below is not None]

    def _survives(self, old: Mapping[bytes, int], new: Mapping[bytes, int]) -> bool:
        """Whether anything of the layers' directory is still seen in it."""
        for name, ino in old.items():
            if new.get(name) == ino:
                attr = self._merged.getattr(ino)
                if not attr.upper or stat.S_ISDIR(attr.mode):
                    return True
        return False

    def _child(self, place: _Place, name: bytes, ino: int, was: int) -> _Place | None:
        """Notes one name; what must be looked into, where it is a directory."""
        attr = self._merged.getattr(ino)
        untouched = was == ino and (not attr.upper or self._only_names(was, attr))
        if untouched and not place.whole:
            return None
        path = self._limit.join(place.path, name)
        if not stat.S_ISDIR(attr.mode):
            kind = ADDED if not was else SAME if untouched else CHANGED
            self._add(place, Change(path, kind, ino))
            return None
        merges = bool(was) and stat.S_ISDIR(self._base.getattr(was).mode)
        whole = place.whole or ino != was
        opaque = merges and ino != was and not place.whole
        if not was:
            kind = ADDED
        else:
            kind = CHANGED if not merges or opaque or self._differs(was, ino) else SAME
        if kind != SAME or place.whole:
            self._add(place, Change(path, kind, ino, opaque=opaque))
        return _Place(path, ino, was if merges else 0, whole)

    def _differs(self, was: int, ino: int) -> bool:
        """Attributes other than size."""
        a, b = self._base.getattr(was), self._merged.getattr(ino)
        return (
            (a.mode, a.uid, a.gid, a.mtime_ns) != (b.mode, b.uid, b.gid, b.mtime_ns)
        ) or self._base.xattrs(was) != self._merged.xattrs(ino)

    def _only_names(self, was: int, attr: _native.Attr) -> bool:
        """It came up for a further name, or for attributes that are again what they were: its data
        are the layer's. inode: a nodeid may have gone on to an object that only the upper has."""
        before = self._base.getattr(was)
        same = attr.meta and (before.inode, before.size) == (attr.inode, attr.size)
        return same and not self._differs(was, attr.ino)

    def _add(self, place: _Place, change: Change) -> None:
        self.found[change.path] = change
        self._add_parents(change.path, place.ino, SAME if change.kind == SAME else CHANGED)

    def _add_parents(self, path: bytes, parent: int, kind: str) -> None:
        """What is in a directory is carried with it, and its change is one of the directory."""
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
        """A layer that carries one name of a file must carry all, or they would be two files."""
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
