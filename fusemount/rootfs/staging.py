"""Law: an object comes into an upper, or goes from it, by one rename from or to the work directory.

An object that takes more than one step is made in the work directory.  After a crash, objects that
were made there mean nothing and are removed at the next start.

Users who can write to directories of the upper can put another object at any name of it, and
objects into any directory of theirs, at any time.  So an object that was moved out of the upper has
a name `out-...` in the work directory, and is looked at there.  If it is another object than the
tree knows, it is put back; if users prevent this, it is kept (sweep).  Else it is removed, but only
by unlink(2) or by rmdir(2).  Before the rmdir(2), only those objects in it are removed that show
nothing.

A user can fill a directory with whiteouts, for which no privilege is needed.  So a directory that
has more than EXTRA_NAMES_MAX names besides those that the tree knows counts as not empty.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, islice

from fusemount import _native
from fusemount.beneath import open_beneath
from fusemount.rootfs.objectmarks import METACOPY, OPAQUE, REDIRECT
from fusemount.rootfs.objects import Objects
from fusemount.rootfs.removal import open_to_empty, remove_tree

EXTRA_NAMES_MAX = 1024  # to look at so many takes some 10 ms, and other changes wait
_PUT_BACK_MAX = 64  # names that users may have taken
_OUT = b"out-"  # names in the work directory of objects that come out of the upper
_ORPHAN = b"orphan-"  # native/upper/upperdir.h; never a directory
_KEPT = b"kept-"
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4


class Staging(Objects):
    """Objects on their way between the work directory and the upper. Raises OSError."""

    work_fd: int

    def __init__(self) -> None:
        self._serial = count(1)

    def temporary(self) -> bytes:
        """An unused name in the work directory. Any thread may call this."""
        return b"#%d" % next(self._serial)

    def _outgoing(self) -> bytes:
        """The same, for an object that comes out of the upper."""
        return b"%s%d" % (_OUT, next(self._serial))

    def make_opaque(self, fd: int, path: bytes, atime_ns: int, mtime_ns: int, known: int) -> None:
        """Marks a directory opaque, all of whose names are in the upper, and removes its
        whiteouts.

        known: how many names the tree has there, hidden ones too; ENOTEMPTY for many more."""
        here = open_beneath(fd, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = _names_in(here, known)
            self.mark_times(fd, path, atime_ns, mtime_ns)
            self.set_mark(fd, path, OPAQUE, b"y")
            self.remove_mark(fd, path, REDIRECT)
            for name in names:
                if self._is_whiteout(here, name):
                    os.unlink(name, dir_fd=here)
        finally:
            os.close(here)
        self.restore_times(fd, path, atime_ns, mtime_ns)

    def _is_whiteout(self, fd: int, name: bytes) -> bool:
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISREG(st.st_mode) and st.st_size == 0:
            return self.mark(fd, name, b"whiteout") is not None
        return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0

    def _shows_nothing(self, fd: int, name: bytes) -> bool:
        """Whether an object that the tree does not show may be removed with its directory: a
        whiteout, or attributes of a file whose data the layers do not have (metacopy)."""
        if self._is_whiteout(fd, name):
            return True
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        return stat.S_ISREG(st.st_mode) and self.mark(fd, name, METACOPY) is not None

    def check_empty(self, fd: int, hidden: int) -> None:
        """Raises OSError with ENOTEMPTY if an open directory, which the tree shows as empty, has
        other objects than those that show nothing, or too many.

        hidden: how many names of the layers the directory hides."""
        for name in _names_in(fd, hidden):
            if not self._shows_nothing(fd, name):
                raise _not_empty()

    @contextmanager
    def _whiteout(self) -> Iterator[bytes]:
        """Makes a whiteout in the work directory; it is removed after an error. It has a name for
        the object that it is exchanged for."""
        name = self._outgoing()
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=self.work_fd)
        try:
            yield name
        except OSError:
            self.leave(name)
            raise

    def whiteout(self, fd: int, name: bytes) -> None:
        """Puts a whiteout at a free name, or over an object that is no directory."""
        with self._whiteout() as made:
            os.rename(made, name, src_dir_fd=self.work_fd, dst_dir_fd=fd)

    def replace_dir_by_whiteout(self, fd: int, name: bytes, known: os.stat_result) -> bytes:
        """Exchanges both in one step; returns the directory's name in the work directory.

        OSError with EIO if another object than `known` was at the name; it is put back."""
        with self._whiteout() as made:
            ours = os.stat(made, dir_fd=self.work_fd, follow_symlinks=False)
            _native.renameat2(self.work_fd, made, fd, name, RENAME_EXCHANGE)
        self._check_known(made, known, fd, name, ours)
        return made

    def take_out(self, fd: int, name: bytes, known: os.stat_result) -> bytes:
        """Moves an object into the work directory; returns its name there.

        OSError with EIO if another object than `known` was at the name; it is put back."""
        left = self._outgoing()
        os.rename(name, left, src_dir_fd=fd, dst_dir_fd=self.work_fd)
        self._check_known(left, known, fd, name)
        return left

    def _check_known(
        self,
        left: bytes,
        known: os.stat_result,
        fd: int,
        name: bytes,
        ours: os.stat_result | None = None,
    ) -> None:
        if not self._is(left, known):
            self._put_back(left, fd, name, ours)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _is(self, left: bytes, known: os.stat_result) -> bool:
        return os.path.samestat(os.stat(left, dir_fd=self.work_fd, follow_symlinks=False), known)

    def _put_back(
        self, left: bytes, fd: int, name: bytes, ours: os.stat_result | None = None
    ) -> None:
        """Moves an object `out-...` of the work directory to a name, or beside it if that is taken.

        ours: the object that was put there in exchange; it is removed.  If users prevent all this,
        the object stays for sweep()."""
        with suppress(OSError):
            if ours is not None:
                _native.renameat2(self.work_fd, left, fd, name, RENAME_EXCHANGE)
                if self._is(left, ours):
                    self.leave(left)
                    return
        for n in range(_PUT_BACK_MAX):
            at = b".imgmount-kept-%d" % n if n else name
            try:
                _native.renameat2(self.work_fd, left, fd, at, RENAME_NOREPLACE)
            except FileExistsError:
                continue
            except OSError:
                pass  # the directory was removed, or is full
            return

    def leave_dir(self, left: bytes, fd: int, name: bytes, hidden: int) -> None:
        """Removes a directory, which was taken out and which the tree does not have any more, with
        the objects in it that show nothing.

        A process of a user may have put other objects into it since check_empty().  To keep them,
        the directory is then put back into fd.  Other failures are ignored, as by leave()."""
        with suppress(OSError):
            if not self._removed(left, hidden):
                self._put_back(left, fd, name)

    def _removed(self, left: bytes, hidden: int | None = None) -> bool:
        """Removes a directory of the work directory with the objects in it that show nothing; False
        if it has others, or too many, and then it stays."""
        was = os.stat(left, dir_fd=self.work_fd, follow_symlinks=False)
        here = open_to_empty(self.work_fd, left)
        try:
            try:
                for inner in _names_in(here, hidden):
                    if self._shows_nothing(here, inner):
                        os.unlink(inner, dir_fd=here)
                os.rmdir(left, dir_fd=self.work_fd)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if was.st_uid != os.fstat(here).st_uid:
                    os.fchown(here, was.st_uid, -1)
                os.fchmod(here, stat.S_IMODE(was.st_mode))
                return False
        finally:
            os.close(here)
        return True

    def sweep(self, above: int) -> list[bytes]:
        """Removes what a crash has left in the work directory.

        A directory that was being removed may have objects of others in it, or be another's: it is
        moved to a name `kept-...` in the directory above, the user's work directory, unless it has
        only objects that show nothing. Returns all such names."""
        for name in map(os.fsencode, os.listdir(self.work_fd)):
            is_dir = stat.S_ISDIR(os.stat(name, dir_fd=self.work_fd, follow_symlinks=False).st_mode)
            if not name.startswith(_OUT) and not (is_dir and name.startswith(_ORPHAN)):
                remove_tree(self.work_fd, name)
            elif is_dir:
                if not self._removed(name):
                    self._keep(name, above)
            elif self._is_whiteout(self.work_fd, name):
                os.unlink(name, dir_fd=self.work_fd)
            else:
                self._keep(name, above)
        return [name for name in map(os.fsencode, os.listdir(above)) if name.startswith(_KEPT)]

    def _keep(self, name: bytes, above: int) -> None:
        for n in count(1):
            with suppress(FileExistsError):
                _native.renameat2(self.work_fd, name, above, b"%s%d" % (_KEPT, n), RENAME_NOREPLACE)
                return

    def link_in(self, staged: bytes, fd: int, name: bytes) -> None:
        """Links an object of the work directory to a name that is free, or that a failed copy-up
        has left because it could not be undone."""
        work = self.work_fd
        try:
            os.link(staged, name, src_dir_fd=work, dst_dir_fd=fd, follow_symlinks=False)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                raise
            spare = self.temporary()
            os.link(staged, spare, src_dir_fd=work, dst_dir_fd=work, follow_symlinks=False)
            try:
                os.rename(spare, name, src_dir_fd=work, dst_dir_fd=fd)
            except OSError:
                self.leave(spare)
                raise

    def put_in(self, staged: bytes, fd: int, name: bytes, *, free: bool = False) -> None:
        """Moves an object from the work directory to a free name, or over a whiteout. free: nothing
        is to be replaced (EEXIST)."""
        if stat.S_ISDIR(os.stat(staged, dir_fd=self.work_fd, follow_symlinks=False).st_mode):
            self._put_dir_in(staged, fd, name)
        else:
            flags = RENAME_NOREPLACE if free else 0
            _native.renameat2(self.work_fd, staged, fd, name, flags)

    def _put_dir_in(self, staged: bytes, fd: int, name: bytes) -> None:
        try:
            _native.renameat2(self.work_fd, staged, fd, name, RENAME_NOREPLACE)
            return
        except FileExistsError:  # a whiteout: rename(2) does not replace it by a directory
            left = self._outgoing()
        ours = os.stat(staged, dir_fd=self.work_fd, follow_symlinks=False)
        os.rename(staged, left, src_dir_fd=self.work_fd, dst_dir_fd=self.work_fd)
        try:
            _native.renameat2(self.work_fd, left, fd, name, RENAME_EXCHANGE)
        except OSError:
            self.leave(left)
            raise
        try:
            self._remove(left)
        except OSError:
            self._put_back(left, fd, name, ours)
            raise

    def leave(self, name: bytes) -> None:
        """Removes what a finished operation has left in the work directory: a file or an empty
        directory.  A failure is ignored: the operation is done, and the next start removes the
        rest."""
        with suppress(OSError):
            self._remove(name)

    def _remove(self, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=self.work_fd)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=self.work_fd)


def _not_empty() -> OSError:
    return OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))


def _names_in(fd: int, known: int | None) -> list[bytes]:
    """The names in an open directory. Raises OSError with ENOTEMPTY if it has many more than the
    tree knows; known None: any number."""
    most = None if known is None else known + EXTRA_NAMES_MAX
    with os.scandir(fd) as entries:
        names = [os.fsencode(e.name) for e in islice(entries, most and most + 1)]
    if most is not None and len(names) > most:
        raise _not_empty()
    return names
