"""Law: an upper directory that is there already is laid over the tree; it changes no disk.

The upper is read whole first, against the layers as they are, since a redirect names a place in
them; then redirected directories are moved to their new places, and last the rest is applied, top
down, in the order of names, so that the same upper gives the same nodeids.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

from fusemount import _native
from fusemount.rootfs.upper import Owner, Upper

_ROOT = 1
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class _Object:
    """One object of the upper, as read. lower: the layers' directory that it merges with."""

    name: bytes
    st: os.stat_result
    owner: Owner
    xattrs: dict[bytes, bytes]
    target: bytes | None = None
    whiteout: bool = False
    opaque: bool = False
    redirected: bool = False
    lower: int = 0
    children: list[_Object] = field(default_factory=list)


class _Loader:
    """Works through lists, never by recursion: an upper may be as deep as its user likes."""

    def __init__(self, tree: _native.Tree, upper: Upper) -> None:
        self._tree, self._upper = tree, upper
        self._links: dict[tuple[int, int], int] = {}
        self._link_paths: dict[tuple[int, int], set[bytes]] = {}

    # ---- reading --------------------------------------------------------------------------

    def read(self) -> _Object:
        upper = self._upper
        st = os.fstat(upper.fd)
        root = _Object(b"", st, upper.owner(upper.fd, b".", st), upper.xattrs(upper.fd, b"."))
        root.opaque = upper.mark(upper.fd, b".", b"opaque") == b"y"
        root.lower = 0 if root.opaque else _ROOT
        todo = [(b"", root)]
        while todo:
            path, here = todo.pop()
            try:
                with upper.at(path) as (at, rest):
                    fd = os.open(rest, _DIRECTORY, dir_fd=at)
            except FileNotFoundError:
                if upper.live:
                    continue
                raise
            try:
                for name in sorted(map(os.fsencode, os.listdir(fd))):
                    child = self._read_listed(fd, name, here)
                    if child is None:
                        continue
                    here.children.append(child)
                    below = path + b"/" + name if path else name
                    if stat.S_ISDIR(child.st.st_mode):
                        todo.append((below, child))
                    elif child.st.st_nlink > 1 and not child.whiteout:
                        key = (child.st.st_dev, child.st.st_ino)
                        self._link_paths.setdefault(key, set()).add(below)
            finally:
                os.close(fd)
        return root

    def _read_listed(self, fd: int, name: bytes, parent: _Object) -> _Object | None:
        """None for what a living mount took away after it was listed."""
        try:
            return self._read(fd, name, parent)
        except FileNotFoundError:
            if self._upper.live:
                return None
            raise

    def _read(self, fd: int, name: bytes, parent: _Object) -> _Object:
        upper = self._upper
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if upper.is_whiteout(fd, name, st):
            return _Object(name, st, Owner(0, 0, 0), {}, whiteout=True)
        found = _Object(name, st, upper.owner(fd, name, st), upper.xattrs(fd, name))
        if stat.S_ISLNK(st.st_mode):
            found.target = os.readlink(name, dir_fd=fd)
        if stat.S_ISDIR(st.st_mode):
            self._find_lower(fd, found, parent)
        return found

    def _find_lower(self, fd: int, found: _Object, parent: _Object) -> None:
        redirect = self._upper.mark(fd, found.name, b"redirect")
        found.opaque = self._upper.mark(fd, found.name, b"opaque") == b"y"
        if redirect:
            found.redirected = True
            if redirect.startswith(b"/"):
                found.lower = self._resolve(redirect)
            elif parent.lower:
                found.lower = self._tree.lookup(parent.lower, redirect)
        elif parent.lower and not found.opaque:
            found.lower = self._tree.lookup(parent.lower, found.name)
        if found.lower and not stat.S_ISDIR(self._tree.getattr(found.lower).mode):
            found.lower = 0

    def _resolve(self, path: bytes) -> int:
        try:
            return self._tree.resolve(path, False)
        except OSError:
            return 0

    # ---- applying -------------------------------------------------------------------------

    def lift(self, root: _Object) -> None:
        """Redirected directories of the layers wait in the root, under names no path can have."""
        todo = [root]
        while todo:
            for child in todo.pop().children:
                todo.append(child)
                names = self._tree.names(child.lower) if child.redirected and child.lower else []
                for parent, name in names:
                    self._tree.move(parent, name, _ROOT, b"\0%d" % child.lower)

    def apply(self, root: _Object) -> None:
        todo = [(_ROOT, root)]
        while todo:
            ino, here = todo.pop()
            self._set(ino, here)
            if here.opaque and here.lower == 0:
                self._tree.drop_children(ino)
            for child in here.children:
                directory = self._apply_child(ino, child)
                if directory:
                    todo.append((directory, child))

    def _apply_child(self, parent: int, child: _Object) -> int:
        """Puts one object into the tree; its nodeid if it is a directory, else 0."""
        there = self._tree.lookup(parent, child.name)
        if child.whiteout:
            if there:
                self._tree.drop_name(parent, child.name)
            return 0
        key = (child.st.st_dev, child.st.st_ino)
        linked = self._links.get(key)
        if linked is not None and linked == there:
            return 0
        if there and linked is None and self._same_object(there, child):
            ino = there
            self._set(ino, child)
        else:
            if there:
                self._tree.drop_name(parent, child.name)
            ino = linked if linked is not None else self._new(child)
            if child.redirected and child.lower:
                self._tree.move(_ROOT, b"\0%d" % child.lower, parent, child.name)
            else:
                self._tree.add_name(parent, child.name, ino)
        if stat.S_ISDIR(child.st.st_mode):
            return ino
        if child.st.st_nlink > 1:
            self._links[key] = ino
        return 0

    def _same_object(self, there: int, child: _Object) -> bool:
        """The layers' node goes on under its nodeid, the upper having its later state."""
        attr = self._tree.getattr(there)
        if stat.S_IFMT(attr.mode) != stat.S_IFMT(child.st.st_mode):
            return False
        if stat.S_ISDIR(attr.mode):
            return child.lower == there
        if stat.S_ISLNK(attr.mode) and self._tree.readlink(there) != child.target:
            return False
        if (stat.S_ISCHR(attr.mode) or stat.S_ISBLK(attr.mode)) and attr.rdev != child.st.st_rdev:
            return False
        if attr.nlink == 1:
            return child.st.st_nlink == 1
        # A set of hardlinks came up as a whole, or these are new files under old names.
        paths = self._link_paths.get((child.st.st_dev, child.st.st_ino), set())
        return {visible_path(self._tree, *name) for name in self._tree.names(there)} <= paths

    def _new(self, child: _Object) -> int:
        if child.redirected and child.lower:
            return child.lower
        st, owner = child.st, child.owner
        mode = stat.S_IFMT(st.st_mode) | owner.mode
        times = (st.st_mtime_ns, st.st_atime_ns, st.st_ctime_ns)
        ino = self._tree.new_node(
            mode, owner.uid, owner.gid, st.st_rdev, st.st_size, *times, target=child.target
        )
        self._tree.set_attr(ino, blocks=st.st_blocks)
        for name, value in child.xattrs.items():
            self._tree.setxattr(ino, name, value)
        return ino

    def _set(self, ino: int, found: _Object) -> None:
        set_from_upper(self._tree, ino, found.st, found.owner)
        set_xattrs(self._tree, ino, found.xattrs)


def set_from_upper(tree: _native.Tree, ino: int, st: os.stat_result, owner: Owner) -> None:
    """The node's attributes become those of its upper object."""
    tree.set_attr(
        ino,
        mode=owner.mode,
        uid=owner.uid,
        gid=owner.gid,
        size=st.st_size,
        mtime_ns=st.st_mtime_ns,
        atime_ns=st.st_atime_ns,
        ctime_ns=st.st_ctime_ns,
        upper=True,
        blocks=st.st_blocks,
    )


def set_xattrs(tree: _native.Tree, ino: int, xattrs: dict[bytes, bytes]) -> None:
    """The node's xattrs become exactly these."""
    for name in tree.xattrs(ino).keys() - xattrs.keys():
        tree.setxattr(ino, name, None)
    for name, value in xattrs.items():
        tree.setxattr(ino, name, value)


def visible_path(tree: _native.Tree, parent: int, name: bytes = b"") -> bytes:
    """The path of a name, or of a directory; relative to the root, b"" being the root itself.

    Raises FileNotFoundError below a directory that was removed.
    """
    parts = [name] if name else []
    while parent != _ROOT:
        above = tree.names(parent, 1)
        if not above:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        parent, name = above[0]
        parts.append(name)
    return b"/".join(reversed(parts))


def load_upper(tree: _native.Tree, upper: Upper) -> None:
    """Lays the upper over the sealed tree. Raises OSError."""
    loader = _Loader(tree, upper)
    root = loader.read()
    loader.lift(root)
    loader.apply(root)
