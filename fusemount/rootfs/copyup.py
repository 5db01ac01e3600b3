"""Law: how an object of the layers comes into the upper; the tree says what, the upper where.

Crash rules.  A process that ends between any two system calls leaves an upper that both we and the
kernel's overlayfs mount, and that shows the old or the new state of what was going on:

    C1  An object is made in the work directory, complete, and comes up by one rename.  What is left
        in the work directory means nothing and is removed at the next start.
    C2  The directories on its way come up first, outermost first, each by C1.
    C3  Data are synced before the rename that shows them (not with `volatile`).
    C4  Of a file that only changes its attributes or names these come up alone ("metacopy", a file
        with a hole of the right size).  Its data follow when they are written to: into that object,
        synced, and then the mark goes, in one step.  Until then the layers' data are shown,
        whatever the object holds, as far as its size.  What writing takes from it (times,
        security.capability, set-id bits) stands in the mark `imgmount.held` meanwhile.
    C5  A set of hardlinks comes up as a whole, so that it stays one file for the kernel's overlayfs
        too: the object is linked name by name.  Each says which file of the layers it is (mark
        `imgmount.origin`), so a set that is there in part is whole to us, and is completed at the
        next start.
    C6  A copy-up does not show: the directory's times are put back, and stand in its mark
        `imgmount.times` meanwhile.

Names that go or move are names.py's, rename.py's and native/upper/change.h's; theirs is C7: one
system call, or steps that do not show and then one.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from fusemount import _native
from fusemount.beneath import fd_path
from fusemount.rootfs.harmless import CAPABILITY
from fusemount.rootfs.heldmarks import Held, format_held
from fusemount.rootfs.names import changing, inside, moving
from fusemount.rootfs.objects import (
    HELD,
    METACOPY,
    ORIGIN,
    REDIRECT,
    Owner,
)
from fusemount.rootfs.upper import Upper

WHOLE = 2**63 - 1
LINKS_MAX = 1 << 14  # names of one file: to link so many takes about a second
_NOT_TAKEN = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP)
_REDIRECT_MAX = 1000  # bytes of a path; the kernel's own redirects end at 256 (redirect_max)
_SET_ID = stat.S_ISUID | stat.S_ISGID
_PUNCH_HOLE = 2 | 1  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h


class CopyUp:
    """Brings nodes up. Raises OSError: of the upper (ENOSPC, …) or the archive (EIO).

    The lock `change` must be held for every method, save for `whole` and `tree`, which copy data
    and take it themselves.  metacopy: attributes may come up alone.  redirects: by the nodeid of a
    directory, where the layers have it, if that is not where it shows.  sync: data are synced.
    """

    def __init__(
        self,
        tree: _native.Tree,
        upper: Upper,
        native: _native.UpperFiles,
        redirects: dict[int, bytes],
        *,
        metacopy: bool,
        sync: bool,
    ) -> None:
        self._tree, self._upper, self._native = tree, upper, native
        self.redirects = redirects
        self.metacopy = metacopy
        self._sync = sync
        self._guard = threading.Lock()
        self._times_left: set[int] = set()
        self._lines: dict[int, tuple[threading.Lock, list[None]]] = {}

    # ---- places ---------------------------------------------------------------------------

    def lower_path(self, ino: int) -> bytes:
        """Where the layers have a node that is not up, or a directory that merges with theirs."""
        parts: list[bytes] = []
        while ino != 1 and ino not in self.redirects:
            ino, name = self._tree.names(ino, 1)[0]
            parts.append(name)
        if ino != 1:
            parts.append(self.redirects[ino])
        return b"/".join(reversed(parts))

    def is_sayable(self, ino: int) -> bool:
        """Whether the marks of an object, which share one block, have room for its path."""
        return len(self.lower_path(ino)) <= _REDIRECT_MAX

    def needs_data(self, ino: int) -> bool:
        """Whether a file's attributes cannot come up alone."""
        named = ino != 1 and bool(self._tree.names(ino, 1))
        return not (self.metacopy and named and self.is_sayable(ino))

    @staticmethod
    def orphan(ino: int) -> bytes:
        """Where, in the work directory, a file without a name stands while the kernel knows it."""
        return b"orphan-%d" % ino

    @contextmanager
    def place(self, ino: int) -> Iterator[tuple[int, bytes]]:
        """(its descriptor, b""), as objects.py takes a node's object, be it in the upper or without
        a name. OSError with EIO: another object has been put in its place."""
        fd = self._native.object(ino)
        try:
            yield fd, b""
        finally:
            os.close(fd)

    # ---- directories ----------------------------------------------------------------------

    def directory(self, ino: int) -> None:
        todo = []
        while not self._tree.getattr(ino).upper:
            todo.append(ino)
            ino = self._tree.names(ino)[0][0]
        for directory in reversed(todo):
            self._one_directory(directory)

    def _one_directory(self, ino: int) -> None:
        name = self._upper.temporary()
        os.mkdir(name, 0o700, dir_fd=self._upper.work_fd)
        try:
            self._dress(name, ino)
            st = os.stat(name, dir_fd=self._upper.work_fd, follow_symlinks=False)
            parent, shown = self._tree.names(ino)[0]
            with self._unseen({parent}), inside(self._native, parent) as fd:
                self._upper.put_in(name, fd, shown)
        except OSError:
            self._upper.leave(name)
            raise
        self._tree.set_attr(ino, upper=True, object=st.st_ino)

    @contextmanager
    def _unseen(self, parents: set[int], *, done: bool = False) -> Iterator[None]:
        """What comes into these directories leaves their times as the tree has them (C6).

        done: what comes shows, and cannot be taken back: an error after it is no error of it."""
        marked: list[int] = []
        try:
            for parent in parents:
                attr = self._tree.getattr(parent)
                with self.place(parent) as (fd, rest):
                    self._upper.mark_times(fd, rest, attr.atime_ns, attr.mtime_ns)
                marked.append(parent)
            yield
        finally:
            self._restore_all_times(marked, done=done)

    def _restore_all_times(self, parents: list[int], *, done: bool) -> None:
        """All of them, whatever becomes of one; what is left is settled later."""
        failed: OSError | None = None
        for parent in parents:
            try:
                self.restore_times(parent)
            except OSError as e:
                failed = failed or e
        if failed is not None and not done:
            raise failed

    def remove_needless_whiteouts(self, parent: int, names: Sequence[bytes]) -> None:
        """Whiteouts go that hide nothing, and keep their names from being used."""
        with self._unseen({parent}):
            fd = self._native.pin(parent)
            try:
                for name in names:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=fd)
            finally:
                self._native.unpin(parent)

    def restore_times(self, ino: int) -> None:
        """A directory's times become what the tree shows."""
        attr = self._tree.getattr(ino)
        self._times_left.add(ino)
        try:
            with self.place(ino) as (fd, rest):
                self._upper.restore_times(fd, rest, attr.atime_ns, attr.mtime_ns)
        except OSError:
            self._native.reserve(True)
            raise
        self._times_left.discard(ino)

    def retry_times(self) -> None:
        """Takes away the marks of C6 that an error left: the next start would believe them, and
        what shows in such a directory must not change before."""
        if not self._times_left:
            return
        for ino in list(self._times_left):
            with suppress(OSError):
                self.restore_times(ino)
        self._native.reserve(bool(self._times_left))

    # ---- attributes -----------------------------------------------------------------------

    def node(self, ino: int) -> None:
        """Brings a node's object up; the data of a file may stay below."""
        attr = self._tree.getattr(ino)
        if attr.upper:
            return
        if stat.S_ISDIR(attr.mode):
            if self._tree.names(ino, 1):  # one that was removed has no place to come to
                self.directory(ino)
            return
        self._check_links(attr)
        staged, meta = self._upper.temporary(), False
        try:
            if stat.S_ISREG(attr.mode):
                # what has no name in the layers any more has no place that a redirect could say
                meta = attr.size > 0 and not self.needs_data(ino)
                self._make_file(staged, ino, attr, 0 if meta else WHOLE)
            elif stat.S_ISLNK(attr.mode):
                os.symlink(self._tree.readlink(ino), staged, dir_fd=self._upper.work_fd)
            else:
                kind = stat.S_IFMT(attr.mode) | 0o600
                self._upper.make_node(self._upper.work_fd, staged, kind, attr.rdev)
            self._come_up(ino, staged, meta=meta)
        except OSError:
            self._upper.leave(staged)
            raise

    def _check_links(self, attr: _native.Attr) -> None:
        """All names of a file come up in one step, which nobody may make endless; and the upper's
        file system has a limit too, at which all that work would have to be undone."""
        if attr.nlink > min(LINKS_MAX, os.fpathconf(self._upper.fd, "PC_LINK_MAX")):
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))

    def _come_up(self, ino: int, staged: bytes, *, meta: bool, mtime_ns: int | None = None) -> None:
        """A staged object, with its data if it is to have any, gets all else and its places."""
        names = self._tree.names(ino)
        for parent, _ in names:
            self.directory(parent)
        if names:
            origin = self.lower_path(ino)
            if meta:
                self._upper.set_mark(self._upper.work_fd, staged, REDIRECT, b"/" + origin)
            self._upper.try_mark(self._upper.work_fd, staged, ORIGIN, origin)
        if meta:
            self._upper.set_mark(self._upper.work_fd, staged, METACOPY, b"")
        self._dress(staged, ino, mtime_ns)
        if names:
            cut = mtime_ns is not None
            with self._unseen({parent for parent, _ in names}, done=cut):
                self._place(ino, staged, names, meta=meta)
        else:
            self._place_orphan(ino, staged, meta=meta)

    def _dress(self, name: bytes, ino: int, mtime_ns: int | None = None) -> None:
        upper, attr = self._upper, self._tree.getattr(ino)
        work = upper.work_fd
        upper.give(work, name, Owner(attr.uid, attr.gid, stat.S_IMODE(attr.mode)))
        for key, value in self._tree.xattrs(ino).items():
            # after chown, which drops security.capability
            try:
                upper.set_xattr(work, name, key, value)
            except OSError as e:
                # An xattr that the upper cannot have (a malformed ACL; without privilege
                # security.* and trusted.*) is in the tree for this mount, and must not keep the
                # file from being changed.
                if e.errno not in _NOT_TAKEN:
                    raise
        times = (attr.atime_ns, attr.mtime_ns if mtime_ns is None else mtime_ns)
        os.utime(name, ns=times, dir_fd=work, follow_symlinks=False)

    def _place(
        self, ino: int, staged: bytes, names: Sequence[tuple[int, bytes]], *, meta: bool
    ) -> None:
        st = os.stat(staged, dir_fd=self._upper.work_fd, follow_symlinks=False)
        (parent, name), *others = names
        linked: list[tuple[int, bytes]] = []
        try:
            for other in others:
                with inside(self._native, other[0]) as fd:
                    self._upper.link_in(staged, fd, other[1])
                linked.append(other)
            with inside(self._native, parent) as fd:
                self._upper.put_in(staged, fd, name)
        except OSError:
            for above, there in linked:
                with suppress(OSError), inside(self._native, above) as fd:
                    os.unlink(there, dir_fd=fd)
            raise
        self._is_up(ino, st, meta=meta)

    def complete_links(self, ino: int, missing: Sequence[tuple[int, bytes]]) -> None:
        """Gives a set of hardlinks that came up in part (C5) the names that it lacks."""
        for parent, name in missing:
            self.directory(parent)
            staged = self._upper.temporary()
            with self.place(ino) as (fd, _), self._unseen({parent}):
                os.link(fd_path(fd), staged, dst_dir_fd=self._upper.work_fd, follow_symlinks=True)
                with inside(self._native, parent) as above:
                    self._upper.put_in(staged, above, name)

    def _place_orphan(self, ino: int, staged: bytes, *, meta: bool) -> None:
        work, orphan = self._upper.work_fd, self.orphan(ino)
        st = os.stat(staged, dir_fd=work, follow_symlinks=False)
        with moving(self._native):
            os.rename(staged, orphan, src_dir_fd=work, dst_dir_fd=work)
            try:
                self._is_up(ino, st, meta=meta)
            except OSError:  # forgotten meanwhile
                os.unlink(orphan, dir_fd=work)
                raise

    def _is_up(self, ino: int, st: os.stat_result, *, meta: bool) -> None:
        """In one step to who reads the tree. The size is of what was copied."""
        if not stat.S_ISREG(st.st_mode) or meta:
            self._tree.set_attr(ino, upper=True, meta=meta, object=st.st_ino)
        else:
            self._tree.set_attr(
                ino, upper=True, size=st.st_size, blocks=st.st_blocks, mtime_ns=st.st_mtime_ns,
                object=st.st_ino,
            )  # fmt: skip

    # ---- data -----------------------------------------------------------------------------

    def bytes_below(self, ino: int) -> int:
        """How many bytes `whole` would copy; an unknown node has none."""
        try:
            attr = self._tree.getattr(ino)
        except OSError:
            return 0
        below = stat.S_ISREG(attr.mode) and (not attr.upper or attr.meta)
        return attr.size if below else 0

    def whole(self, ino: int, size: int = WHOLE, mtime_ns: int | None = None) -> None:
        """Brings a node up with its data, of a file only the first size bytes; mtime_ns: and with
        this time, since cutting a file shows. It may come whole nevertheless.

        The lock `change` is not held, and data are copied without it: others go on meanwhile.
        """
        with self._one_at_a_time(ino):
            while self._step(ino, size, mtime_ns):
                pass

    @contextmanager
    def _one_at_a_time(self, ino: int) -> Iterator[None]:
        with self._guard:
            lock, waiting = self._lines.setdefault(ino, (threading.Lock(), []))
            waiting.append(None)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                waiting.pop()
                if not waiting:
                    del self._lines[ino]

    def _step(self, ino: int, size: int, mtime_ns: int | None) -> bool:
        """False when the node is up with its data."""
        attr = self._tree.getattr(ino)
        if attr.upper and not attr.meta:
            return False
        if attr.upper:
            self._complete(ino, attr, size)
            return False
        uncut = attr.nlink > 1 and size < attr.size  # C5: names come one by one
        if not stat.S_ISREG(attr.mode) or not attr.size or (uncut and not self.needs_data(ino)):
            with changing(self._native):
                self.node(ino)
        elif uncut:
            self._copy_up_file(ino, attr, WHOLE, None)
        else:
            self._copy_up_file(ino, attr, size, mtime_ns)
        return True

    def _make_file(self, name: bytes, ino: int, attr: _native.Attr, size: int) -> None:
        """In the work directory, with the first size bytes; 0: a hole as large as the file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._upper.work_fd)
        try:
            if not size:
                os.ftruncate(fd, attr.size)
            elif attr.size:
                self._tree.copy_data(ino, fd, size)
                self._sync_data(fd)
        finally:
            os.close(fd)

    def _sync_data(self, fd: int) -> None:
        if self._sync:
            os.fdatasync(fd)

    def _copy_up_file(self, ino: int, attr: _native.Attr, size: int, mtime_ns: int | None) -> None:
        self._check_links(attr)
        staged = self._upper.temporary()
        try:
            if size:
                self._make_file(staged, ino, attr, size)
            else:
                os.close(os.open(staged, os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._upper.work_fd))
            with changing(self._native):
                if self._tree.getattr(ino).upper:  # its attributes alone came first
                    self._upper.leave(staged)
                else:
                    self._come_up(ino, staged, meta=False, mtime_ns=mtime_ns)
        except OSError:
            self._upper.leave(staged)
            raise

    def _complete(self, ino: int, attr: _native.Attr, size: int) -> None:
        """The data of what came up with its attributes alone (C4)."""
        fd = self._native.pin(ino)
        try:
            with changing(self._native), self.place(ino) as (at, rest):
                self._upper.set_mark(at, rest, HELD, format_held(self._held(ino)))
            try:
                if size:
                    self._tree.copy_data(ino, fd, size)
                    self._sync_data(fd)
            except OSError:
                with suppress(OSError):  # what was copied keeps no room
                    _native.fallocate(fd, _PUNCH_HOLE, 0, attr.size)
                with changing(self._native):
                    self.restore(ino)
                raise
            with changing(self._native):
                self.restore(ino)
                self._make_whole(ino, fd, attr, min(size, attr.size))
        finally:
            self._native.unpin(ino)

    def _make_whole(self, ino: int, fd: int, attr: _native.Attr, size: int) -> None:
        """The data that came are the file's. A cut is done with its first step: so much of the
        layers' data shows from then on, also where the mark cannot go (C4)."""
        cut = size < attr.size
        if cut:
            os.ftruncate(fd, size)
            self._tree.set_attr(ino, size=size, mtime_ns=os.fstat(fd).st_mtime_ns)
        try:
            with self.place(ino) as (at, rest):
                self._upper.remove_mark(at, rest, METACOPY)
        except OSError:
            if cut:
                return
            raise
        st = os.fstat(fd)
        self._tree.set_attr(
            ino, meta=False, size=size, blocks=st.st_blocks, mtime_ns=st.st_mtime_ns
        )

    def _held(self, ino: int) -> Held:
        attr = self._tree.getattr(ino)
        # a mark is not taken by writing
        taken = not self._upper.harmless.files
        capability = self._tree.getxattr(ino, CAPABILITY) if taken else None
        return Held(stat.S_IMODE(attr.mode), attr.atime_ns, attr.mtime_ns, capability)

    def restore(self, ino: int) -> None:
        """What writing its data has taken from an object comes back."""
        attr, upper = self._tree.getattr(ino), self._upper
        mode = stat.S_IMODE(attr.mode)
        capability = self._tree.getxattr(ino, CAPABILITY)
        with self.place(ino) as (at, rest):
            if mode & _SET_ID and not upper.privileged:
                upper.give(at, rest, Owner(attr.uid, attr.gid, mode))
            if capability is not None:
                upper.set_xattr(at, rest, CAPABILITY, capability)
            upper.set_times(at, rest, attr.atime_ns, attr.mtime_ns)
            upper.remove_mark(at, rest, HELD)

    # ---- whole trees ----------------------------------------------------------------------

    def tree(self, top: int) -> None:
        """Brings up a directory and all below it, with data: for who may not leave a redirect."""
        todo = [top]
        while todo:
            here = todo.pop()
            for _, ino, _ in self._tree.readdir(here, 0, 2**31 - 1):
                if stat.S_ISDIR(self._tree.getattr(ino).mode):
                    todo.append(ino)
                else:
                    self.whole(ino)

    def seal(self, top: int) -> None:
        """Makes a directory whose files are up, and those below it, opaque: nothing merges.

        Innermost first, so that what is opaque holds all it shows.
        """
        todo, order = [top], []
        while todo:
            here = todo.pop()
            order.append(here)
            for _, ino, _ in self._tree.readdir(here, 0, 2**31 - 1):
                if stat.S_ISDIR(self._tree.getattr(ino).mode):
                    todo.append(ino)
                else:
                    self.node(ino)
        for directory in reversed(order):
            self.directory(directory)
            self.make_opaque(directory)

    def make_opaque(self, ino: int) -> None:
        """A directory that holds all it shows says so, and then needs its whiteouts no more."""
        attr = self._tree.getattr(ino)
        if attr.layer < 0:
            return
        with self.place(ino) as (fd, rest):
            self._upper.try_mark(fd, rest, ORIGIN, self.lower_path(ino))
            self._upper.make_opaque(fd, rest, attr.atime_ns, attr.mtime_ns)
        self.redirects.pop(ino, None)
        self._tree.set_opaque(ino)
