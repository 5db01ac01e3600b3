"""Law: lays an existing upper directory over the tree.  Only making it harmless changes the disk.

First the complete upper is read (reading.py) and compared with the unchanged layers, because a
redirect is a path in them.  Then redirected directories are moved to their new paths.  Last, the
rest is applied, top down and in the order of names, so that the same upper gives the same nodeids.

A user who can write to directories of the upper can move them with their marks, so several may
claim one directory of the layers.  Only one gets it: of several redirects the first,
and a redirect before a directory at the layers' own path.  The others merge with nothing.  So no
directory of the tree can become a child of itself.

What a crash has left (copyup.py, C4 to C6) is shown correctly, and is listed for repair.py.
"""

from __future__ import annotations

import stat

from fusemount import _native
from fusemount.rootfs.loaded import Loaded, Repairs, Unmatched
from fusemount.rootfs.makeharmless import NONE_HARMED, make_harmless
from fusemount.rootfs.paths import upper_error
from fusemount.rootfs.reading import DEPTH_MAX, ROOT, Object, Reader
from fusemount.rootfs.upper import Upper

_ALL = 2**31 - 1


class _Loader:
    """Applies what was read, without recursion: an upper may be nested to any depth."""

    def __init__(self, tree: _native.Tree, upper: Upper, reader: Reader, adopted: bool) -> None:
        self._tree, self._upper, self._adopted = tree, upper, adopted
        self._claimed = reader.claimed
        self._links: dict[tuple[int, int], int] = {}  # nodes of applied objects with several names
        self._names: dict[tuple[int, int], set[tuple[int, bytes]]] = {}  # of files, by object
        self._applied = {ROOT}  # directories of the layers that are applied
        self._at: Object | None = None
        self.repairs = Repairs([], [], [], [], reader.prefixed, {}, [])
        self.unmatched: list[tuple[Unmatched, int, bytes]] = []
        self.borrowed: list[tuple[int, int]] = []

    def lay(self, root: Object) -> None:
        """Raises UpperError."""
        try:
            self._lift(root)
            self._apply(root)
            self._find_missing_links()
        except OSError as error:
            path = self._at.path if self._at else b""
            raise upper_error(self._upper.path, path, error) from error

    def _lift(self, root: Object) -> None:
        """Moves redirected directories of the layers into the root for now, under names that no
        path can have.  If two objects claim one directory, the second gets nothing."""
        todo = [root]
        while todo:
            for child in todo.pop().children:
                todo.append(child)
                if not (child.redirected and child.lower):
                    continue
                [(parent, name)] = self._tree.names(child.lower)
                if name.startswith(b"\0"):
                    child.lower = 0
                else:
                    self._tree.move(parent, name, ROOT, b"\0%d" % child.lower)

    def _apply(self, root: Object) -> None:
        todo = [(ROOT, root)]
        while todo:
            ino, here = todo.pop()
            self._at = here
            self._set(ino, here)
            if here.repair:
                self.repairs.times.append(ino)
            if here.opaque and here.lower == 0:
                self._drop_children(ino)
                self._tree.set_opaque(ino)
            for child in here.children:
                if child.gone:
                    continue
                self._at = child
                directory = self._apply_child(ino, child)
                if directory:
                    self._applied.add(directory)
                    todo.append((directory, child))

    def _drop_children(self, ino: int) -> None:
        """Drops all names in a directory, except those that _lift has moved into the root."""
        if ino != ROOT:
            self._tree.drop_children(ino)
            return
        for name, _, _ in self._tree.readdir(ino, 0, _ALL):
            if not name.startswith(b"\0"):
                self._tree.drop_name(ino, name, False)

    def _apply_child(self, parent: int, child: Object) -> int:
        """Puts one object into the tree; returns its nodeid if it is a directory, else 0."""
        there = self._tree.lookup(parent, child.name)
        if child.whiteout:
            if there:
                self._tree.drop_name(parent, child.name)
            elif not self._tree.is_lower_name(parent, child.name):
                # The repair opens the directory by its path, so it must not be too deep.
                if self._adopted or child.depth > DEPTH_MAX:
                    self._keep_unseen(Unmatched.WHITEOUT, parent, child)
                else:
                    self.repairs.needless_whiteouts.setdefault(parent, []).append(child.name)
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
                self._tree.move(ROOT, b"\0%d" % child.lower, parent, child.name)
            else:
                self._add_name(parent, child, ino)
        if stat.S_ISDIR(child.kind):
            if child.redirected and not child.lower:
                self.unmatched.append((Unmatched.DIRECTORY, parent, child.name))
            if child.unmerged:
                self.repairs.unmerged.append(ino)
            return ino
        if child.origin or child.st.st_nlink > 1:
            self._names.setdefault(child.key, set()).add((parent, child.name))
        if not linked:
            self._set(ino, child)
            if child.repair:
                self.repairs.files.append(ino)
            if child.cut:
                self.repairs.cut.append(ino)
            if child.meta:
                self.borrowed.append((ino, child.data_size))
            if child.st.st_nlink > 1:
                self._links[child.key] = ino
        return 0

    def _keep_unseen(self, how: Unmatched, parent: int, child: Object) -> None:
        """Leaves an object on disk that has no meaning over these layers; its name is free, as
        over a whiteout.  Over the layers that it was made for it has its meaning again."""
        self.unmatched.append((how, parent, child.name))
        if not self._tree.is_lower_name(parent, child.name):
            hidden = self._tree.new_node(stat.S_IFREG, 0, 0, 0, 0, 0, 0, 0)
            self._tree.add_name(parent, child.name, hidden, True)
            self._tree.drop_name(parent, child.name)

    def _add_name(self, parent: int, child: Object, ino: int) -> None:
        if stat.S_ISDIR(child.kind):
            for name in self._tree.names(ino):  # an opaque directory that has moved
                self._tree.drop_name(*name)
        self._tree.add_name(parent, child.name, ino)

    def _identity(self, child: Object, there: int) -> int:
        """The layers' node that was copied up to the object; 0 for an object that only the upper
        has."""
        if stat.S_ISDIR(child.kind):
            if child.lower:
                return child.lower if child.redirected or child.lower == there else 0
            return child.origin if child.origin not in self._applied else 0
        if child.origin or not there or self._upper.privileged:
            return child.origin
        # Where the object cannot have the mark `origin`: an object of the same kind at the path.
        attr = self._tree.getattr(there)
        same = stat.S_IFMT(attr.mode) == child.kind and not stat.S_ISREG(child.kind)
        if stat.S_ISLNK(child.kind):
            same = same and self._tree.readlink(there) == child.target
        return there if same and attr.nlink == child.st.st_nlink == 1 else 0

    def _new(self, child: Object) -> int:
        times = (child.mtime_ns, child.atime_ns, child.st.st_ctime_ns)
        return self._tree.new_node(
            child.kind | child.owner.mode, child.owner.uid, child.owner.gid, child.rdev,
            child.st.st_size, *times, target=child.target, inode=child.st.st_ino,
        )  # fmt: skip

    def _set(self, ino: int, found: Object) -> None:
        """Gives the node the attributes of its upper object."""
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
            born=found.born,
        )
        set_xattrs(self._tree, ino, found.xattrs)

    # ---- what a crash has left ------------------------------------------------------------

    def _find_missing_links(self) -> None:
        """Finds, after _apply, hardlinks of which only some names were copied up."""
        for ino, key in self._claimed.items():
            there = self._names.get(key)
            if there is None:
                continue
            missing = [name for name in self._tree.names(ino) if name not in there]
            if missing:
                self.repairs.links.append((ino, missing))
                self._put_first(ino, there)

    def _put_first(self, ino: int, there: set[tuple[int, bytes]]) -> None:
        """Makes a name that exists in the upper the node's first: its object is opened by that
        name."""
        for parent, name in self._tree.names(ino):
            if (parent, name) in there:
                self._tree.drop_name(parent, name)
                self._tree.add_name(parent, name, ino)
                return


def set_xattrs(tree: _native.Tree, ino: int, xattrs: dict[bytes, bytes]) -> None:
    """Gives the node exactly these xattrs."""
    for name in tree.xattrs(ino).keys() - xattrs.keys():
        tree.setxattr(ino, name, None)
    for name, value in xattrs.items():
        tree.setxattr(ino, name, value)


def load_upper(tree: _native.Tree, upper: Upper, *, adopted: bool = False) -> Loaded:
    """Lays the upper over the sealed tree, after making it harmless if it must be and can be.

    adopted: the upper may have been over other layers, so whiteouts that hide nothing stay.
    Raises UpperError, which names the object, NoSpace, or OSError.
    """
    reader = Reader(tree, upper, adopted=adopted)
    root, harmed = reader.read(), NONE_HARMED
    if reader.powerful.objects and upper.work_fd >= 0:
        harmed = make_harmless(upper, reader.powerful)
        reader.release()
        reader = Reader(tree, upper, adopted=adopted)
        root = reader.read()
    loader = _Loader(tree, upper, reader, adopted)
    loader.lay(root)
    reader.release()
    return Loaded(
        reader.redirects, loader.repairs, loader.unmatched, loader.borrowed, harmed=harmed
    )
