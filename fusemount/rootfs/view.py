"""Law: the running file system, layers and upper as one view; nothing of FUSE is used here.

A request comes through one of two doors.  The threads of the fast path call native/upper/change.h,
which does what one system call completes.  The methods here call the same functions; if these
decline, the methods copy up what is needed and call them again; if they decline again, the methods
do the operation themselves in several steps.

The lock `change` makes each operation one step for all others, from either door; only data are
copied without it.  The upper is changed first, then the tree; an operation that fails in the upper
has changed neither.  Errors are OSError with the errno for the caller.

A file that loses its last name while the kernel knows it becomes an orphan: it moves to the work
directory until the kernel forgets it.  There are no file handles, so any known file may be open.

Any thread may call any method.  Some methods copy data first; bytes_to_copy returns how much.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import time

from fusemount import _native
from fusemount.dataclass import dataclass
from fusemount.rootfs.attributes import Attributes, keep_ctime, same_owner, without_set_id
from fusemount.rootfs.copyup import CopyUp
from fusemount.rootfs.firstmount import start_upper
from fusemount.rootfs.harmless import AS_THEY_ARE, Harmless
from fusemount.rootfs.leases import LeaseBreaker
from fusemount.rootfs.loaded import nothing_loaded
from fusemount.rootfs.make import Maker, New
from fusemount.rootfs.names import Names
from fusemount.rootfs.rename import Renamer
from fusemount.rootfs.repair import Repairer
from fusemount.rootfs.request import ROOT_CALLER, AttrChange, Caller
from fusemount.rootfs.staging import RENAME_WHITEOUT
from fusemount.rootfs.upper import Upper
from fusemount.rootfs.writer import Writer, check_done, fail

_MOST_DESCRIPTORS, _FEWEST_DESCRIPTORS = 4096, 64


@dataclass(frozen=True)
class UpperOptions:
    """How an upper is used.

    metacopy: attributes of a file may be copied up without its data.  redirect: directories of the
    layers are renamed by a redirect; metacopy needs this too.  None: yes, if the kernel's overlayfs
    follows such marks, which it does in `trusted.overlay.` only.  A program that reads the upper as
    plain files needs both off.  volatile: nothing is synced.  harmless: which powers are in marks.
    """

    metacopy: bool | None = None
    redirect: bool | None = None
    volatile: bool = False
    harmless: Harmless = AS_THEY_ARE


def kept_descriptors() -> int:
    """How many descriptors of upper files stay open: a quarter of the process's limit, between
    _FEWEST_ and _MOST_DESCRIPTORS."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    quarter = _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft // 4
    return max(_FEWEST_DESCRIPTORS, min(_MOST_DESCRIPTORS, quarter))


class RootFs:
    """A merged tree and an upper, if there is one.

    tree: sealed.  read_only: every change is refused; an upper is only read.  native: the C core's
    side of the upper, which the fast path uses too; leases: opens its files for commands that read
    them all; both None without an upper.  close() leaves the
    upper ready for the next mount; no thread may use native then.
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
        """fits: the layers are certainly the upper's base.  adopted: the upper may have been over
        other layers."""
        self.tree, self.upper = tree, upper
        self.read_only = read_only or upper is None
        self.native: _native.UpperFiles | None = None
        self.leases: LeaseBreaker | None = None
        self.loaded, self.fits, self.adopted = nothing_loaded(), fits, False
        # close() keeps the ctimes for the next mount (ctimes.py); false until programs see some.
        self.keeps_ctimes = False
        if upper is None:
            return
        self.loaded = loaded = start_upper(tree, upper, adopted=adopted, read_only=self.read_only)
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
        self.leases = LeaseBreaker(native, writes=not self.read_only)
        self._copy = CopyUp(
            tree, upper, native, loaded.redirects,
            metacopy=metacopy and redirect, sync=not options.volatile,
        )  # fmt: skip
        self._writer = Writer(tree, upper, native, self._copy)
        self._attributes = Attributes(self._writer)
        self._maker = Maker(tree, upper, native)
        self._names = Names(tree, upper, native)
        self._renamer = Renamer(tree, upper, native, self._copy, redirect=redirect)
        if not self.read_only:
            repairer = Repairer(tree, upper, native, self._copy, self.leases, fits=fits)
            repairer.repair(loaded.repairs)

    def close(self) -> None:
        if self.upper is None or self.native is None:
            return
        self._copy.retry_times()
        if self.keeps_ctimes and not self.read_only:
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
        """statvfs(3) of the upper's file system; None when there is no upper."""
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
        """The kernel has forgotten a node `count` times (lookup count)."""
        (self.native or self.tree).forget(ino, count)

    def lives(self, ino: int) -> bool:
        """Whether the node still exists."""
        try:
            self.tree.getattr(ino)
        except OSError:
            return False
        return True

    # ---- copy-up --------------------------------------------------------------------------

    def _writable(self) -> Writer:
        """Raises OSError with EROFS if nothing may be changed."""
        if self.native is None or self.read_only:
            fail(errno.EROFS)
        return self._writer

    def bytes_to_copy(self, ino: int) -> int:
        """How many bytes a change of a file's data copies first; without metacopy, any change."""
        return self._copy.bytes_in_layers(ino) if self.native else 0

    def needs_data(self, ino: int) -> bool:
        """Whether a change of a file's attributes copies up its data too."""
        return self.native is not None and self._copy.needs_data(ino)

    @property
    def metacopy(self) -> bool:
        return self.native is not None and self._copy.metacopy

    def copy_up_data(self, ino: int) -> None:
        """Copies a node up with its data, so that it can be written."""
        self._writable()
        self._copy.with_data(ino)

    def copy_up(self, ino: int) -> None:
        """Copies a node up, with its data only if they cannot stay in the layers."""
        self._writable().copy_data_if_needed(ino)
        with self._writable().locked():
            self._copy.node(ino)

    # ---- names ----------------------------------------------------------------------------

    def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller, target: bytes = b""
    ) -> int:
        """Makes any object and returns its nodeid; mode has its type, target is for a symlink."""
        ids = (*self.tree.stored(caller.uid, caller.gid), caller.umask)
        with self._writable().locked() as core:
            ino = core.make(parent, name, mode, rdev, *ids, target)
            if ino is None:
                self._copy.directory(parent)
                ino = core.make(parent, name, mode, rdev, *ids, target)
            if ino is None:
                ino = self._maker.make(parent, name, New(mode, rdev, *ids, target))
                self._writer.refresh(parent)
            return ino

    def create(self, parent: int, name: bytes, mode: int, caller: Caller) -> int:
        return self.mknod(parent, name, stat.S_IFREG | mode & 0o7777, 0, caller)

    def link(self, ino: int, parent: int, name: bytes) -> None:
        self._writable().copy_data_if_needed(ino)
        with self._writable().locked() as core:
            if not core.link(ino, parent, name):
                self._copy.directory(parent)
                self._copy.node(ino)
                check_done(core.link(ino, parent, name))

    def unlink(self, parent: int, name: bytes) -> None:
        with self._writable().locked() as core:
            if not core.unlink(parent, name):
                self._copy.directory(parent)
                check_done(core.unlink(parent, name))

    def rmdir(self, parent: int, name: bytes) -> None:
        with self._writable().locked() as core:
            if not core.rmdir(parent, name):
                self._copy.directory(parent)
                if not core.rmdir(parent, name):
                    self._names.remove_dir(parent, name)
                    self._writer.refresh(parent)

    def rename(
        self,
        parent: int,
        name: bytes,
        to: int,
        new_name: bytes,
        flags: int,
        caller: Caller = ROOT_CALLER,
    ) -> None:
        """renameat2(2).  RENAME_WHITEOUT leaves a character device 0:0 of the caller's at the old
        name, as on other file systems, but here the rename is one step and the device another."""
        whiteout, flags = flags & RENAME_WHITEOUT, flags & ~RENAME_WHITEOUT
        while not self._rename(parent, name, to, new_name, flags):
            for where in ((parent, name), (to, new_name)):
                if ino := self.lookup(*where):
                    self._renamer.copy_data(ino)
        if whiteout:
            self.mknod(parent, name, stat.S_IFCHR, 0, caller)

    def _rename(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int) -> bool:
        """False when data have to be copied first."""
        with self._writable().locked() as core:
            if core.rename(parent, name, to, new_name, flags):
                return True
            if not self._renamer.needs_no_copy(parent, name, to, new_name, flags):
                return False
            for changed in self._renamer.rename(parent, name, to, new_name, flags):
                self._writer.refresh(changed)
            return True

    # ---- files ----------------------------------------------------------------------------

    def open(self, ino: int, flags: int, caller: Caller = ROOT_CALLER) -> None:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            self._writable()
        if flags & os.O_TRUNC:
            self.setattr(ino, AttrChange(size=0, mtime_ns=time.time_ns()), caller)

    def write(self, ino: int, offset: int, data: bytes) -> int:
        core = self._writable().native
        written = core.write(ino, offset, data)
        if written is None:
            self.copy_up_data(ino)
            written = core.write(ino, offset, data)
        return fail(errno.EIO) if written is None else written

    def fsync(self, ino: int, data_only: bool) -> None:
        """Syncs a file or a directory; data_only: as fdatasync(2)."""
        if self.native:
            self.native.sync(ino, data_only)

    # ---- attributes -----------------------------------------------------------------------

    def setattr(self, ino: int, change: AttrChange, caller: Caller = ROOT_CALLER) -> None:
        """chown, chmod, utimens and truncate, which the kernel has allowed."""
        self._writable()
        self._attributes.setattr(ino, change, caller)

    def same_owner(self, ino: int, caller: int) -> AttrChange:
        return same_owner(self.tree, ino, caller)

    def without_set_id(self, ino: int, caller: Caller) -> AttrChange:
        return without_set_id(self.tree, ino, caller)

    def keep_ctime(self, ino: int, ctime_ns: int) -> None:
        keep_ctime(self.tree, ino, ctime_ns)

    def setxattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Sets an xattr; None removes it."""
        self._writable()
        self._attributes.setxattr(ino, name, value)
