"""Law: compares two images path by path, whatever layers they are made of.

Two files are the same if a program sees no difference: kind, owner, mode, times, xattrs, device,
target and contents.  Contents are compared only if all else is equal.  They are not compared if
both files come from the same layer, because a layer has only one file at a path.
"""

from __future__ import annotations

import heapq
import stat
from collections.abc import Iterator, Sequence

from fusemount import _native
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.rootfs.changes import ADDED, CHANGED, DELETED
from fusemount.rootfs.contents import PIECE, data_runs
from fusemount.rootfs.paths import PathLimit
from fusemount.rootfs.view import RootFs

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


def image_changes(old: Side, new: Side) -> Iterator[tuple[str, bytes]]:
    """(ADDED, CHANGED or DELETED, path relative to the root), as `docker diff` has them: a
    directory is CHANGED when something in it is; below a DELETED directory nothing is listed.

    Raises OSError for contents that cannot be read, ImgmountError for paths beyond a limit.
    """
    limit = PathLimit()
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
                if not _same(old, was, new, now):
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


def _same(old: Side, was: int, new: Side, now: int) -> bool:
    a, b = old.tree.getattr(was), new.tree.getattr(now)
    if (a.mode, a.uid, a.gid, a.mtime_ns) != (b.mode, b.uid, b.gid, b.mtime_ns):
        return False
    if old.tree.xattrs(was) != new.tree.xattrs(now):
        return False
    if stat.S_ISLNK(a.mode):
        return old.tree.readlink(was) == new.tree.readlink(now)
    if stat.S_ISCHR(a.mode) or stat.S_ISBLK(a.mode):
        return a.rdev == b.rdev
    if not stat.S_ISREG(a.mode):
        return True
    if a.size != b.size:
        return False
    if old.layer(a) is not None and old.layer(a) == new.layer(b):
        return True
    return _same_contents(old.rootfs, a, new.rootfs, b)


def _same_contents(old: RootFs, a: _native.Attr, new: RootFs, b: _native.Attr) -> bool:
    """Compares two files of the same size; holes that both have are not read."""
    done = 0
    for start, length in heapq.merge(data_runs(old, a), data_runs(new, b)):
        for at in range(max(start, done), start + length, PIECE):
            size = min(PIECE, start + length - at)
            if old.read(a.ino, at, size) != new.read(b.ino, at, size):
                return False
        done = max(done, start + length)
    return True
