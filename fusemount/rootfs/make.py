"""Law: makes new objects that take more than one step: inherited ACLs, opaque marks, stored owners.

native/upper/change.h makes all others.  An object is made and completed in the work directory, then
one rename moves it into the upper; if the layers have the name, the rename replaces the whiteout.
So neither a half-made object nor the layers' object of this name shows.

What stands at the name afterwards may be another user's object, put there meanwhile.  So all that
the tree takes over is read by a descriptor, which the object got in the work directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from fusemount import _native
from fusemount.beneath import object_at, open_beneath
from fusemount.dataclass import dataclass
from fusemount.rootfs.harmless import SET_ID_BITS
from fusemount.rootfs.names import inside
from fusemount.rootfs.objectmarks import ACL_DEFAULT
from fusemount.rootfs.objects import Owner
from fusemount.rootfs.upper import Upper


@dataclass(frozen=True)
class New:
    """What to make: mode with the type; uid, gid and umask of the caller; target of a symlink.

    A default ACL of the directory takes the place of the umask (acl(5)), unless the caller has
    applied the umask to the mode already.
    """

    mode: int
    rdev: int
    uid: int
    gid: int
    umask: int
    target: bytes


class Maker:
    """Makes objects and their nodes. Raises OSError, and then has left nothing."""

    def __init__(self, tree: _native.Tree, upper: Upper, native: _native.UpperFiles) -> None:
        self._tree, self._upper, self._native = tree, upper, native

    def make(self, parent: int, name: bytes, new: New) -> int:
        """Returns the nodeid of the new object. The name must be free, its directory in the
        upper."""
        upper = self._upper
        acl = None if stat.S_ISLNK(new.mode) else self._tree.getxattr(parent, ACL_DEFAULT)
        mode, owner = self._owned(parent, new, acl)
        stage = upper.temporary()
        try:
            self._make_with_acl(stage, mode, new, acl)
            self._finish(stage, mode, owner, acl)
            if stat.S_ISDIR(mode) and self._tree.is_lower_name(parent, name):
                upper.set_mark(upper.work_fd, stage, b"opaque", b"y")
            with object_at(upper.work_fd, stage) as made:
                with inside(self._native, parent) as fd:
                    upper.put_in(stage, fd, name, free=not self._tree.is_lower_name(parent, name))
                return self._adopt(made, parent, name, new.target, acl is not None)
        except OSError:
            upper.leave(stage)
            raise

    def _owned(self, parent: int, new: New, acl: bytes | None) -> tuple[int, Owner]:
        """(mode, owner) of the new object. It gets the group of a set-gid directory that it is made
        in; a new directory gets the set-gid bit too."""
        above, mode, gid = self._tree.getattr(parent), new.mode, new.gid
        if acl is None and not stat.S_ISLNK(mode):
            mode &= ~(new.umask & 0o777)
        if above.mode & stat.S_ISGID:
            gid = above.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        return mode, Owner(new.uid, gid, mode & 0o7777)

    @contextmanager
    def _made_in(self, nest: bytes) -> Iterator[int]:
        fd = open_beneath(self._upper.work_fd, nest, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def _make(self, fd: int, name: bytes, mode: int, new: New) -> None:
        """Makes an object without set-id bits, except a directory's; _finish gives them."""
        if stat.S_ISREG(mode):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, mode & 0o1777, dir_fd=fd))
        elif stat.S_ISDIR(mode):
            os.mkdir(name, mode & 0o7777, dir_fd=fd)
        elif stat.S_ISLNK(mode):
            os.symlink(new.target, name, dir_fd=fd)
        elif stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            os.mknod(name, mode & ~SET_ID_BITS, dir_fd=fd)
        else:
            self._upper.make_node(fd, name, mode, new.rdev)

    def _make_with_acl(self, stage: bytes, mode: int, new: New, acl: bytes | None) -> None:
        """Makes an object that inherits the default ACL: in a new directory that has this ACL,
        because the work directory has none."""
        upper, work = self._upper, self._upper.work_fd
        if acl is None:
            self._make(work, stage, mode, new)
            return
        nest = upper.temporary()
        os.mkdir(nest, 0o700, dir_fd=work)
        try:
            upper.set_xattr(work, nest, ACL_DEFAULT, acl)
            with self._made_in(nest) as fd:
                self._make(fd, b"new", mode, new)
                os.rename(b"new", stage, src_dir_fd=fd, dst_dir_fd=work)
        finally:
            upper.leave(nest)

    def _finish(self, stage: bytes, mode: int, owner: Owner, acl: bytes | None) -> None:
        work = self._upper.work_fd
        if acl is not None:
            # The default ACL has decided the rwx bits.
            made = stat.S_IMODE(os.stat(stage, dir_fd=work, follow_symlinks=False).st_mode)
            owner = Owner(owner.uid, owner.gid, made & 0o777 | owner.mode & 0o7000)
        self._upper.give(work, stage, owner)

    def _adopt(self, made: int, parent: int, name: bytes, target: bytes, acls: bool) -> int:
        """Makes a node of the new object, from its descriptor, and returns its nodeid."""
        upper = self._upper
        st, stored, born = os.fstat(made), upper.stored(made, b""), _native.born(made, b"")
        owner, (kind, rdev) = upper.owner_of(st, stored), upper.kind_of(st, stored)
        xattrs = upper.user_xattrs(stored) if acls else {}
        times = (st.st_mtime_ns, st.st_atime_ns, st.st_ctime_ns)
        ino = self._tree.new_node(
            kind | owner.mode, owner.uid, owner.gid, rdev, st.st_size, *times,
            target=target, inode=st.st_ino,
        )  # fmt: skip
        self._tree.set_attr(ino, blocks=st.st_blocks, object=st.st_ino, born=born)
        for key, value in xattrs.items():
            self._tree.setxattr(ino, key, value)
        self._tree.add_name(parent, name, ino)
        return ino
