"""Law: the running file system, layers and upper as one; it knows no FUSE.

An operation has two doors: the fast path's threads call native/upper/change.c for what one system
call completes, and the methods here call the same, bring up what it declines (copy-up) and call it
once more; what takes more steps even then is done here.  One lock, `change`, makes each operation
one step to all others, whoever asks; data are copied up without it.  First the upper is changed,
then the tree; what fails in the upper has changed neither.  Errors are OSError with the errno that
the caller is to see.

A file that loses its last name while the kernel knows it moves to the work directory, and stays
there until it is forgotten: there are no handles, any file that is known may be open.

Any thread may call any method.  What may copy much data takes its time: bytes_to_copy says so.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

from fusemount import _native
from fusemount.beneath import trusted
from fusemount.dataclass import dataclass
from fusemount.rootfs.copyup import CopyUp
from fusemount.rootfs.harmless import AS_THEY_ARE, CAPABILITY, Harmless
from fusemount.rootfs.loaded import Loaded, nothing_loaded
from fusemount.rootfs.make import Maker, New
from fusemount.rootfs.names import Names, changing
from fusemount.rootfs.objects import ACL_ACCESS, ACL_DEFAULT, Owner
from fusemount.rootfs.rename import Renamer
from fusemount.rootfs.repair import Mender
from fusemount.rootfs.upper import RENAME_WHITEOUT, Upper
from fusemount.rootfs.upperload import load_upper, set_xattrs

_MOST_DESCRIPTORS, _FEWEST_DESCRIPTORS = 4096, 64


@dataclass(frozen=True)
class Caller:
    """Who asks. The umask is applied to new objects where no default ACL takes its place; pid, as
    we see it (0: we do not), leads to supplementary groups (native/upper/caller.h)."""

    uid: int
    gid: int
    umask: int = 0
    pid: int = 0


_ROOT_USER = Caller(0, 0)


@dataclass(frozen=True)
class AttrChange:
    """What SETATTR is to change; None leaves a field alone. Times in ns, mode the 07777 part."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True)
class UpperOptions:
    """How an upper is used.

    metacopy: attributes of a file may come up without its data; redirect: directories of the layers
    are renamed by a redirect, which metacopy needs too; None: where the kernel's overlayfs follows
    what is marked so, which it does not in `user.overlay.`.  Who reads the upper as plain files
    wants neither.  volatile: nothing is synced.  harmless: what of it stands in marks.
    """

    metacopy: bool | None = None
    redirect: bool | None = None
    volatile: bool = False
    harmless: Harmless = AS_THEY_ARE


def fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


def _is_a_strangers(fd: int) -> bool:
    """A directory of neither root's nor the caller's nor of who owns the directory above it, who
    may well have made it for a mount with sudo."""
    uid = os.fstat(fd).st_uid
    return not trusted(uid) and uid != os.stat("..", dir_fd=fd, follow_symlinks=False).st_uid


def kept_descriptors() -> int:
    """Of upper files: a quarter of what the process may have, and not more than are of use."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    quarter = _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft // 4
    return max(_FEWEST_DESCRIPTORS, min(_MOST_DESCRIPTORS, quarter))


class RootFs:
    """A merged tree and an upper, if there is one.

    tree: sealed.  read_only: every change is refused, and an upper is only shown.  native: the
    upper as the fast path uses it, None without an upper.  close() leaves the upper ready for the
    next mount; nobody else may be using native then.
    """

    def __init__(
        self,
        tree: _native.Tree,
        upper: Upper | None,
        *,
        read_only: bool = False,
        options: UpperOptions = UpperOptions(),  # noqa: B008 (frozen)
        fits: bool = True,
        adopted: bool = False,
    ) -> None:
        """fits: the layers are certainly those that the upper belongs to.  adopted: it may have
        been made over others."""
        self.tree = tree
        self.upper = upper
        self.read_only = read_only or upper is None
        self.native: _native.UpperFiles | None = None
        self.loaded, self.fits, self.adopted = nothing_loaded(), fits, False
        self.told = False  # anything to programs: else the work directory is left as it was
        if upper is None:
            return
        self.loaded = loaded = self._start(upper, adopted)
        self.adopted = adopted and not loaded.fresh
        redirect = upper.privileged if options.redirect is None else options.redirect
        metacopy = upper.privileged if options.metacopy is None else options.metacopy
        native = self.native = _native.UpperFiles(
            tree,
            upper.fd,
            upper.work_fd,
            read_only=self.read_only,
            owners=upper.privileged,
            max_fds=kept_descriptors(),
            no_sync=options.volatile,
            inodes_last=upper.inodes_last,
            harmless_files=upper.harmless.files,
            harmless_devices=upper.harmless.devices,
        )
        self._copy = CopyUp(
            tree, upper, native, loaded.redirects,
            metacopy=metacopy and redirect, sync=not options.volatile,
        )  # fmt: skip
        self._maker = Maker(tree, upper, native)
        self._names = Names(tree, upper, native)
        self._renamer = Renamer(tree, upper, native, self._copy, redirect=redirect)
        if not self.read_only:
            Mender(tree, upper, native, self._copy, fits).mend(loaded.repairs)

    def _start(self, upper: Upper, adopted: bool) -> Loaded:
        """A new upper takes on the root's attributes, unless it is a stranger's; one that was used
        before is laid over."""
        fresh = upper.mark(upper.fd, b".", b"imgmount") is None and not os.listdir(upper.fd)
        if not fresh:
            return load_upper(self.tree, upper, adopted=adopted)
        if not self.read_only and _is_a_strangers(upper.fd):
            upper.set_mark(upper.fd, b".", b"imgmount", b"1")
            return replace(load_upper(self.tree, upper), fresh=True)
        if not self.read_only:
            self._begin(upper)
        return nothing_loaded()

    def _begin(self, upper: Upper) -> None:
        attr = self.tree.getattr(1)
        upper.give(upper.fd, b".", Owner(attr.uid, attr.gid, stat.S_IMODE(attr.mode)))
        for name, value in self.tree.xattrs(1).items():
            upper.set_xattr(upper.fd, b".", name, value)
        upper.set_mark(upper.fd, b".", b"imgmount", b"1")
        os.utime(upper.fd, ns=(attr.atime_ns, attr.mtime_ns))
        self.tree.set_attr(1, upper=True, object=os.fstat(upper.fd).st_ino)

    def close(self) -> None:
        if self.upper is None or self.native is None:
            return
        self._copy.retry_times()
        if self.told and not self.read_only:
            self.upper.keep_ctimes(self.tree.ctimes())
        self.native.close()
        if self.upper.work_fd >= 0:
            for left in map(os.fsencode, os.listdir(self.upper.work_fd)):
                if left.startswith(b"orphan-"):
                    os.unlink(left, dir_fd=self.upper.work_fd)
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
        attr = self.tree.getattr(ino)
        if self.native is None or not attr.upper or attr.meta:
            return self.tree.read(ino, offset, size)
        fd = self.native.pin(ino)
        try:
            return os.pread(fd, size, offset)
        finally:
            self.native.unpin(ino)

    def forget(self, ino: int, count: int) -> None:
        """The kernel has forgotten so many look-ups."""
        (self.native or self.tree).forget(ino, count)

    def lives(self, ino: int) -> bool:
        try:
            self.tree.getattr(ino)
        except OSError:
            return False
        return True

    # ---- the upper's side -----------------------------------------------------------------

    def _writable(self) -> _native.UpperFiles:
        if self.native is None or self.read_only:
            fail(errno.EROFS)
        return self.native

    @contextmanager
    def _changing(self) -> Iterator[_native.UpperFiles]:
        """The door to native/upper/change.c, and nobody else changes anything."""
        door = self._writable()
        with changing(door):
            self._copy.retry_times()
            yield door

    def bytes_to_copy(self, ino: int) -> int:
        """How many bytes a change of a file's data (without metacopy: any change) copies first."""
        return self._copy.bytes_below(ino) if self.native else 0

    def moves_data(self, ino: int) -> bool:
        """Whether a change of its attributes brings up its data too."""
        return self.native is not None and self._copy.needs_data(ino)

    @property
    def metacopy(self) -> bool:
        return self.native is not None and self._copy.metacopy

    def prepare(self, ino: int) -> None:
        """Brings a node up whole, so that it can be written."""
        self._writable()
        self._copy.whole(ino)

    def bring_up(self, ino: int) -> None:
        """Brings a node up, its data if they cannot stay below."""
        self._with_attributes(ino)
        with self._changing():
            self._copy.node(ino)

    def _with_attributes(self, ino: int) -> None:
        """Before the lock: where attributes cannot come up alone, data are copied without it."""
        self._writable()
        if self._has_object(ino) and self._copy.needs_data(ino):
            self._copy.whole(ino)

    def _refresh(self, ino: int, acls: bool = False) -> None:
        """The tree takes over what the upper's object now says; of a file not size and mtime, which
        belong to who writes it, perhaps in another thread just now."""
        assert self.upper is not None
        with self._copy.place(ino) as (at, rest):
            st = os.fstat(at)
            owner = self.upper.owner(at, rest, st)
            xattrs = self.upper.xattrs(at, rest) if acls else None
        self.tree.set_attr(
            ino,
            mode=owner.mode,
            uid=owner.uid,
            gid=owner.gid,
            atime_ns=st.st_atime_ns,
            ctime_ns=st.st_ctime_ns,
        )
        if not stat.S_ISREG(self.tree.getattr(ino).mode):
            self.tree.set_attr(ino, mtime_ns=st.st_mtime_ns)
        if xattrs is not None:
            set_xattrs(self.tree, ino, xattrs)

    # ---- names ----------------------------------------------------------------------------

    def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller, target: bytes = b""
    ) -> int:
        """Makes any object; mode has its type, target is a symlink's. Returns the nodeid."""
        who = (*self.tree.stored(caller.uid, caller.gid), caller.umask)
        with self._changing() as door:
            ino = door.make(parent, name, mode, rdev, *who, target)
            if ino is None:
                self._copy.directory(parent)
                ino = door.make(parent, name, mode, rdev, *who, target)
            if ino is None:
                ino = self._maker.make(parent, name, New(mode, rdev, *who, target))
                self._refresh(parent)
            return ino

    def create(self, parent: int, name: bytes, mode: int, caller: Caller) -> int:
        return self.mknod(parent, name, stat.S_IFREG | mode & 0o7777, 0, caller)

    def link(self, ino: int, parent: int, name: bytes) -> None:
        self._with_attributes(ino)
        with self._changing() as door:
            if not door.link(ino, parent, name):
                self._copy.directory(parent)
                self._copy.node(ino)
                _done(door.link(ino, parent, name))

    def unlink(self, parent: int, name: bytes) -> None:
        with self._changing() as door:
            if not door.unlink(parent, name):
                self._copy.directory(parent)
                _done(door.unlink(parent, name))

    def rmdir(self, parent: int, name: bytes) -> None:
        with self._changing() as door:
            if not door.rmdir(parent, name):
                self._copy.directory(parent)
                if not door.rmdir(parent, name):
                    self._names.remove_dir(parent, name)
                    self._refresh(parent)

    def rename(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int) -> None:
        """renameat2(2). After RENAME_WHITEOUT a character device 0:0 stands at the old name, as on
        other file systems: the rename is one step, the device another."""
        whiteout, flags = flags & RENAME_WHITEOUT, flags & ~RENAME_WHITEOUT
        while not self._rename(parent, name, to, new_name, flags):
            for place in ((parent, name), (to, new_name)):
                if ino := self.lookup(*place):
                    self._renamer.prepare(ino)
        if whiteout:
            self.mknod(parent, name, stat.S_IFCHR, 0, Caller(0, 0))

    def _rename(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int) -> bool:
        """False when data have to be copied first."""
        with self._changing() as door:
            if door.rename(parent, name, to, new_name, flags):
                return True
            if not self._renamer.is_prepared(parent, name, to, new_name, flags):
                return False
            for changed in self._renamer.rename(parent, name, to, new_name, flags):
                self._refresh(changed)
            return True

    # ---- files ----------------------------------------------------------------------------

    def open(self, ino: int, flags: int, caller: Caller = _ROOT_USER) -> None:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            self._writable()
        if flags & os.O_TRUNC:
            self.setattr(ino, AttrChange(size=0, mtime_ns=time.time_ns()), caller)

    def write(self, ino: int, offset: int, data: bytes) -> int:
        door = self._writable()
        done = door.write(ino, offset, data)
        if done is None:
            self.prepare(ino)
            done = door.write(ino, offset, data)
        return fail(errno.EIO) if done is None else done

    def fsync(self, ino: int, data_only: bool) -> None:
        """Of a file or a directory."""
        if self.native:
            self.native.sync(ino, data_only)

    # ---- attributes -----------------------------------------------------------------------

    def setattr(self, ino: int, change: AttrChange, caller: Caller = _ROOT_USER) -> None:
        """chown, chmod, utimens and truncate, which the kernel has allowed.

        A change of size or owner takes set-id bits as it does for that caller.
        """
        resized = False
        if not self._nothing_new(ino, change):
            resized = self._bring_up_for(ino, change)
        with self._changing() as door:
            if resized and change.mtime_ns is None:
                # only so much was copied, so that nothing is cut off any more
                change = replace(change, mtime_ns=time.time_ns())
            if resized and self.tree.getattr(ino).meta:  # cut, but the layers have its data still
                change = replace(change, size=None)
            try:
                if _set(door, ino, change, caller):
                    return
            except OSError:
                if not resized or change.mtime_ns is None:
                    raise
                # it is cut already, which cannot be taken back
                self.tree.set_attr(ino, mtime_ns=change.mtime_ns)
                return
            self._copy.node(ino)
            if _set(door, ino, change, caller):
                return
            self._give(ino, change, caller)
            rest = replace(change, mode=None, uid=None, gid=None)
            _done(rest == AttrChange() or _set(door, ino, rest, caller))

    def same_owner(self, ino: int, caller: int) -> AttrChange:
        """What chown(2) to nobody is to do: as one to the owner it has (set-id bits, ctime), if
        the caller may; nothing to what the upper does not have."""
        attr = self.tree.getattr(ino)
        if not self._has_object(ino) or caller not in (0, self.tree.shown(attr.uid, attr.gid)[0]):
            return AttrChange()
        return AttrChange(uid=attr.uid, gid=attr.gid)

    def without_set_id(self, ino: int, caller: Caller) -> AttrChange:
        """What a write, which the kernel is about to send, takes before."""
        now = self.tree.getattr(ino)
        group = self.tree.shown(now.uid, now.gid)[1]
        lost = _native.caller_loses((caller.uid, caller.gid, caller.pid), now.mode, group)
        return AttrChange(mode=stat.S_IMODE(now.mode) & ~lost) if lost else AttrChange()

    def keep_ctime(self, ino: int, ctime_ns: int) -> None:
        """The kernel's word of a file's ctime: it caches writes and keeps that time itself, so what
        it asks for after it dropped the inode must be what it had."""
        if stat.S_ISREG(self.tree.getattr(ino).mode):
            self.tree.set_attr(ino, ctime_ns=ctime_ns)

    def _nothing_new(self, ino: int, change: AttrChange) -> bool:
        """The kernel's word of an mtime that it had from us (after unlink and link)."""
        return change == AttrChange(mtime_ns=change.mtime_ns) and change.mtime_ns in (
            None, self.tree.getattr(ino).mtime_ns)  # fmt: skip

    def _bring_up_for(self, ino: int, change: AttrChange) -> bool:
        """Before the lock. True when a file came up shorter than it was."""
        if change.size is None:
            self._with_attributes(ino)
            return False
        attr = self.tree.getattr(ino)
        if not stat.S_ISREG(attr.mode) or not self._copy.bytes_below(ino):
            return False
        self._writable()
        mtime = time.time_ns() if change.mtime_ns is None else change.mtime_ns
        self._copy.whole(ino, change.size, mtime if change.size < attr.size else None)
        return self.tree.getattr(ino).size == change.size < attr.size

    def _give(self, ino: int, change: AttrChange, caller: Caller) -> None:
        """chown and chmod of what has an ACL, or where owners are kept beside the object."""
        assert self.upper is not None
        now = self.tree.getattr(ino)
        mode = stat.S_IMODE(now.mode) if change.mode is None else change.mode
        chown = (change.uid, change.gid) != (None, None) and not stat.S_ISDIR(now.mode)
        if chown and change.mode is None:  # as chown(2) does
            who = (caller.uid, caller.gid, caller.pid)
            mode &= ~_native.caller_loses(who, mode, self.tree.shown(now.uid, now.gid)[1])
        uid = now.uid if change.uid is None else change.uid
        gid = now.gid if change.gid is None else change.gid
        with self._copy.place(ino) as (at, rest):
            if chown and self.tree.getxattr(ino, CAPABILITY) is not None:
                self.upper.remove_xattr(at, rest, CAPABILITY)
                self.tree.setxattr(ino, CAPABILITY, None)
            self.upper.give(at, rest, Owner(uid, gid, mode))
        # chmod changes an ACL's mask
        self._refresh(ino, acls=self.tree.getxattr(ino, ACL_ACCESS) is not None)

    def setxattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Sets an xattr; None removes it (ENODATA when it is not there, but for an ACL that is
        not there: to remove it is to have the mode alone, as on ext4)."""
        absent = value is None and self.tree.getxattr(ino, name) is None
        if absent and name in (ACL_ACCESS, ACL_DEFAULT):
            return
        self._with_attributes(ino)
        with self._changing():
            if value is None and self.tree.getxattr(ino, name) is None:
                if name in (ACL_ACCESS, ACL_DEFAULT):
                    return  # as other file systems have it, whose set_acl removes what is not there
                fail(errno.ENODATA)
            if self._has_object(ino):
                self._copy.node(ino)
                self._store_xattr(ino, name, value)
            else:
                self.tree.setxattr(ino, name, value)

    def _has_object(self, ino: int) -> bool:
        """Or can have one: what was removed, and is only known, is not brought up for this."""
        attr = self.tree.getattr(ino)
        named = ino == 1 or bool(self.tree.names(ino, 1))
        return named or (attr.upper and not stat.S_ISDIR(attr.mode))

    def _store_xattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        assert self.upper is not None
        with self._copy.place(ino) as (at, rest):
            if value is None:
                self.upper.remove_xattr(at, rest, name)
            else:
                self.upper.set_xattr(at, rest, name, value)
        if name in (ACL_ACCESS, ACL_DEFAULT):
            self._refresh(ino, acls=True)  # an ACL and the mode are one thing
        else:
            self.tree.setxattr(ino, name, value)
            self._refresh(ino)


def _set(door: _native.UpperFiles, ino: int, c: AttrChange, caller: Caller) -> bool:
    who, kill = (caller.uid, caller.gid, caller.pid), not _native.caller_keeps_set_id(caller.uid)
    return door.setattr(ino, c.mode, c.uid, c.gid, c.size, c.atime_ns, c.mtime_ns, who, kill)


def _done(done: bool) -> None:
    """native/upper/change.h declines nothing more once all that it wants is in the upper."""
    if not done:
        fail(errno.EIO)
