"""Law: compares two images path by path, whatever layers they are made of.

Two files are the same if a program sees no difference: kind, owner, mode, times, xattrs, device,
target and contents.  Contents are compared only if all else is equal.  They are not compared if
both files come from the same layer, because a layer has only one file at a path.  Two objects are
compared once, however many names they have; holes that both files have are not read, and the zeros
of other holes are counted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from fusemount import _native
from fusemount.budget import Holes
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.rootfs.changes import ADDED, CHANGED, DELETED
from fusemount.rootfs.contents import PIECE, data_runs
from fusemount.rootfs.paths import PathLimit
from fusemount.rootfs.view import RootFs
from fusemount.settings import UNPACK_LIMIT, UnpackLimit

_ALL = 2**31


@dataclass(frozen=True)
class Side:
    """One of the two images. layers: the diff_ids, lowest first; None for an unknown one."""

    rootfs: RootFs
    layers: Sequence[Digest | None] = ()

    @property
    def tree(self) -> _native.Tree:
        return self.rootfs.tree

    def layer(self, attr: _native.Attr) -> Digest | None:
        return self.layers[attr.layer] if 0 <= attr.layer < len(self.layers) else None


def image_changes(
    old: Side, new: Side, zeros: UnpackLimit = UNPACK_LIMIT
) -> Iterator[tuple[str, bytes]]:
    """(ADDED, CHANGED or DELETED, path relative to the root), as `docker diff` has them: a
    directory is CHANGED when something in it is; below a DELETED directory nothing is listed.

    zeros: the limit of those that are compared with data, of holes of all files together.
    Raises OSError for contents that cannot be read, ImgmountError for paths or zeros beyond their
    limit.
    """
    limit, compared = PathLimit(), _Comparison(old, new, Holes(zeros))
    found: dict[bytes, str] = {}
    todo: list[tuple[bytes, int, int]] = [(b"", 1, 1)]
    while todo:
        path, before, after = todo.pop()
        in_old = _children(old.tree, before)
        in_new = _children(new.tree, after)
        for name in in_old.keys() | in_new.keys():
            child = limit.join(path, name)
            was, now = in_old.get(name), in_new.get(name)
            if was is None:
                assert now is not None
                found |= dict.fromkeys(_below(new.tree, child, now, limit), ADDED)
            elif now is None:
                found[child] = DELETED
            else:
                if not compared.same(was, now, child):
                    found[child] = CHANGED
                both = _is_dir(old.tree, was), _is_dir(new.tree, now)
                if all(both):
                    todo.append((child, was, now))
                elif both[1]:
                    below = list(_below(new.tree, child, now, limit))
                    found |= {each: ADDED for each in below if each != child}
    for path in list(found):
        while path := path.rpartition(b"/")[0]:
            found.setdefault(path, CHANGED)
    return ((found[path], path) for path in sorted(found))


def _children(tree: _native.Tree, ino: int) -> dict[bytes, int]:
    return {name: child for name, child, _ in tree.readdir(ino, 0, _ALL)}


def _is_dir(tree: _native.Tree, ino: int) -> bool:
    return stat.S_ISDIR(tree.getattr(ino).mode)


def _below(tree: _native.Tree, path: bytes, ino: int, limit: PathLimit) -> Iterator[bytes]:
    todo = [(path, ino)]
    while todo:
        path, ino = todo.pop()
        yield path
        if _is_dir(tree, ino):
            todo += [
                (limit.join(path, name), child) for name, child, _ in tree.readdir(ino, 0, _ALL)
            ]


class _Comparison:
    def __init__(self, old: Side, new: Side, holes: Holes) -> None:
        self._old, self._new, self._holes = old, new, holes
        self._known: dict[tuple[int, int], bool] = {}  # of objects that both have several names

    def same(self, was: int, now: int, path: bytes) -> bool:
        """Whether two objects are the same. path: for messages."""
        found = self._known.get((was, now))
        if found is None:
            a, b = self._old.tree.getattr(was), self._new.tree.getattr(now)
            found = self._same(a, b, path)
            if a.nlink > 1 and b.nlink > 1 and not stat.S_ISDIR(a.mode):
                self._known[was, now] = found
        return found

    def _same(self, a: _native.Attr, b: _native.Attr, path: bytes) -> bool:
        old, new = self._old, self._new
        if (a.mode, a.uid, a.gid, a.mtime_ns) != (b.mode, b.uid, b.gid, b.mtime_ns):
            return False
        if old.tree.xattrs(a.ino) != new.tree.xattrs(b.ino):
            return False
        if stat.S_ISLNK(a.mode):
            return old.tree.readlink(a.ino) == new.tree.readlink(b.ino)
        if stat.S_ISCHR(a.mode) or stat.S_ISBLK(a.mode):
            return a.rdev == b.rdev
        if not stat.S_ISREG(a.mode):
            return True
        if a.size != b.size:
            return False
        if old.layer(a) is not None and old.layer(a) == new.layer(b):
            return True
        return self._same_contents(a, b, path)

    def _same_contents(self, a: _native.Attr, b: _native.Attr, path: bytes) -> bool:
        """Compares two files of the same size; holes that both have are not read."""
        old, new = self._old.rootfs, self._new.rootfs
        for start, end, both in _spans(data_runs(old, a), data_runs(new, b)):
            for at in range(start, end, PIECE):
                size = min(PIECE, end - at)
                if not both:
                    self._holes.spend("/" + os.fsdecode(path), a.size, size)
                if old.read(a.ino, at, size) != new.read(b.ino, at, size):
                    return False
        return True


def _spans(
    first: Iterator[tuple[int, int]], second: Iterator[tuple[int, int]]
) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether both have data there) of each stretch where one of two files has data.
    first, second: (offset, length) of their runs, ascending."""
    runs = [next(first, None), next(second, None)]
    at = 0
    while there := [run for run in runs if run]:
        start = max(at, min(run[0] for run in there))
        at = min(sum(run) if run[0] <= start else run[0] for run in there)
        yield start, at, len([run for run in there if run[0] <= start]) == 2
        for i, more in enumerate((first, second)):
            run = runs[i]
            if run and sum(run) <= at:
                runs[i] = next(more, None)
