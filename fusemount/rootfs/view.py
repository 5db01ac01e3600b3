"""Law: the running file system, layers and upper as one; it knows no FUSE.

Every method runs to its end without waiting for another task, so each operation is one step to all
others.  First the upper is changed, then the tree; what fails in the upper has changed neither.
Errors are OSError with the errno that the caller is to see.

A file that loses its last name while it is open moves to the work directory and stays there until
it is closed and forgotten; open files are counted per node, there are no other handles.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from fusemount import _native
from fusemount.rootfs.copyup import CopyUp
from fusemount.rootfs.files import OpenFiles
from fusemount.rootfs.load import load_upper, set_from_upper, set_xattrs
from fusemount.rootfs.make import Maker, New
from fusemount.rootfs.rename import Renamer
from fusemount.rootfs.upper import ACL_ACCESS, ACL_DEFAULT, Owner, Upper


@dataclass(frozen=True)
class Caller:
    """Who asks for a new object."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Change:
    """What SETATTR is to change; None leaves a field alone. Times in ns, mode the 07777 part."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


def fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


class RootFs:
    """A merged tree and an upper, if there is one.

    tree: sealed.  read_only: every change is refused, and an upper is only shown.  close() leaves
    the upper ready for the next mount.
    """

    def __init__(self, tree: _native.Tree, upper: Upper | None, *, read_only: bool = False) -> None:
        self.tree = tree
        self.upper = upper
        self.read_only = read_only or upper is None
        self._opens: Counter[int] = Counter()
        if upper is not None:
            self._copy = CopyUp(tree, upper)
            self._files = OpenFiles(self._open_upper)
            self._maker = Maker(tree, upper, self._copy)
            self._renamer = Renamer(self, tree, upper, self._copy)
            self._start(upper)

    def _start(self, upper: Upper) -> None:
        """A new upper takes on the root's attributes; one that was used before is laid over."""
        fresh = upper.mark(upper.fd, b".", b"imgmount") is None and not os.listdir(upper.fd)
        if not fresh:
            load_upper(self.tree, upper)
            return
        if self.read_only:
            return
        attr = self.tree.getattr(1)
        upper.give(upper.fd, b".", Owner(attr.uid, attr.gid, stat.S_IMODE(attr.mode)))
        for name, value in self.tree.xattrs(1).items():
            upper.set_xattr(upper.fd, b".", name, value)
        upper.set_mark(upper.fd, b".", b"imgmount", b"1")
        os.utime(upper.fd, ns=(attr.atime_ns, attr.mtime_ns))
        self.tree.set_attr(1, upper=True)

    def close(self) -> None:
        if self.upper is None:
            return
        self._files.close()
        for ino in list(self._opens):
            self._drop_orphan(ino)
        self.upper.close()

    # ---- looking --------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> int:
        """The nodeid of a name; 0 when there is none."""
        if len(name) > 255:
            fail(errno.ENAMETOOLONG)
        return self.tree.lookup(parent, name)

    def getattr(self, ino: int) -> _native.Attr:
        return self.tree.getattr(ino)

    def statfs(self) -> os.statvfs_result | None:
        """What the upper's file system says; None when there is no upper."""
        return os.statvfs(self.upper.fd) if self.upper else None

    def read(self, ino: int, offset: int, size: int) -> bytes:
        if self.tree.getattr(ino).upper:
            return os.pread(self._files.get(ino), size, offset)
        return self.tree.read(ino, offset, size)

    # ---- the upper's side -----------------------------------------------------------------

    def _writable(self) -> Upper:
        if self.upper is None or self.read_only:
            fail(errno.EROFS)
        return self.upper

    def _open_upper(self, ino: int) -> int:
        access = os.O_RDONLY if self.read_only else os.O_RDWR
        flags = access | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
        with self._copy.place(ino) as (fd, rest):
            return os.open(rest, flags, dir_fd=fd)

    def refresh(self, ino: int, acls: bool = False) -> None:
        """The tree takes over what the upper's object now says."""
        upper = self._writable()
        with self._copy.place(ino) as (at, rest):
            st = os.stat(rest, dir_fd=at, follow_symlinks=False)
            set_from_upper(self.tree, ino, st, upper.owner(at, rest, st))
            if acls:
                set_xattrs(self.tree, ino, upper.xattrs(at, rest))

    def _drop_orphan(self, ino: int) -> None:
        if self.upper is None or self.read_only:
            return
        try:
            os.unlink(self._copy.orphan(ino), dir_fd=self.upper.work_fd)
        except FileNotFoundError:
            pass

    # ---- making ---------------------------------------------------------------------------

    def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller, target: bytes = b""
    ) -> int:
        """Makes any object; mode has its type, target is a symlink's. Returns the nodeid."""
        self._writable()
        if len(name) > 255:
            fail(errno.ENAMETOOLONG)
        if self.tree.lookup(parent, name):
            fail(errno.EEXIST)
        if parent != 1 and not self.tree.names(parent, 1):
            fail(errno.ENOENT)
        if stat.S_ISCHR(mode) and rdev == 0:
            fail(errno.EPERM)  # a whiteout to overlayfs
        ino = self._maker.make(parent, name, New(mode, rdev, caller.uid, caller.gid, target))
        self.refresh(parent)
        return ino

    def link(self, ino: int, parent: int, name: bytes) -> None:
        upper = self._writable()
        if len(name) > 255:
            fail(errno.ENAMETOOLONG)
        if self.tree.lookup(parent, name):
            fail(errno.EEXIST)
        self._copy.directory(parent)
        self._copy.node(ino)
        stage = upper.temporary()
        with self._copy.place(ino) as (fd, rest):
            os.link(rest, stage, src_dir_fd=fd, dst_dir_fd=upper.work_fd, follow_symlinks=False)
        upper.put_in(stage, self._copy.child(parent, name))
        self.tree.add_name(parent, name, ino)
        self._drop_orphan(ino)
        self.refresh(ino)
        self.refresh(parent)

    # ---- taking away ----------------------------------------------------------------------

    def unlink(self, parent: int, name: bytes) -> None:
        upper = self._writable()
        ino = self.tree.lookup(parent, name) or fail(errno.ENOENT)
        attr = self.tree.getattr(ino)
        if stat.S_ISDIR(attr.mode):
            fail(errno.EISDIR)
        self._copy.directory(parent)
        path = self._copy.child(parent, name)
        with self.kept_if_open(ino, path):
            if self.tree.is_lower_name(parent, name):
                upper.whiteout(path)
            else:
                with upper.at(path) as (fd, rest):
                    os.unlink(rest, dir_fd=fd)
        self.forget_name(parent, name)
        self.refresh(parent)

    @contextmanager
    def kept_if_open(self, ino: int, path: bytes, wanted: bool = True) -> Iterator[None]:
        """Around taking away what may be a file's last name: while it is open it has one in the
        work directory. When the name could not be taken away, that one goes again."""
        upper = self._writable()
        last = wanted and bool(ino) and self._opens[ino] and len(self.tree.names(ino, 2)) == 1
        if not last or not self.tree.getattr(ino).upper:
            yield
            return
        orphan = self._copy.orphan(ino)
        with upper.at(path) as (fd, rest):
            os.link(rest, orphan, src_dir_fd=fd, dst_dir_fd=upper.work_fd, follow_symlinks=False)
        try:
            yield
        except OSError:
            self._drop_orphan(ino)
            raise

    def forget_name(self, parent: int, name: bytes) -> None:
        """The tree's part of taking a name away."""
        ino = self.tree.lookup(parent, name)
        self.tree.remember(ino)
        self.tree.drop_name(parent, name)
        if self.tree.getattr(ino).upper and not self._opens[ino] and not self.tree.names(ino, 1):
            self._files.drop(ino)
        elif self.tree.getattr(ino).upper and self.tree.names(ino, 1):
            self.refresh(ino)  # its ctime
        self.tree.forget(ino, 1)

    def rmdir(self, parent: int, name: bytes) -> None:
        upper = self._writable()
        ino = self.tree.lookup(parent, name) or fail(errno.ENOENT)
        attr = self.tree.getattr(ino)
        if not stat.S_ISDIR(attr.mode):
            fail(errno.ENOTDIR)
        if self.tree.readdir(ino, 0, 1):
            fail(errno.ENOTEMPTY)
        self._copy.directory(parent)
        path = self._copy.child(parent, name)
        if not attr.upper:
            upper.whiteout(path)
        elif self.tree.is_lower_name(parent, name):
            upper.replace_dir_by_whiteout(path)
        else:
            upper.discard(upper.take_out(path))
        self.tree.drop_name(parent, name)
        self.refresh(parent)

    def rename(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int) -> None:
        self._writable()
        if len(new_name) > 255:
            fail(errno.ENAMETOOLONG)
        self._renamer.rename(parent, name, to, new_name, flags)

    # ---- files ----------------------------------------------------------------------------

    def open(self, ino: int, flags: int) -> None:
        """Counts the file as open; every open has one release."""
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            self._writable()
        if flags & os.O_TRUNC:
            self.setattr(ino, Change(size=0, mtime_ns=time.time_ns()))
        self._opens[ino] += 1

    def create(self, parent: int, name: bytes, mode: int, caller: Caller) -> int:
        ino = self.mknod(parent, name, stat.S_IFREG | mode & 0o7777, 0, caller)
        self._opens[ino] += 1
        return ino

    def release(self, ino: int) -> None:
        self._opens[ino] -= 1
        if self._opens[ino] > 0:
            return
        del self._opens[ino]
        if self.upper and not self.tree.names(ino, 1) and self.tree.getattr(ino).upper:
            self._files.drop(ino)
            self._drop_orphan(ino)

    def write(self, ino: int, offset: int, data: bytes) -> int:
        self._writable()
        self._copy.node(ino)
        fd = self._files.get(ino)
        done = 0
        view = memoryview(data)
        while done < len(data):
            done += os.pwrite(fd, view[done:], offset + done)
        st = os.fstat(fd)
        self.tree.set_attr(
            ino,
            size=st.st_size,
            mtime_ns=st.st_mtime_ns,
            ctime_ns=st.st_ctime_ns,
            blocks=st.st_blocks,
        )
        return done

    def fsync(self, ino: int, data_only: bool) -> None:
        if self.upper and self.tree.getattr(ino).upper:
            (os.fdatasync if data_only else os.fsync)(self._files.get(ino))

    def fsync_dir(self, ino: int) -> None:
        attr = self.tree.getattr(ino)
        if self.upper and attr.upper and attr.nlink:
            with self.upper.at(self._copy.path(ino)) as (at, rest):
                fd = os.open(rest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    # ---- attributes -----------------------------------------------------------------------

    def setattr(self, ino: int, change: Change) -> None:
        """chown, chmod, utimens and truncate, which the kernel has allowed; it asks for the loss of
        set-id bits and capabilities by itself."""
        upper = self._writable()
        attr = self.tree.getattr(ino)
        if not attr.upper and change == Change(mtime_ns=attr.mtime_ns):
            # Caching writes, the kernel sends the times of every file whose ctime changed, as when
            # a name was taken away: no reason to bring the file up.
            return
        if change.size is None and not self._has_object(ino, attr):
            self._set_in_tree(ino, change)
            return
        if change.size is not None:
            self._set_size(ino, attr, change.size)
        self._copy.node(ino)
        with self._copy.place(ino) as (at, rest):
            if (change.mode, change.uid, change.gid) != (None, None, None):
                now = self.tree.getattr(ino)
                uid = now.uid if change.uid is None else change.uid
                gid = now.gid if change.gid is None else change.gid
                mode = stat.S_IMODE(now.mode if change.mode is None else change.mode)
                upper.give(at, rest, Owner(uid, gid, mode))
            if change.atime_ns is not None or change.mtime_ns is not None:
                st = os.stat(rest, dir_fd=at, follow_symlinks=False)
                atime = st.st_atime_ns if change.atime_ns is None else change.atime_ns
                mtime = st.st_mtime_ns if change.mtime_ns is None else change.mtime_ns
                os.utime(rest, ns=(atime, mtime), dir_fd=at, follow_symlinks=False)
        acl = self.tree.getxattr(ino, ACL_ACCESS)
        self.refresh(ino, acls=acl is not None)  # chmod changes an ACL's mask

    def _set_size(self, ino: int, attr: _native.Attr, size: int) -> None:
        if not stat.S_ISREG(attr.mode):
            fail(errno.EINVAL)
        self._copy.node(ino, size)
        if size != attr.size:
            # To the size it has: the kernel, whose times count while it caches writes,
            # leaves the file's time alone, so the upper's must stay too.
            os.ftruncate(self._files.get(ino), size)

    def _has_object(self, ino: int, attr: _native.Attr) -> bool:
        """Whether an attribute has a place to go to. The kernel sends the times of a file that was
        just unlinked: nothing is to be copied up, or left in the work directory, for that."""
        return ino == 1 or bool(self.tree.names(ino, 1)) or (attr.upper and self._opens[ino] > 0)

    def _set_in_tree(self, ino: int, change: Change) -> None:
        given = {k: v for k, v in vars(change).items() if v is not None}
        self.tree.set_attr(ino, **given)

    def setxattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Sets an xattr; None removes it (ENODATA when it is not there)."""
        upper = self._writable()
        if value is None and self.tree.getxattr(ino, name) is None:
            fail(errno.ENODATA)
        if not self._has_object(ino, self.tree.getattr(ino)):
            self.tree.setxattr(ino, name, value)
            return
        self._copy.node(ino)
        with self._copy.place(ino) as (at, rest):
            if value is None:
                upper.remove_xattr(at, rest, name)
            else:
                upper.set_xattr(at, rest, name, value)
        if name in (ACL_ACCESS, ACL_DEFAULT):
            self.refresh(ino, acls=True)  # an ACL and the mode are one thing
        else:
            self.tree.setxattr(ino, name, value)
            self.refresh(ino)
