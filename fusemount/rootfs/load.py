"""Law: an upper directory that is there already is laid over the tree; it changes no disk.

The upper is read whole first, against the layers as they are, since a redirect names a place in
them; then redirected directories are moved to their new places, and last the rest is applied, top
down, in the order of names, so that the same upper gives the same nodeids.

What a crash may have left (copyup.py, C4 to C6) is shown as it is meant, and told to who mends it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import field, replace

from fusemount import _native
from fusemount.beneath import open_beneath
from fusemount.dataclass import dataclass
from fusemount.rootfs.loaded import Loaded, Mending, Unmatched
from fusemount.rootfs.prefixed import Prefixed, list_names
from fusemount.rootfs.upper import (
    CAPABILITY,
    HELD,
    METACOPY,
    OPAQUE,
    ORIGIN,
    REDIRECT,
    TIMES,
    Owner,
    Upper,
    parse_held,
    parse_times,
)  # fmt: skip

_ROOT = 1
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


@dataclass
class _Object:
    """One object of the upper, as read.

    kind: S_IFMT of what it is or stands for, rdev with it.  lower: the layers' directory that it
    merges with.  origin: the layers' node that it is, wherever it has moved; 0 when it is new.
    meta: its data are those of the node `data` (0: they are nowhere).  mend: a mark says what its
    times (and mode, capability) are, which the object itself does not.
    """

    name: bytes
    st: os.stat_result
    kind: int
    rdev: int
    owner: Owner
    xattrs: dict[bytes, bytes]
    atime_ns: int
    mtime_ns: int
    target: bytes | None = None
    whiteout: bool = False
    opaque: bool = False
    redirected: bool = False
    lower: int = 0
    origin: int = 0
    meta: bool = False
    data: int = 0
    data_size: int = 0
    mend: bool = False
    cut: bool = False
    children: list[_Object] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, int]:
        return self.st.st_dev, self.st.st_ino


class _Loader:
    """Works through lists, never by recursion: an upper may be as deep as its user likes."""

    def __init__(self, tree: _native.Tree, upper: Upper, adopted: bool) -> None:
        self._tree, self._upper, self._adopted = tree, upper, adopted
        self._links: dict[tuple[int, int], int] = {}  # nodes of what was applied, by object
        self._paths: dict[tuple[int, int], set[bytes]] = {}
        self._claimed: dict[int, tuple[int, int]] = {}  # nodes of the layers, by nodeid
        self._held: list[int] = []
        self.redirects: dict[int, bytes] = {}
        self.mending = Mending([], [], [], [], [], [])
        self.unmatched: list[tuple[Unmatched, int, bytes]] = []
        self.borrowed: list[tuple[int, int]] = []
        # A living mount may take away what was listed, or put another kind in its place.
        self._vanishing = (FileNotFoundError, NotADirectoryError) if upper.live else ()

    # ---- reading --------------------------------------------------------------------------

    def read(self) -> _Object:
        root = self._object(self._upper.fd, b".", b"")
        root.lower = 0 if root.opaque else _ROOT
        todo = [(b"", root)]
        while todo:
            with suppress(*self._vanishing):
                todo += self._directory(*todo.pop())
        return root

    def _directory(self, path: bytes, here: _Object) -> list[tuple[bytes, _Object]]:
        """Reads what is in a directory; returns the directories among it."""
        fd = open_beneath(self._upper.fd, path, _DIRECTORY)
        found = []
        try:
            listed = list_names(fd, path, prefixed=self._upper.prefixed)
            if listed.marks:
                self._take_prefixed(here, listed)
            for name in listed.others:
                with suppress(*self._vanishing):
                    child = self._object(fd, name, name, here)
                    here.children.append(child)
                    below = path + b"/" + name if path else name
                    if stat.S_ISDIR(child.kind):
                        found.append((below, child))
                    elif not child.whiteout and (child.st.st_nlink > 1 or child.origin):
                        self._paths.setdefault(child.key, set()).add(below)
        finally:
            os.close(fd)
        return found

    def _take_prefixed(self, here: _Object, found: Prefixed) -> None:
        if found.opaque and not here.redirected:
            here.opaque, here.lower = True, 0
        here.children += [replace(here, name=n, whiteout=True, children=[]) for n in found.hidden]
        self.mending.prefixed.append(found)

    def _object(self, fd: int, place: bytes, name: bytes, parent: _Object | None = None) -> _Object:
        upper = self._upper
        st = os.stat(place, dir_fd=fd, follow_symlinks=False)
        stored = upper.stored(fd, place)
        kind, rdev = upper.kind_of(st, stored)
        marks = {k: stored.get(upper.prefix + k) for k in (OPAQUE, REDIRECT, METACOPY, ORIGIN)}
        found = _Object(
            name, st, kind, rdev, upper.owner_of(st, stored), upper.users(stored),
            st.st_atime_ns, st.st_mtime_ns, opaque=marks[OPAQUE] == b"y",
        )  # fmt: skip
        if stat.S_ISDIR(kind):
            self._take_times(found, stored)
            if parent:
                self._find_lower(found, marks[REDIRECT], parent)
                if found.opaque and not found.redirected:
                    self._claim(found, marks[ORIGIN])
            return found
        found.whiteout = upper.is_whiteout(st, stored)
        if found.whiteout:
            return found
        if stat.S_ISLNK(kind):
            found.target = os.readlink(place, dir_fd=fd)
        self._take_held(found, stored)
        self._claim(found, marks[ORIGIN])
        if marks[METACOPY] is not None and stat.S_ISREG(kind) and parent:
            found.meta = True
            found.data = self._lower_of(marks[REDIRECT] or name, parent)
            if found.data and not stat.S_ISREG(self._tree.getattr(found.data).mode):
                found.data = 0
            found.data = found.data or found.origin
            found.data_size = self._tree.getattr(found.data).size if found.data else 0
            found.cut = st.st_size < found.data_size
            self._hold(found.data)
        return found

    def _take_times(self, found: _Object, stored: dict[bytes, bytes]) -> None:
        if times := parse_times(stored.get(self._upper.prefix + TIMES)):
            found.atime_ns, found.mtime_ns = times
            found.mend = True

    def _take_held(self, found: _Object, stored: dict[bytes, bytes]) -> None:
        held = parse_held(stored.get(self._upper.prefix + HELD))
        if held:
            found.owner = replace(found.owner, mode=held.mode)
            found.atime_ns, found.mtime_ns = held.atime_ns, held.mtime_ns
            if held.capability:
                found.xattrs[CAPABILITY] = held.capability
            found.mend = True

    def _find_lower(self, found: _Object, redirect: bytes | None, parent: _Object) -> None:
        if redirect:
            found.redirected = True
            found.lower = self._lower_of(redirect, parent)
        elif not found.opaque:
            found.lower = self._lower_of(found.name, parent)
        if found.lower and not stat.S_ISDIR(self._tree.getattr(found.lower).mode):
            found.lower = 0
        if found.redirected and found.lower:
            self.redirects[found.lower] = visible_path(self._tree, found.lower)

    def _lower_of(self, redirect: bytes, parent: _Object) -> int:
        """The layers' node at a path from the root, or at a name beside."""
        if redirect.startswith(b"/"):
            return self._resolve(redirect)
        return self._tree.lookup(parent.lower, redirect) if parent.lower else 0

    def _resolve(self, path: bytes) -> int:
        try:
            return self._tree.resolve(path, False)
        except OSError:
            return 0

    def _claim(self, found: _Object, origin: bytes | None) -> None:
        """What was copied up is the node that it was in the layers, if those are still the same."""
        ino = self._resolve(origin) if origin else 0
        if not ino or stat.S_IFMT(self._tree.getattr(ino).mode) != found.kind:
            return
        if self._claimed.setdefault(ino, found.key) == found.key:
            found.origin = ino
            self._hold(ino)

    def _hold(self, ino: int) -> None:
        """It lives until all is applied, whatever becomes of its names."""
        if ino:
            self._tree.remember(ino)
            self._held.append(ino)

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
            if here.mend:
                self.mending.times.append(ino)
            if here.opaque and here.lower == 0:
                self._tree.drop_children(ino)
                self._tree.set_opaque(ino)
            for child in here.children:
                directory = self._apply_child(ino, child)
                if directory:
                    todo.append((directory, child))

    def release(self) -> None:
        for ino in self._held:
            self._tree.forget(ino, 1)

    def _apply_child(self, parent: int, child: _Object) -> int:
        """Puts one object into the tree; its nodeid if it is a directory, else 0."""
        there = self._tree.lookup(parent, child.name)
        if child.whiteout:
            if there:
                self._tree.drop_name(parent, child.name)
            elif not self._tree.is_lower_name(parent, child.name):
                if self._adopted:
                    self._keep_unseen(Unmatched.WHITEOUT, parent, child)
                else:
                    self.mending.strays.append((parent, child.name))
            return 0
        if child.meta and not child.data:
            if there:
                self._tree.drop_name(parent, child.name)
            self._keep_unseen(Unmatched.CONTENTS, parent, child)
            return 0
        linked = self._links.get(child.key, 0)
        ino = linked or self._identity(child, there)
        if not ino or ino != there:
            if there:
                self._tree.drop_name(parent, child.name)
            ino = ino or self._new(child)
            if child.redirected and child.lower:
                self._tree.move(_ROOT, b"\0%d" % child.lower, parent, child.name)
            else:
                self._add_name(parent, child, ino)
        if stat.S_ISDIR(child.kind):
            if child.redirected and not child.lower:
                self.unmatched.append((Unmatched.DIRECTORY, parent, child.name))
            return ino
        if not linked:
            self._set(ino, child)
            if child.mend:
                self.mending.files.append(ino)
            if child.cut:
                self.mending.cut.append(ino)
            if child.meta:
                self.borrowed.append((ino, child.data_size))
            if child.st.st_nlink > 1:
                self._links[child.key] = ino
        return 0

    def _keep_unseen(self, how: Unmatched, parent: int, child: _Object) -> None:
        """The name is free, and what stands there on disk is replaced or stays, as a whiteout is:
        over the layers that it was made for it has its meaning again."""
        self.unmatched.append((how, parent, child.name))
        if not self._tree.is_lower_name(parent, child.name):
            nobody = self._tree.new_node(stat.S_IFREG, 0, 0, 0, 0, 0, 0, 0)
            self._tree.add_name(parent, child.name, nobody, True)
            self._tree.drop_name(parent, child.name)

    def _add_name(self, parent: int, child: _Object, ino: int) -> None:
        if stat.S_ISDIR(child.kind):
            for name in self._tree.names(ino):  # an opaque one that has moved
                self._tree.drop_name(*name)
        self._tree.add_name(parent, child.name, ino)

    def _identity(self, child: _Object, there: int) -> int:
        """The layers' node that the object is; 0 for what only the upper has."""
        if stat.S_ISDIR(child.kind):
            return child.lower or child.origin
        if child.origin or not there or self._upper.privileged:
            return child.origin
        # Where the mark cannot be had: the same kind of thing in the same place.
        attr = self._tree.getattr(there)
        same = stat.S_IFMT(attr.mode) == child.kind and not stat.S_ISREG(child.kind)
        if stat.S_ISLNK(child.kind):
            same = same and self._tree.readlink(there) == child.target
        return there if same and attr.nlink == child.st.st_nlink == 1 else 0

    def _new(self, child: _Object) -> int:
        times = (child.mtime_ns, child.atime_ns, child.st.st_ctime_ns)
        return self._tree.new_node(
            child.kind | child.owner.mode, child.owner.uid, child.owner.gid, child.rdev,
            child.st.st_size, *times, target=child.target, inode=child.st.st_ino,
        )  # fmt: skip

    def _set(self, ino: int, found: _Object) -> None:
        """The node's attributes become those of its upper object."""
        if found.meta and found.data and found.data != ino:
            self._tree.share_data(ino, found.data)
        self._tree.set_attr(
            ino,
            mode=found.owner.mode,
            uid=found.owner.uid,
            gid=found.owner.gid,
            size=found.st.st_size,
            mtime_ns=found.mtime_ns,
            atime_ns=found.atime_ns,
            ctime_ns=self._upper.ctimes.of(found.st),
            upper=True,
            meta=found.meta,
            blocks=found.st.st_blocks,
            object=found.st.st_ino,
        )
        set_xattrs(self._tree, ino, found.xattrs)

    # ---- what a crash has left ------------------------------------------------------------

    def find_missing_links(self) -> None:
        """After apply: the names of a set of hardlinks of which only others came up."""
        for ino, key in self._claimed.items():
            paths = self._paths.get(key, set())
            missing = [
                name
                for name in self._tree.names(ino)
                if visible_path(self._tree, *name) not in paths
            ]
            if missing and paths:
                self.mending.links.append((ino, missing))
                self._put_first(ino, paths)

    def _put_first(self, ino: int, paths: set[bytes]) -> None:
        """The first name of a node is where its object is looked for."""
        for parent, name in self._tree.names(ino):
            if visible_path(self._tree, parent, name) in paths:
                self._tree.drop_name(parent, name)
                self._tree.add_name(parent, name, ino)
                return


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


def load_upper(tree: _native.Tree, upper: Upper, *, adopted: bool = False) -> Loaded:
    """Lays the upper over the sealed tree. Raises OSError.

    adopted: it may have been made over other layers, so its whiteouts stay, whatever they hide.
    """
    loader = _Loader(tree, upper, adopted)
    root = loader.read()
    loader.lift(root)
    loader.apply(root)
    loader.find_missing_links()
    loader.release()
    return Loaded(loader.redirects, loader.mending, loader.unmatched, loader.borrowed)
