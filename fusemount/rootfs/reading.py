"""Law: reads a complete upper directory and compares it with the layers; it changes neither the
disk nor the tree.

Users who can write to directories of the upper may change them meanwhile.  So all that is read of
an object is read by one descriptor: else its owner could be of one object and its marks of another.
An object that is removed meanwhile counts as absent; any other failure is an UpperError that names
the object.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import field, replace

from fusemount import _native
from fusemount.beneath import object_at
from fusemount.dataclass import dataclass
from fusemount.errors import UpperError
from fusemount.rootfs.bynames import merges, needs_marks
from fusemount.rootfs.descent import Descent
from fusemount.rootfs.harmless import CAPABILITY
from fusemount.rootfs.heldmarks import parse_held, parse_times
from fusemount.rootfs.makeharmless import Found
from fusemount.rootfs.objectmarks import HELD, METACOPY, OPAQUE, ORIGIN, REDIRECT, TIMES
from fusemount.rootfs.objects import Owner
from fusemount.rootfs.paths import Paths, brief, upper_error
from fusemount.rootfs.prefixed import Prefixed, list_names
from fusemount.rootfs.upper import Upper

ROOT = 1
DEPTH_MAX = 4096  # directories of a path that is resolved; native/index/index.h: IMG_PATH_DEPTH_MAX
_VANISHED = (FileNotFoundError, NotADirectoryError)
_Stored = tuple[dict[bytes, bytes], dict[bytes, bytes]]


@dataclass
class Object:
    """One object of the upper, as read.

    kind, rdev: S_IFMT and device number of the object, or of the device that it stands for.
    born: when it was made (native/upper/identity.h).
    lower: the layers' directory that it merges with.  origin: the layers' node that was copied up
    to it, also if it has moved since; 0 for a new object.
    meta: its data are those of the node `data` (0: the layers do not have them).
    cut: it shows only a first part of them.
    unmerged: it must not merge with the layers' directory of its name (bynames.py).
    repair: its real times (and mode, capability) are in a mark, and the object has others.
    parent, depth: None and 0 for the root.  gone: a directory that was removed meanwhile.
    """

    name: bytes
    parent: Object | None
    depth: int
    st: os.stat_result
    born: int
    kind: int
    rdev: int
    owner: Owner
    xattrs: dict[bytes, bytes]
    atime_ns: int
    mtime_ns: int
    target: bytes | None = None
    whiteout: bool = False
    opaque: bool = False
    unmerged: bool = False
    redirected: bool = False
    lower: int = 0
    origin: int = 0
    meta: bool = False
    data: int = 0
    data_size: int = 0
    repair: bool = False
    cut: bool = False
    gone: bool = False
    children: list[Object] = field(default_factory=list)

    @property
    def path(self) -> bytes:
        """Its path in the upper, for messages."""
        names, here = [], self
        while here.parent is not None:
            names.append(here.name)
            here = here.parent
        return b"/".join(reversed(names))

    @property
    def key(self) -> tuple[int, int]:
        return self.st.st_dev, self.st.st_ino


class Reader:
    """Reads the objects of an upper, without recursion: an upper may be nested to any depth.

    redirects: by nodeid, the path in the layers of each directory that shows at another path.
    claimed: by nodeid, the object that is this node of the layers.  powerful: objects to make
    harmless.  release() must be called when everything is applied to the tree.
    """

    def __init__(self, tree: _native.Tree, upper: Upper, *, adopted: bool = False) -> None:
        self._tree, self._upper = tree, upper
        self._needs_marks = needs_marks(upper, upper.fd, adopted=adopted)
        self.redirects: dict[int, bytes] = {}
        self.claimed: dict[int, tuple[int, int]] = {}
        self.prefixed: list[Prefixed] = []
        self.powerful = Found()
        self._remembered: list[int] = []
        # Directories that were read.  A user who moves a directory meanwhile could otherwise make
        # us read it again at each new path.
        self._entered: set[tuple[int, int]] = set()
        self._paths = Paths(tree)
        # Xattrs of objects with several names: they may take 64 KiB, and are kept once for all
        # names.
        self._stored: dict[tuple[int, int], _Stored] = {}

    def read(self) -> Object:
        """Returns the root with all objects below it. Raises UpperError."""
        try:
            root = self._object(self._upper.fd, b"", None)
        except OSError as error:
            raise upper_error(self._upper.path, b"", error) from error
        root.lower = 0 if root.opaque else ROOT
        with Descent(self._upper.fd) as walk:
            todo = [self._directory(walk.fd, root)]
            while todo:
                if todo[-1]:
                    child = todo[-1].pop()
                    if self._enter(walk, child):
                        todo.append(self._directory(walk.fd, child))
                    continue
                todo.pop()
                if todo:
                    walk.up()
        return root

    def release(self) -> None:
        for ino in self._remembered:
            self._tree.forget(ino, 1)

    def _enter(self, walk: Descent, child: Object) -> bool:
        try:
            walk.down(child.name)
        except OSError as error:
            # ELOOP: a symlink has taken its place
            if not isinstance(error, _VANISHED) and error.errno != errno.ELOOP:
                raise upper_error(self._upper.path, child.path, error) from error
            child.gone = True
            return False
        st = os.fstat(walk.fd)
        if (st.st_dev, st.st_ino) in self._entered:
            walk.up()
            child.gone = True
            return False
        self._entered.add((st.st_dev, st.st_ino))
        return True

    def _directory(self, fd: int, here: Object) -> list[Object]:
        """Reads the objects in a directory; returns the directories among them, the first one
        last."""
        found = []
        try:
            listed = list_names(fd, prefixed=self._upper.prefixed)
        except OSError as error:
            raise upper_error(self._upper.path, here.path, error) from error
        if listed.marks:
            self._take_prefixed(here, listed)
        for name in listed.others:
            try:
                with object_at(fd, name) as found_at:
                    child = self._object(found_at, name, here)
            except _VANISHED:
                continue
            except OSError as error:
                path = replace(here, name=name, parent=here).path
                raise upper_error(self._upper.path, path, error) from error
            here.children.append(child)
            if stat.S_ISDIR(child.kind):
                found.append(child)
        return found[::-1]

    def _take_prefixed(self, here: Object, found: Prefixed) -> None:
        if here.depth > DEPTH_MAX:  # the repair opens the directory by its path
            raise UpperError(
                f"{self._upper.path}: {brief(here.path)}: marks of fuse-overlayfs more than "
                f"{DEPTH_MAX} directories deep, the limit"
            )
        found = replace(found, path=here.path)
        if found.opaque and not here.redirected:
            here.opaque, here.lower = True, 0
        here.children += [
            replace(here, name=n, parent=here, depth=here.depth + 1, whiteout=True, children=[])
            for n in found.hidden
        ]
        self.prefixed.append(found)

    def _object(self, fd: int, name: bytes, parent: Object | None) -> Object:
        """fd: of the object itself."""
        upper = self._upper
        st = os.fstat(fd)
        stored, users = self._xattrs(fd, st)
        kind, rdev = upper.kind_of(st, stored)
        marks = {k: stored.get(upper.prefix + k) for k in (OPAQUE, REDIRECT, METACOPY, ORIGIN)}
        found = Object(
            name, parent, parent.depth + 1 if parent else 0,
            st, _native.born(fd, b""), kind, rdev, upper.owner_of(st, stored), users,
            st.st_atime_ns, st.st_mtime_ns, opaque=marks[OPAQUE] == b"y",
        )  # fmt: skip
        if upper.harmless.forbids(st, stored):
            self.powerful.add(found)
        if stat.S_ISDIR(kind):
            self._take_times(found, stored)
            if parent:
                self._find_lower(found, marks[REDIRECT], parent)
                if found.lower and self._needs_marks and not found.redirected:
                    self._check_merge(found, stored)
                if found.opaque and not found.redirected:
                    self._claim(found, marks[ORIGIN])
            return found
        found.whiteout = upper.is_whiteout(st, stored)
        if found.whiteout:
            return found
        if stat.S_ISLNK(kind):
            found.target = os.readlink(b"", dir_fd=fd)
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
            self._keep(found.data)
        return found

    def _xattrs(self, fd: int, st: os.stat_result) -> _Stored:
        """The xattrs as they are stored, and the user's under their own names."""
        key, several = (st.st_dev, st.st_ino), st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode)
        if several and key in self._stored:
            return self._stored[key]
        stored = self._upper.stored(fd, b"")
        both = stored, self._upper.user_xattrs(stored)
        if several:
            self._stored[key] = both
        return both

    def _take_times(self, found: Object, stored: dict[bytes, bytes]) -> None:
        if times := parse_times(stored.get(self._upper.prefix + TIMES)):
            found.atime_ns, found.mtime_ns = times
            found.repair = True

    def _take_held(self, found: Object, stored: dict[bytes, bytes]) -> None:
        held = parse_held(stored.get(self._upper.prefix + HELD))
        if held:
            found.owner = replace(found.owner, mode=held.mode)
            found.atime_ns, found.mtime_ns = held.atime_ns, held.mtime_ns
            if held.capability:
                found.xattrs[CAPABILITY] = held.capability
            found.repair = True

    def _find_lower(self, found: Object, redirect: bytes | None, parent: Object) -> None:
        if redirect:
            found.redirected = True
            found.lower = self._lower_of(redirect, parent)
        elif not found.opaque:
            found.lower = self._lower_of(found.name, parent)
        if found.lower == ROOT or (
            found.lower and not stat.S_ISDIR(self._tree.getattr(found.lower).mode)
        ):
            found.lower = 0
        if found.redirected and found.lower:
            self.redirects[found.lower] = self._paths.of(found.lower)

    def _check_merge(self, found: Object, stored: dict[bytes, bytes]) -> None:
        if not merges(self._tree, found.lower, found.owner, stored, self._upper.prefix):
            found.lower, found.unmerged = 0, True

    def _lower_of(self, redirect: bytes, parent: Object) -> int:
        """The layers' node at a path from the root, or of a name in the lower directory of
        `parent`."""
        if redirect.startswith(b"/"):
            return self._resolve(redirect)
        return self._tree.lookup(parent.lower, redirect) if parent.lower else 0

    def _resolve(self, path: bytes) -> int:
        try:
            return self._tree.resolve(path, False)
        except OSError:
            return 0

    def _claim(self, found: Object, origin: bytes | None) -> None:
        """Finds the layers' node that was copied up to this object, if these layers still have
        it."""
        ino = self._resolve(origin) if origin else 0
        if not ino or stat.S_IFMT(self._tree.getattr(ino).mode) != found.kind:
            return
        if self.claimed.setdefault(ino, found.key) == found.key:
            found.origin = ino
            self._keep(ino)

    def _keep(self, ino: int) -> None:
        """Keeps a node until release(), even if it loses its names."""
        if ino:
            self._tree.remember(ino)
            self._remembered.append(ino)
